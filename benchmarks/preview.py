"""What the program itself costs a preview of prod, as its fleet grows: without an engine, plugins or AWS.

    python -m benchmarks.preview               10, 100 and 1,000 servers; 20 applications of 50 servers
    python -m benchmarks.preview SERVERS...    as many as you like; 20x50: of so many applications

Each size runs in a process of its own, on the mock engine, which answers at once: seconds and memory are
the program's and the SDK's. Goals are in docs/performance.md; `make bench` writes them. settings/ allows 1,000 servers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# (applications, servers of each)
SIZES = ((1, 10), (1, 100), (1, 1000), (20, 50))


@dataclass(frozen=True)
class Preview:
    """servers: of each application. seconds: the run of the program. mib: peak memory.

    base_s: of those seconds, what a fleet of one server takes.
    """

    applications: int
    servers: int
    resources: int
    seconds: float
    base_s: float
    mib: float

    @property
    def ms_per_server(self) -> float:
        """Return what each server beyond the first costs, in ms."""
        return 1000 * (self.seconds - self.base_s) / max(self.applications * self.servers - 1, 1)


def measure(applications: int, servers: int) -> Preview:
    """Preview prod with that many applications of so many servers, in this process."""
    from harness import program  # noqa: PLC0415  what imports cost is no part of it

    given = program.stack_file("prod")["apps"]["hello"]

    def run(number: int, count: int) -> tuple[int, float]:
        one = given | {"fleet": given["fleet"] | {"servers": count}}
        apps = {"hello": one} | {f"hello-{each}": one | {"path": f"/{each}"} for each in range(2, number + 1)}
        begun = time.monotonic()
        build = program.plan("prod", preview=True, apps=apps)
        return len(build.resources), time.monotonic() - begun

    with tempfile.TemporaryDirectory() as folder:
        program.project(Path(folder))
        with contextlib.chdir(folder):
            run(1, 1)
            _, base = run(1, 1)
            resources, seconds = run(applications, servers)
    # In KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Preview(applications, servers, resources, seconds, base, peak)


def measure_all(sizes: Sequence[tuple[int, int]] = SIZES) -> list[Preview]:
    """Measure each size in a process of its own, so that each peak is its own."""
    found: list[Preview] = []
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.preview", "--one", "{}x{}".format(*size)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(Preview(**json.loads(out)))
    return found


def size_of(each: Preview) -> str:
    """Return how many servers a preview has, and of how many applications where those are more than one."""
    return f"{each.applications}x{each.servers}" if each.applications > 1 else str(each.servers)


def table(previews: list[Preview]) -> str:
    """Return a text table of the previews."""
    rows = [f"{'preview of prod':20}{'resources':>10}{'seconds':>9}{'ms each':>9}{'MiB':>7}"]
    rows += [
        f"{size_of(each):>12} servers{each.resources:10}{each.seconds:9.1f}{each.ms_per_server:9.1f}{each.mib:7.0f}"
        for each in previews
    ]
    return "\n".join(rows)


def parse_size(text: str) -> tuple[int, int]:
    """Return applications and servers of each, of a size as size_of() shows it. Raises ValueError."""
    applications, _, servers = text.rpartition("x")
    return int(applications or 1), int(servers)


def main() -> None:
    """Print the table of previews, or with --one a single preview as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=parse_size, default=SIZES, metavar="SERVERS")
    parser.add_argument("--one", type=parse_size, help="print one preview as JSON", metavar="SERVERS")
    given = parser.parse_args()
    print(json.dumps(asdict(measure(*given.one))) if given.one else table(measure_all(given.sizes)))


if __name__ == "__main__":
    main()
