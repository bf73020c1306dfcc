"""Times what a user waits for, on this machine, with the real engine and real machines.

    make bench                        three runs
    python -m benchmarks.run RUNS     as many as you like

Prints tables (those of benchmarks/preview.py and benchmarks/rollout.py among them) and writes
benchmarks/results/<time>.json. The image of the machines is built before the first run: it is made once for each
recipe. Seconds of one machine say little about another; the goals are for two cores.
"""

from __future__ import annotations

import dataclasses
import os
import re
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks import preview, rollout
from benchmarks.results import describe_run, keep, removing_leftovers
from harness.stack import Stack

SIZES = (3, 6, 12)
CLIENTS, LOAD_S = 8, 5
P99 = "p99 in a release / before"

# Seconds on two cores, and a ratio.
GOALS = {
    "up to the first 200": 20.0,
    "up, to its end": None,
    "up that changes nothing": 4.0,
    "release of new code": 10.0,
    "rollback": 3.0,
    P99: 2.0,
    "destroy": 10.0,
    **{f"release over {servers} servers": None for servers in SIZES},
}


def seconds(work: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    start_s = time.monotonic()
    work()
    return time.monotonic() - start_s


class FirstResponse(threading.Thread):
    """Asks a URL until it responds with status 200. at: when it did, as time.monotonic()."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.at = 0.0
        self._url = url

    def run(self) -> None:
        """Implement Thread.run: request the URL until it succeeds, for at most 600 seconds."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self._url, timeout=2) as response:
                    response.read()
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
                continue
            self.at = time.monotonic()
            return


class SteadyClient:
    """Clients that ask without pause, each on a fresh connection, and keep how long each answer took."""

    def __init__(self, url: str) -> None:
        self._url, self._seconds, self._ended = url, list[float](), threading.Event()
        self._clients = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> SteadyClient:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for client in self._clients:
            client.join()

    def p99_s(self) -> float:
        """Return the 99th percentile, in seconds, of all responses since the last call."""
        found, self._seconds = self._seconds, []
        return statistics.quantiles(found, n=100)[98]

    def _ask(self) -> None:
        while not self._ended.is_set():
            start_s = time.monotonic()
            with urllib.request.urlopen(self._url, timeout=30) as response:
                response.read()
            self._seconds.append(time.monotonic() - start_s)
            time.sleep(0.02)


def scale(name: str, folder: Path, times: dict[str, list[float]]) -> None:
    """Measure what each further server costs a release."""
    stack = Stack.make(name, folder)
    for servers in SIZES:
        stack.app["fleet"] = {"servers": servers, "size": {"memory_mib": 384}}
        stack.up()
        stack.set_version(f"over {servers}")
        times[f"release over {servers} servers"].append(seconds(stack.up))
    stack.destroy()


def run_once(name: str, folder: Path, times: dict[str, list[float]]) -> None:
    """Measure the life of one stack, from its first `up` to its destruction, and add the results to `times`."""
    stack = Stack.make(name, folder, source="examples/flask-hello", module="hello.wsgi:app", health_path="/healthz")
    stack.app["generated_secrets"] = ["HELLO_SECRET_KEY"]
    first = FirstResponse(stack.url)
    first.start()
    start_s = time.monotonic()
    stack.up()
    times["up, to its end"].append(time.monotonic() - start_s)
    first.join(timeout=10)
    times["up to the first 200"].append(first.at - start_s)
    times["up that changes nothing"].append(seconds(stack.up))
    code = stack.folder / "examples" / "flask-hello" / "hello" / "defaults.py"
    code.write_text(re.sub('GREETING = ".*"', 'GREETING = "Again"', code.read_text()))
    times["release of new code"].append(seconds(stack.up))
    times["rollback"].append(seconds(lambda: stack.fleet("rollback", "--yes").check_returncode()))
    with SteadyClient(stack.url) as asking:
        time.sleep(LOAD_S)
        before = asking.p99_s()
        code.write_text(code.read_text() + "# again\n")
        stack.up()
        times[P99].append(asking.p99_s() / before)
    times["destroy"].append(seconds(stack.destroy))


def table(times: dict[str, list[float]]) -> str:
    """Return a text table of the times and their goals."""
    rows = [f"{'seconds':28}{'min':>8}{'median':>8}{'max':>8}{'goal':>8}"]
    for name, goal in GOALS.items():
        found = times[name]
        middle = statistics.median(found)
        shown = f"{goal:.0f}" if goal else "-"
        rows.append(f"{name:28}{min(found):8.1f}{middle:8.1f}{max(found):8.1f}{shown:>8}")
    return "\n".join(rows)


def main(arguments: list[str]) -> None:
    """Run the benchmarks, print their tables and write the results as JSON."""
    runs = int(arguments[0]) if arguments else 3
    times: dict[str, list[float]] = defaultdict(list)
    with removing_leftovers("bench"):
        for number in range(runs + 1):
            with tempfile.TemporaryDirectory(prefix="wsgi-fleet-bench-") as folder:
                # The first run builds the image where it is missing, and is not counted.
                run_once(f"bench{number}", Path(folder), times if number else defaultdict(list))
                print(f"run {number} of {runs} done" if number else "warm", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="wsgi-fleet-bench-") as folder:
            scale("bench-scale", Path(folder), times)
    previews, rollouts = preview.measure_all(), rollout.measure_all()
    result = describe_run() | {
        "seconds": {name: [round(each, 2) for each in found] for name, found in times.items()},
        "previews": [dataclasses.asdict(each) for each in previews],
        "rollouts": [dataclasses.asdict(each) for each in rollouts],
    }
    file = keep(result)
    print(f"{os.cpu_count()} cores, {runs} runs\n{table(times)}\n")
    print(f"{preview.table(previews)}\n\n{rollout.table(rollouts)}")
    print(f"kept in {file}")


if __name__ == "__main__":
    main(sys.argv[1:])
