#!/usr/bin/env python3
"""Writes what this machine knows of itself as metrics, each INTERVAL_S seconds, for node-exporter's textfile collector.

Runs as root as a unit, because what it reads is root's. It listens nowhere. Standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exposition import Metrics
from system import notify_systemd, write_atomically

# Written by the step that brings this script: {"app": NAME}, or {"hosts": ..., "apps": ...} of the balancer.
CONFIG = Path("/etc/wsgi-fleet/monitoring.json")
# RuntimeDirectory= of the unit, where node-exporter looks.
FILE = Path("/run/wsgi-fleet-exporter/wsgi_fleet.prom")
INTERVAL_S = 5.0

Part = Callable[[Metrics], None]


def find_parts(config: Mapping[str, Any]) -> Mapping[str, Part]:
    """Return what this machine reports: part -> what adds its metrics."""
    # Each tier has modules of its own.
    if "app" in config:
        from app_server_metrics import AppServer  # noqa: PLC0415

        return AppServer(config["app"]).parts
    if "hosts" in config:
        from balancer_metrics import LOG, Balancer, Routes, VirtualHost  # noqa: PLC0415
        from log_tail import LogTail  # noqa: PLC0415

        routes = Routes([VirtualHost(*each) for each in config["hosts"]], config["apps"])
        return Balancer(routes, LogTail(LOG)).parts
    raise ValueError(f"{CONFIG} is not what a step writes; `pulumi up --replace '**-metrics'` writes it anew")


class Writer:
    """Collects the parts and writes the file. A part that fails is missing from it, and its error is logged once."""

    def __init__(self, parts: Mapping[str, Part], file: Path = FILE) -> None:
        self._parts, self._file = parts, file
        self._errors: dict[str, str] = {}

    def write(self) -> None:
        """Collect all parts and write the file anew. Raises OSError where it cannot be written."""
        metrics = Metrics()
        for name, add in self._parts.items():
            error = ""
            try:
                add(metrics)
            # One part must not take the others with it, whatever is in the files that it reads.
            except Exception as problem:  # noqa: BLE001
                error = repr(problem)
            metrics.add("collection_success", not error, part=name)
            if error and error != self._errors.get(name):
                # "<3>": an error to journald.
                print(f"<3>{name}: cannot be read: {error}", file=sys.stderr, flush=True)
            self._errors[name] = error
        write_atomically(self._file, metrics.text().encode())


def main() -> None:
    """Write each INTERVAL_S seconds, until this process is stopped."""
    writer = Writer(find_parts(json.loads(CONFIG.read_text())))
    state = b"READY=1"
    while True:
        begin = time.monotonic()
        writer.write()
        notify_systemd(state)
        state = b"WATCHDOG=1"
        time.sleep(max(INTERVAL_S - (time.monotonic() - begin), 1.0))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, subprocess.SubprocessError) as error_:
        sys.exit(f"<3>error: {error_}")
