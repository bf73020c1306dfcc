"""Measure served requests, for every contestant on the same machines: `make bench-serve`.

    python -m benchmarks.serve.run             five rounds, about 18 minutes
    python -m benchmarks.serve.run --quick     one round of a second each, about 5 minutes; writes no page

It writes benchmarks/results/serve-<time>.json, and the tables and plots of docs/performance.md.
`--page FILE` makes these again from such a file, without measuring.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.pages import make_parser
from benchmarks.results import describe_run, measure_other_work, removing_leftovers
from benchmarks.serve import page
from benchmarks.serve.contestants import CONTESTANTS
from benchmarks.serve.machines import Machines
from benchmarks.serve.works import WORKS
from benchmarks.serve.wrk import Sample

ROUNDS, SECONDS, WARM_S = 5, 1, 1


def measure(machines: Machines, rounds: int, seconds: float, minutes: float) -> dict[str, Any]:
    """Return the samples of each work of each contestant, one of each round, in which all take their turns.

    Every second round goes backwards, so that no contestant is always the first. minutes: a round does not begin if it
    would end later than so many minutes after the start; it is expected to take as long as the round before it.
    """
    begin_s = time.monotonic()
    found: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    other_work = list[float]()
    for number in range(rounds):
        other_work.append(measure_other_work())
        start_s = time.monotonic()
        for contestant in CONTESTANTS if number % 2 == 0 else reversed(CONTESTANTS):
            cells = [work for work in WORKS if contestant.name in work.of]
            with machines.serving(contestant):
                for work in cells if number == 0 else ():
                    machines.check(contestant, work)
                most_rps = 0.0
                for work in cells:
                    if work == cells[0] or work.warm:
                        machines.measure(contestant, work, WARM_S)
                    sample = machines.measure(contestant, work, seconds, work.load * most_rps)
                    most_rps = most_rps or sample.rps
                    found[contestant.name][work.name].append(sample.values())
                    print(f"{contestant.name:16} {work.name:12} {_line(sample)}", flush=True)
        took_s = time.monotonic() - start_s
        print(f"round {number + 1} of {rounds}: {took_s:.0f} s", file=sys.stderr, flush=True)
        if time.monotonic() - begin_s + took_s > 60 * minutes:
            break
    return {"rounds": len(other_work), "samples": found, "other_work": other_work}


def _line(sample: Sample) -> str:
    lost = f"  {sample.errors} errors, {sample.timeouts} without an answer" * bool(sample.errors or sample.timeouts)
    return f"{sample.rps:9,.0f} requests/s  p99 {sample.p99_ms:8.1f} ms{lost}"


def run(rounds: int, seconds: float, minutes: float = math.inf) -> dict[str, Any]:
    """Make the machines, measure, remove the machines, and return what is kept as JSON."""
    with removing_leftovers("serve"), tempfile.TemporaryDirectory(prefix="wsgi-fleet-bench-") as folder:
        machines = Machines(Path(folder))
        result = machines.description() | measure(machines, rounds, seconds, minutes)
        machines.destroy()
    return describe_run() | {"seconds": seconds} | result


def main() -> None:
    """Run what the arguments say."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no round that would end later")
    given = parser.parse_args()
    page.PART.run(given, lambda: run(1, 1) if given.quick else run(given.rounds, SECONDS, given.minutes))


if __name__ == "__main__":
    main()
