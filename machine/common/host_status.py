"""Report the clock, the disk and the failed units of this machine. Standard library only."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import time
from typing import Any


def host_status() -> dict[str, Any]:
    """Return this machine's clock, operating system, Python, system state, failed units and disk.

    clock_s: seconds since 1970 by this machine's own clock. os: as `wsgi-fleet:os` calls it, such as debian-13.
    system: starting, running, degraded, ...
    Sizes are those of the root file system. disk_error: why it cannot be written, else ""; a quota of the host (LXD)
    is not in the size. releases/status.py has the types.
    """
    output = subprocess.run(
        ["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"],
        check=False, capture_output=True, text=True,
    ).stdout  # fmt: skip
    state = subprocess.run(["systemctl", "is-system-running"], check=False, capture_output=True, text=True).stdout
    disk, release = shutil.disk_usage("/"), platform.freedesktop_os_release()
    return {
        "disk_bytes": disk.total,
        "disk_free_bytes": disk.free,
        "disk_error": write_error(),
        "failed_units": [line.split()[0] for line in output.splitlines() if line.strip()],
        "system": state.strip(),
        "clock_s": time.time(),
        "os": f"{release['ID']}-{release.get('VERSION_ID', '')}",
        "python": platform.python_version(),
    }


def write_error(folder: str = "/var/tmp") -> str:  # noqa: S108  it is asked of the disk, and gone at once
    """Return why a file of 256 KiB cannot be written, or ""."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 18))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""
