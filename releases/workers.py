"""Workers beside the application that end as soon as they are started: the release serves, but a person must know."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from releases.cause import shorten
from releases.fleet import Fleet, Server, ServerFailure
from settings.words import count

# Seconds for a worker to end and be started again (RestartSec=2 of its unit) twice.
WATCH_S = 5.0
# Lines of its log to read: the tracebacks of more than one start.
LINES = 60
UNIT = "app-worker-"


def report_ended_workers(fleet: Fleet, servers: Sequence[Server], manifest: bytes) -> None:
    """Watch the workers of a release for WATCH_S seconds and print for each that has ended what it logged last."""
    if not json.loads(manifest).get("workers"):
        return
    time.sleep(WATCH_S)
    for server in servers:
        try:
            for unit, times in fleet.status(server).restarts.items():
                if unit.startswith(UNIT):
                    fleet.log(_describe(fleet, server, unit, times))
        except ServerFailure as failure:
            fleet.log(f"its workers are not known: {failure}")


def _describe(fleet: Fleet, server: Server, unit: str, times: int) -> str:
    text = fleet.journal(server, "workers", f"--lines={LINES}", f"_SYSTEMD_UNIT={unit}")
    lines = [f"    {line}" for line in fleet.clean(text).splitlines() if line.strip()] or ["    (it logged nothing)"]
    name = unit.removeprefix(UNIT).removesuffix(".service")
    ended = f"worker {name} has ended {count(times, 'time')} since it was started with this release"
    first = f"warning: {server.name}: {ended}"
    return shorten("\n".join([f"{first}; it is started again for ever. Its last lines:", *lines]))
