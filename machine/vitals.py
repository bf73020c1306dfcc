"""What is worth knowing of any machine: its clock, its disk, its failed units. Standard library only."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any


def vitals() -> dict[str, Any]:
    """clock_s: seconds since 1970 by this machine's own clock. system: starting, running, degraded, ...

    Sizes are those of the root file system.
    """
    listed = subprocess.run(
        ["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"],
        check=False, capture_output=True, text=True,
    ).stdout  # fmt: skip
    state = subprocess.run(["systemctl", "is-system-running"], check=False, capture_output=True, text=True).stdout
    disk = shutil.disk_usage("/")
    return {
        "disk_bytes": disk.total,
        "disk_free_bytes": disk.free,
        "failed_units": [line.split()[0] for line in listed.splitlines() if line.strip()],
        "system": state.strip(),
        "clock_s": time.time(),
    }
