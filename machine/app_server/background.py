"""Run the workers and schedules of the release that serves. Standard library only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from common import APP, CONFIG, LIVE, AppServerError, log, manifest_of, run
from symlinks import link_target

UNITS = Path("/etc/systemd/system")
OURS = re.compile(r"app-(worker|schedule)-.*\.(service|timer)")
# The release whose background work runs here, and whether this is the first server: what apply() did last.
APPLIED = APP / "background"
# Schedules run on one server alone; the rollout says on which.
FIRST = CONFIG / "first"


def write_commands(release: str, manifest: dict[str, Any], place: Path) -> None:
    """Put each command into a file of the release, and have systemd read the times. Raises AppServerError."""
    for name, schedule in manifest["schedules"].items():
        read = run("systemd-analyze", "calendar", schedule["calendar"])
        if read.returncode:
            raise AppServerError(
                f"schedules.{name}.calendar of {release}: {read.stderr.strip()} (see `man systemd.time`)"
            )
    folder = place / "background"
    folder.mkdir()
    for kind in ("worker", "schedule"):
        for name, each in manifest[f"{kind}s"].items():
            (folder / f"{kind}-{name}").write_text(each["command"] + "\n")


def set_first(*, is_first: bool) -> None:
    """Remember whether schedules run on this server."""
    if is_first:
        FIRST.touch()
    else:
        FIRST.unlink(missing_ok=True)


def apply() -> None:
    """Start the background work of the release that serves, and stop that of the one before.

    Does not wait for it: a worker that does not start is no reason to roll back a release that serves.
    """
    release = link_target(LIVE)
    state = f"{release} {'first' if FIRST.exists() else 'other'}"
    if release is None or (APPLIED.exists() and APPLIED.read_text() == state):
        return
    manifest = manifest_of(release)
    instances = _units_to_run(manifest)
    files = {name: text for name, text in manifest["units"].items() if _is_used(name, instances)}
    stale = [each for each in _enabled_units() if each not in instances]
    if stale:
        run("systemctl", "disable", "--now", "--no-block", *stale)
        # Otherwise a schedule whose last run failed stays listed as failed.
        run(
            "systemctl",
            "reset-failed",
            *stale,
            *(f"{_stem(each)}.service" for each in stale if each.endswith(".timer")),
        )
    for path in UNITS.iterdir():
        if OURS.fullmatch(path.name) and path.is_file() and path.name not in files:
            path.unlink()
    for name, text in files.items():
        (UNITS / name).write_text(text)
    if files or stale:
        run("systemctl", "daemon-reload")
    if instances:
        run("systemctl", "enable", *instances)
        run("systemctl", "restart", "--no-block", *instances)
        log(f"background work of {release}: {', '.join(instances)}")
    APPLIED.write_text(state)


def _units_to_run(manifest: dict[str, Any]) -> list[str]:
    """Return the units that should run on this server."""
    is_first = FIRST.exists()
    found: list[str] = []
    for name, worker in manifest["workers"].items():
        if is_first or worker["servers"] == "all":
            found += [f"app-worker-{name}@{number}.service" for number in range(1, worker["count"] + 1)]
    return found + [f"app-schedule-{name}.timer" for name in manifest["schedules"] if is_first]


def _is_used(file: str, instances: list[str]) -> bool:
    """Return whether one of the units that run here is made from a unit file."""
    return _stem(file) in map(_stem, instances)


def _stem(unit: str) -> str:
    return re.sub(r"@.*|\.(service|timer)$", "", unit)


def _enabled_units() -> list[str]:
    """Return our units that start at boot, which is what apply() has made run."""
    folders = (UNITS / "multi-user.target.wants", UNITS / "timers.target.wants")
    return [
        path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if OURS.fullmatch(path.name)
    ]
