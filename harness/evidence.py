"""Ask a stack what its machines did: which requests ran, which release serves, and how far a release came."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from harness.load import LoadOutcome
from harness.stack import Stack, on
from platforms import STATE


def executed_requests(stack: Stack) -> list[str]:
    """Return the ids of the POSTs that the application executed, on all servers."""
    # One that was away may have executed none.
    read = ("sh", "-c", "cat /var/lib/app/posts 2>/dev/null || true")
    return [id_ for machine in stack.servers().values() for id_ in on(machine, *read).split()]


def what_was_logged(stack: Stack) -> str:
    """Return the last log lines of a stack's gateways and proxy, which contain why a request was lost."""
    read = "journalctl -q --no-pager -o short-precise --since -2min | tail -n 150"
    machines = [*stack.servers().values(), stack.balancer()]
    return "\n".join(f"{machine}:\n{on(machine, 'sh', '-c', read, check=False)}" for machine in machines)


def failures_logged(stack: Stack) -> list[str]:
    """Return what the app servers logged of their gateways as a warning or worse in the last minute."""
    read = "journalctl -q --no-pager -o cat -p warning --since -1min -u 'app@*' -u app-proof"
    return [line for machine in stack.servers().values() for line in on(machine, "sh", "-c", read).splitlines()]


def assert_nothing_was_lost(stack: Stack, outcome: LoadOutcome) -> None:
    """Check that every request was answered, and that each POST was executed once."""
    assert outcome.failed_fresh == [], f"{outcome}\n{what_was_logged(stack)}"
    assert outcome.failed_kept == [], outcome
    done = executed_requests(stack)
    times = Counter(done)
    wrong = {id_: times[id_] for id_ in outcome.posts if times[id_] != 1}
    assert not wrong, f"these POSTs ran so often: {wrong}\n{what_was_logged(stack)}"


def responding_releases(stack: Stack) -> set[str]:
    return {version for _, version in stack.responding_servers(30)}


def has_reached(stack: Stack, before: set[Path], phase: str) -> bool:
    """Return whether a journal that was not there before contains the event of this phase."""
    new = [file for file in (stack.folder / STATE).rglob("journal/*.jsonl") if file not in before]
    return any(json.loads(line)["event"] == phase for file in new for line in file.read_text().splitlines())
