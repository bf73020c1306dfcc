"""How costs grow with the servers of a fleet: of real machines on LXD, as many as this machine has memory for.

A cost grows evenly if each further server of a large fleet costs no more than one of a small fleet.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from harness.stack import Stack

SIZES = (3, 10, 30)
# A server's own processes take 85 MiB, and its page cache, LXD and what runs meanwhile take the rest.
SERVER_MIB, OTHERS_MIB = 200, 2048
# How often an `up` that changes nothing and a release are repeated; the best of them counts.
REPEATS = 2
# How much more a further server of the largest fleets may cost than one of the smallest. If costs grew with
# the square, it would be 3.1 times as much from 3, 10 to 30 servers, and 10 times from 10, 100 to 1,000.
BOUND = 2.0
# Seconds by which two runs of the same differ anyway.
NOISE_S = 0.1


@dataclass(frozen=True)
class Growth:
    """what: was done, by which command. seconds: by the number of servers, ascending; two sizes or more."""

    what: str
    command: str
    seconds: Mapping[int, float]

    def further_s(self) -> list[float]:
        """Return what each further server costs, in seconds, from each size to the next one."""
        sizes = list(self.seconds)
        return [(self.seconds[large] - self.seconds[small]) / (large - small) for small, large in pairwise(sizes)]

    def ratio(self) -> float | None:
        """Return how many times the cost at the smallest sizes is that at the largest; None with two sizes."""
        sizes, costs = list(self.seconds), self.further_s()
        if len(costs) < 2:
            return None
        least = [NOISE_S / (large - small) for small, large in ((sizes[0], sizes[1]), (sizes[-2], sizes[-1]))]
        return max(costs[-1], least[1]) / max(costs[0], least[0])


def seconds(work: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    start_s = time.monotonic()
    work()
    return time.monotonic() - start_s


def available_mib() -> int:
    """Return how much memory programs can still get, in MiB."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) // 1024


def fitting(sizes: Sequence[int], memory_mib: int) -> tuple[list[int], str]:
    """Return the sizes that so much memory allows, and a sentence about the others; "" if all fit.

    The two smallest are always among them: without those nothing can be said of growth.
    """
    fit = [*sizes[:2], *(size for size in sizes[2:] if size * SERVER_MIB + OTHERS_MIB <= memory_mib)]
    left = [str(size) for size in sizes if size not in fit]
    why = f"Not measured with {' and '.join(left)} servers: {memory_mib} MiB of memory were available."
    return fit, why * bool(left)


def measure(name: str, sizes: Sequence[int], pause: Callable[[], None]) -> dict[str, dict[int, float]]:
    """Return the seconds of a first `up`, one that changes nothing, and a release, each by the number of servers.

    pause: called before each stack, when nothing of the one before is left.
    """
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for size in sizes:
        pause()
        with tempfile.TemporaryDirectory(prefix="wsgi-fleet-bench-") as folder:
            stack = Stack.make(f"{name}{size}", Path(folder))
            stack.app["fleet"] = {"servers": size, "size": {"memory_mib": 384}}
            found["first `up`"][size] = seconds(stack.up)
            found["`up` that changes nothing"][size] = min(seconds(stack.up) for _ in range(REPEATS))
            releases = list[float]()
            for version in range(REPEATS):
                stack.set_version(f"{version} over {size}")
                releases.append(seconds(stack.up))
            found["release"][size] = min(releases)
            stack.destroy()
    return found
