"""Say where the seconds of an `up`, a release and a rollback go, phase by phase, on this machine.

    make bench-profile                 three runs
    python -m benchmarks.profile RUNS  as many as you like

Each run makes a stack of three servers and a balancer on LXD. Its phases are taken from the engine's events, from the
journal of the release, and from cloud-init and systemd on a server. The table has the median of the runs. `make bench`
shows the same, and more, in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.clients import FirstResponse
from benchmarks.results import removing_leftovers
from harness.stack import UP, Stack, on

SERVERS = 3
# How often the engine's events are read, in seconds: the resolution of the table.
POLL_S = 0.02
# Phases of a whole `up` by the types of their resources, in the order of their work.
PARTS = (
    ("image, networks and store", ("Image", "SecurityGroup", "Store", "GeneratedSecret")),
    ("machines, until each has an address", ("Machine",)),
    ("cloud-init, until each has booted", ("Step-booted",)),
    ("release", ("Rollout",)),
    ("site and public address", ("Step", "PublicAddress")),
)
# Titles of the table, and a phase that is within others.
FIRST_UP, NO_CHANGE, RELEASE, ROLLBACK = "first up", "up that changes nothing", "up with a release", "rollback"
FIRST_RESPONSE = "(first response)"
# Events of a release's journal, each with what was done when it was written.
JOURNAL = {"published": "publish", "staged": "stage and prove", "done": "point to it, and clear away"}

Times = dict[str, list[float]]


class Events:
    """When the engine began and ended each resource of a command, in seconds since its start."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    def add(self, event: Mapping[str, Any], now_s: float) -> None:
        """Take an event of the engine's log."""
        for kind, content in event.items():
            if kind in ("resourcePreEvent", "resOutputsEvent"):
                urn = content["metadata"]["urn"]
                (self.began if kind == "resourcePreEvent" else self.ended).setdefault(urn, now_s)

    def last_end(self, kinds: Sequence[str]) -> float | None:
        """Return when the last resource of these kinds was done; None where there is none."""
        return max((at for urn, at in self.ended.items() if kind_of(urn) in kinds), default=None)


def kind_of(urn: str) -> str:
    """Return the last word of a resource's type; of a step that waits for a boot, Step-booted."""
    kind, name = urn.split("::")[-2].rpartition(":")[2], urn.rpartition("::")[2]
    return "Step-booted" if kind == "Step" and name.endswith("-booted") else kind


