"""Measure how long a user waits, with the real engine and real machines on this machine: `make bench`.

    python -m benchmarks.run             three runs, growth, previews and rollouts; about 15 minutes
    python -m benchmarks.run --quick     everything once and small, about 3 minutes; writes no page

It writes benchmarks/results/times-<time>.json, and the part "Time to serving" of docs/performance.md with its plots.
`--page FILE` makes these again from such a file, without measuring. The image of the machines is built before the
first run: it is made once for each recipe. Seconds of one machine say little about another; goals are for two cores.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth, preview, profile, rollout, times
from benchmarks.clients import FirstResponse, SteadyClient
from benchmarks.pages import make_parser
from benchmarks.results import describe_run, measure_other_work, removing_leftovers
from harness.stack import Stack

RUNS, LOAD_S = 3, 5


@dataclasses.dataclass(frozen=True)
class Amount:
    """runs: how often a stack is made and removed. The rest: sizes of fleets, as the modules of these names have."""

    runs: int = RUNS
    machines: Sequence[int] = growth.SIZES
    previews: Sequence[tuple[int, int]] = preview.SIZES
    rollouts: Sequence[int] = rollout.SIZES


QUICK = Amount(1, (1, 2, 4), ((1, 10), (1, 50), (1, 100), (2, 50)), (10, 50, 100))


def run_once(stack: Stack, phases: dict[str, profile.Times], measured: dict[str, list[float]]) -> None:
    """Measure the life of one stack, from its first `up` to its destruction, and add the results."""
    profile.run_once(stack, phases)
    with SteadyClient(stack.url) as asking:
        time.sleep(LOAD_S)
        before_s = asking.p99_s()
        profile.change_code(stack)
        # Its id must be neither the one nor the other's.
        profile.change_code(stack)
        stack.up()
        measured[times.P99].append(asking.p99_s() / before_s)
    measured[times.SCALE_OUT].append(scale_out(stack))
    stack.destroy()


def scale_out(stack: Stack) -> float:
    """Add a server to a stack that is up, and return how many seconds later it served."""
    known = set(stack.servers().values())
    stack.app["fleet"] = {"servers": len(known) + 1}
    start_s = time.monotonic()
    new = FirstResponse(stack.url, lambda text: server_of(text) not in known)
    new.start()
    stack.up()
    return new.seconds_since(start_s)


def server_of(text: str) -> str:
    """Return the server that a response of the Flask example names."""
    found = re.search(r" from (\S+), release ", text)
    assert found, text
    return found[1]


def measure(amount: Amount) -> dict[str, Any]:
    """Measure everything, and return what is kept as JSON."""
    phases: dict[str, profile.Times] = defaultdict(lambda: defaultdict(list))
    measured: dict[str, list[float]] = defaultdict(list)
    other_work = [measure_other_work()]
    sizes, skipped = growth.fitting(amount.machines, growth.available_mib())
    with removing_leftovers("bench"):
        with tempfile.TemporaryDirectory(prefix="wsgi-fleet-bench-") as folder:
            # This builds the image where it is missing, and is not counted.
            warm = Stack.make("bench-warm", Path(folder))
            warm.app["fleet"] = {"servers": 1}
            warm.up()
            warm.destroy()
        for number in range(amount.runs):
            other_work.append(measure_other_work())
            with tempfile.TemporaryDirectory(prefix="wsgi-fleet-bench-") as folder:
                run_once(profile.make_stack(f"bench{number}", Path(folder)), phases, measured)
            print(f"run {number + 1} of {amount.runs} done", file=sys.stderr, flush=True)
        machines = growth.measure("bench-of-", sizes, lambda: other_work.append(measure_other_work()))
    print(f"growth over {sizes} servers done", file=sys.stderr, flush=True)
    previews, rollouts = preview.measure_all(amount.previews), rollout.measure_all(amount.rollouts)
    other_work.append(measure_other_work())
    return describe_run() | {
        "runs": amount.runs, "other_work": other_work, "phases": phases, "measured": measured,
        "machines": machines, "skipped": skipped,
        "previews": [dataclasses.asdict(each) for each in previews],
        "rollouts": [dataclasses.asdict(each) for each in rollouts],
    }  # fmt: skip


def main() -> None:
    """Run what the arguments say."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="how often a stack is made and removed")
    given = parser.parse_args()
    times.PART.run(given, lambda: measure(QUICK if given.quick else Amount(given.runs)))


if __name__ == "__main__":
    main()
