#!/usr/bin/env python3
"""Waits until cloud-init is done, then makes files and units of this machine what standard input says, as JSON.

boot_s: longest wait for cloud-init in seconds. files: path -> [mode, text], written atomically. on: units that run from
now on and after each boot. off: units that do not, which are removed, and paths of other files that are. prove: units
that must start well, tried again for PROVE_S seconds (a new role takes a while). packages: Debian packages to install
before that; a unit of theirs that has a file here starts with that. Run as root by a step; can be run again. Standard
library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

UNITS = Path("/etc/systemd/system")
PROVE_S = 90.0
# Of both tiers, from their boot.
INSTALL = "/usr/local/lib/wsgi-fleet/install-packages"
PAUSE_S = 3.0
# cloud-init writes the first file last, whether all went well or not, and removes it when it begins; the setup script
# touches the other one when it did.
DONE, READY = Path("/var/lib/cloud/data/result.json"), Path("/etc/wsgi-fleet/ready")
# Commands that show why a machine did not get ready.
CAUSES = r"""cloud-init status --long | tr '\n' ' '
grep -E 'WARNING|ERROR|CRITICAL' /var/log/cloud-init.log | tail -n 5
echo 'the last lines of /var/log/cloud-init-output.log:'
tail -n 15 /var/log/cloud-init-output.log
systemctl --no-pager --plain --no-legend --failed"""


class ApplyError(Exception):
    """The files or units cannot be applied to this machine."""


def systemctl(*arguments: str) -> None:
    """Run systemctl. Raises ApplyError with its error message."""
    result = subprocess.run(["systemctl", "--quiet", *arguments], check=False, capture_output=True, text=True)
    if result.returncode:
        raise ApplyError(f"systemctl {' '.join(arguments)}: {result.stderr.strip()}")


def wait_for_cloud_init(limit_s: float) -> None:
    """Wait until cloud-init has finished. Raises ApplyError with its errors."""
    deadline = time.monotonic() + limit_s
    while not DONE.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if not (DONE.exists() and READY.exists()):
        causes = subprocess.run(["sh", "-c", CAUSES], check=False, capture_output=True, text=True).stdout.strip()
        raise ApplyError(f"cloud-init failed on this machine: {causes}")


def write_file(path: Path, mode: int, text: str) -> None:
    """Write a file that was never there by half."""
    if path.is_dir():
        raise ApplyError(f"{path} is a folder and must be a file: move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.touch(0o600)
        temporary.write_text(text)
        temporary.chmod(mode)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_files(spec: dict[str, Any]) -> None:
    """Write the files of a parsed input."""
    for path, (mode, text) in spec["files"].items():
        write_file(Path(path), int(mode, 8), text)


def install(packages: Sequence[str]) -> None:
    """Install Debian packages. Raises ApplyError with what apt printed last."""
    result = subprocess.run([INSTALL, *packages], check=False, capture_output=True, text=True)
    if result.returncode:
        raise ApplyError(result.stderr.strip()[-2000:].removeprefix("error: "))


def prove(unit: str) -> None:
    """Start a unit, again until that succeeds or PROVE_S is over. Raises ApplyError with what it logged last."""
    deadline = time.monotonic() + PROVE_S
    while True:
        try:
            systemctl("restart", unit)
            return
        except ApplyError as error:
            if time.monotonic() > deadline:
                raise ApplyError(f"{error}\n{last_log_lines(unit)}") from None
        time.sleep(PAUSE_S)
        subprocess.run(["systemctl", "reset-failed", unit], check=False, capture_output=True)


def last_log_lines(unit: str) -> str:
    """Return the last lines of a unit's journal."""
    command = ["journalctl", f"--unit={unit}", "--lines=5", "--no-pager", "--output=cat"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def parse(text: str) -> dict[str, Any]:
    """Return what standard input says. Raises ApplyError unless it is of files_to_apply in rendering/common.py."""
    try:
        spec: Any = json.loads(text)
        named: list[Any] = [*spec["off"], *spec["on"], *spec["prove"], *spec.get("packages", [])]
        ok = all(isinstance(name, str) for name in named)
        ok = ok and all(int(mode, 8) >= 0 and isinstance(text, str) for mode, text in spec["files"].values())
        ok = ok and isinstance(spec["boot_s"], int | float)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ApplyError(f"standard input is no list of files and units: {error!r}") from error
    if not ok:
        raise ApplyError("standard input is no list of files and units: a value has the wrong type")
    return spec


def apply(spec: dict[str, Any], units: Path = UNITS) -> None:
    """Make it so. Raises ApplyError."""
    wait_for_cloud_init(spec["boot_s"])
    existing = [name for name in spec["off"] if (units / name).exists()]
    if removed := [name for name in existing if not name.startswith("/")]:
        systemctl("disable", "--now", "--no-reload", *removed)
    for name in existing:
        (units / name).unlink()
    write_files(spec)
    # Also where nothing is left to do: a run that was killed may have done it and not reloaded.
    if [*spec["off"], *spec["on"], *spec["prove"]] or any(path.startswith(f"{units}/") for path in spec["files"]):
        systemctl("daemon-reload")
    if packages := spec.get("packages"):
        install(packages)
    for unit in spec["prove"]:
        prove(unit)
    for unit in spec["on"]:
        # What is loaded stays as it is: only links change.
        systemctl("enable", "--no-reload", unit)
        # A running unit uses its new file then.
        if unit not in spec["prove"]:
            systemctl("restart", unit)


if __name__ == "__main__":
    try:
        apply(parse(sys.stdin.read()))
    except (ApplyError, OSError) as problem:
        sys.exit(f"error: {problem}")