def run_up(stack: Stack) -> tuple[Events, float]:
    """Run `pulumi up` and return its events, and how many seconds it took."""
    stack.write()
    events, start_s = Events(), time.monotonic()
    with tempfile.NamedTemporaryFile("r", prefix="wsgi-fleet-events-") as log:
        process = subprocess.Popen(
            ["pulumi", *UP, stack.name, "--non-interactive", "--event-log", log.name],
            cwd=stack.folder, env=stack.environment() | {"PULUMI_DEBUG_COMMANDS": "true"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        rest, is_over = "", False
        while not is_over:
            time.sleep(POLL_S)
            is_over = process.poll() is not None
            # The last line may not be whole yet.
            *lines, rest = (rest + log.read()).split("\n")
            for line in lines:
                events.add(json.loads(line), time.monotonic() - start_s)
    assert process.returncode == 0, f"pulumi up ended with {process.returncode}"
    return events, time.monotonic() - start_s


def up_phases(events: Events, total_s: float) -> Iterator[tuple[str, float]]:
    """Yield the phases of an `up` one after the other; each ends with the last resource of its kinds."""
    first = min(at for urn, at in events.began.items() if kind_of(urn) != "Stack")
    yield "engine and program, until the first resource", first
    reached = first
    for name, kinds in PARTS:
        if (end := events.last_end(kinds)) is not None:
            yield name, end - reached
            reached = end
    yield "end of the engine", total_s - reached


def release_phases(stack: Stack) -> Iterator[tuple[str, float]]:
    """Yield the phases of the newest release by its journal."""
    journals = (stack.folder / ".state" / stack.name).rglob("journal/*.jsonl")
    lines = [json.loads(line) for line in max(journals, key=lambda file: file.name).read_text().splitlines()]
    reached, switched = 0.0, 0
    for line in lines:
        name = JOURNAL.get(line["event"])
        if line["event"] == "switched":
            switched += 1
            name = "until the first server has switched" if switched == 1 else "until the last one has"
        if name:
            yield name, line["after_s"] - reached
            reached = line["after_s"]


def boot_phases(machine: str) -> Iterator[tuple[str, float]]:
    """Yield what a machine did until it had booted, by its own clock."""
    init = timestamps(machine, "")
    first, last = (timestamps(machine, f"cloud-{unit}.service") for unit in ("init-main", "final"))
    yield "systemd, until cloud-init starts", first["ExecMainStart"] - init["Userspace"]
    yield "cloud-init, until its scripts", last["ExecMainStart"] - first["ExecMainStart"]
    yield "scripts of the user data", last["ActiveEnter"] - last["ExecMainStart"]


def timestamps(machine: str, unit: str) -> dict[str, float]:
    """Return what systemd did when, in seconds since the host's boot. unit: "" is systemd itself."""
    lines = on(machine, "systemctl", "show", *filter(None, [unit])).splitlines()
    found = (line.partition("=") for line in lines)
    suffix = "TimestampMonotonic"
    return {key.removesuffix(suffix): int(value) / 1e6 for key, _, value in found if key.endswith(suffix)}


def make_stack(name: str, folder: Path) -> Stack:
    """Return a stack of SERVERS servers with the Flask example, which is not up yet."""
    stack = Stack.make(name, folder, source="examples/flask-hello", module="hello.wsgi:app", health_path="/healthz")
    stack.app.update({"generated_secrets": ["HELLO_SECRET_KEY"], "fleet": {"servers": SERVERS}})
    return stack


def change_code(stack: Stack) -> None:
    """Change the example's code, so that the next `up` has a release."""
    code = stack.folder / "examples" / "flask-hello" / "hello" / "defaults.py"
    code.write_text(code.read_text() + "# again\n")


def run_once(stack: Stack, times: dict[str, Times]) -> None:
    """Profile a first `up`, one that changes nothing, a release and a rollback of a stack of its own."""

    def add(table: str, phases: Iterator[tuple[str, float]]) -> None:
        run: dict[str, float] = defaultdict(float)
        for phase, seconds in phases:
            run[phase] += seconds
        for phase, seconds in run.items():
            times[table][phase].append(seconds)

    first, start_s = FirstResponse(stack.url), time.monotonic()
    first.start()
    add(FIRST_UP, up_phases(*run_up(stack)))
    times[FIRST_UP][FIRST_RESPONSE].append(first.seconds_since(start_s))
    add("its release", release_phases(stack))
    for kind in ("app", "balancer"):
        add(f"boot of a machine ({kind})", boot_phases(next(iter(stack.machines(kind).values()))))
    add(NO_CHANGE, up_phases(*run_up(stack)))
    change_code(stack)
    add(RELEASE, up_phases(*run_up(stack)))
    add("that release", release_phases(stack))
    start_s = time.monotonic()
    stack.fleet("rollback", "--yes").check_returncode()
    times[ROLLBACK]["whole command"].append(time.monotonic() - start_s)
    add("its journal", release_phases(stack))


def wholes(phases: Mapping[str, Sequence[float]]) -> list[float]:
    """Return how long each run of a command took: the sums of its phases. Those in brackets are within others."""
    return [sum(run) for run in zip(*(found for phase, found in phases.items() if phase[0] != "("), strict=True)]


def medians(phases: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each phase."""
    return {phase: statistics.median(found) for phase, found in phases.items()}


def table(times: Mapping[str, Times]) -> str:
    """Return a text table: the median of each phase, and the sum."""
    rows: list[str] = []
    for title, phases in times.items():
        rows += [f"{title:52}{statistics.median(wholes(phases)):8.2f} s"]
        rows += [f"    {phase:48}{seconds:8.2f}" for phase, seconds in medians(phases).items()]
    return "\n".join(rows)


def main() -> None:
    """Profile, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=3)
    runs = parser.parse_args().runs
    times: dict[str, Times] = defaultdict(lambda: defaultdict(list))
    with removing_leftovers("profile"):
        for number in range(runs):
            with tempfile.TemporaryDirectory(prefix="wsgi-fleet-profile-") as folder:
                stack = make_stack(f"profile{number}", Path(folder))
                run_once(stack, times)
                stack.destroy()
            print(f"run {number + 1} of {runs} done", file=sys.stderr, flush=True)
    print(f"{os.cpu_count()} cores, medians of {runs} runs, {SERVERS} servers\n{table(times)}")


if __name__ == "__main__":
    main()
