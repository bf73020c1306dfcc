"""Find Prometheus' own tool, promtool, which checks metrics, rules and configurations."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsgi-fleet" / "promtool"


@cache
def promtool() -> str | None:
    """Return the path of promtool; None where there is none, and apt-get does not bring it.

    It is in Debian's package prometheus, which would start a service if it was installed: it is unpacked instead.
    """
    if found := shutil.which("promtool", path=f"{os.environ['PATH']}:{CACHE}"):
        return found
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(["apt-get", "download", "-qq", "prometheus"], cwd=folder, check=True, capture_output=True)
            package = next(Path(folder).glob("*.deb"))
            subprocess.run(["dpkg", "-x", package, folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError, StopIteration):
            return None
        CACHE.mkdir(parents=True, exist_ok=True)
        # At once, for other tests may look for it now.
        new = CACHE / f".{os.getpid()}"
        shutil.copy(Path(folder) / "usr" / "bin" / "promtool", new)
        new.rename(CACHE / "promtool")
    return str(CACHE / "promtool")


def check(*arguments: str, stdin: str = "") -> str:
    """Return what promtool prints. Raises AssertionError with it when promtool finds a fault."""
    tool = promtool()
    assert tool
    result = subprocess.run([tool, *arguments], check=False, capture_output=True, text=True, input=stdin)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr
