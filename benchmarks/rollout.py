"""What a rollout itself costs, as its fleet grows: over servers in memory, each of whose commands takes a set time.

    python -m benchmarks.rollout              10, 100 and 1,000 servers
    python -m benchmarks.rollout SERVERS...   as many as you like

Goal: no server dearer for having more beside it. 16 are worked on at a time (releases/fleet.py).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platforms.lxd.store import DirectoryStore
from platforms.transport import Result
from releases.fleet import STATUS_COMMAND, Server
from releases.plan import Plan
from releases.release import Release
from releases.rollout import Rollout
from releases.status import ReleaseStatus

SIZES = (10, 100, 1000)
# What a command by SSH takes at least, in seconds.
COMMAND_S = 0.1


class Servers:
    """The Transport protocol over servers in memory. Safe for threads."""

    def __init__(self) -> None:
        self._live: dict[str, str] = {}
        self._staged: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def exec(self, machine: str, command: Sequence[str], **_: Any) -> Result:
        """Do what release.py and app_status.py would, after COMMAND_S."""
        time.sleep(COMMAND_S)
        with self._lock:
            staged = self._staged.setdefault(machine, set())
            if command[0] == STATUS_COMMAND:
                live = self._live.get(machine)
                status = ReleaseStatus(live=live, slots={}, staged=sorted(staged), socket="active", restarts={})
                return Result(0, status.model_dump_json())
            verb, release = command[1:3]
            if verb == "stage":
                staged.add(release)
            if verb == "switch":
                self._live[machine] = release
        return Result(0, "")


@dataclass(frozen=True)
class Measured:
    """seconds: of a release that takes the place of another one."""

    servers: int
    seconds: float


def measure(servers: int) -> Measured:
    """Bring two releases to so many servers, and time the second one."""
    with tempfile.TemporaryDirectory() as folder:
        store, transport = DirectoryStore(Path(folder) / "store"), Servers()
        archive = Path(folder) / "code.tar.gz"
        archive.write_bytes(gzip.compress(b"files"))
        seconds = 0.0
        for number in (1, 2):
            manifest = {"number": number, "tar_sha256": hashlib.sha256(b"files").hexdigest()}
            plan = Plan(
                "app",
                Release(manifest=json.dumps(manifest).encode(), archive=archive),
                [Server(f"app-{each}", f"app-{each}") for each in range(1, servers + 1)],
                {},
                stage_timeout_s=60,
                start_timeout_s=60,
                drain_timeout_s=60,
                task_timeout_s=60,
                batch_size="50%",
                bake_s=0,
                allow_unreachable=0,
                keep_releases=5,
            )
            start_s = time.monotonic()
            Rollout(plan, transport, store, lambda _: None).run()
            seconds = time.monotonic() - start_s
    return Measured(servers, seconds)


def table(found: Sequence[Measured]) -> str:
    """Return a text table."""
    rows = [f"{'rollout in memory':28}{'seconds':>9}{'ms each':>9}"]
    rows += [
        f"{each.servers:>20} servers{each.seconds:9.1f}{1000 * each.seconds / each.servers:9.1f}" for each in found
    ]
    return "\n".join(rows)


def measure_all(sizes: Sequence[int] = SIZES) -> list[Measured]:
    """Measure each size."""
    return [measure(size) for size in sizes]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", type=int, default=SIZES)
    print(table(measure_all(parser.parse_args().servers)))


if __name__ == "__main__":
    main()
