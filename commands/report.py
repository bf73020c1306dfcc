"""Ask a machine for its status, as a script there prints it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from commands.target import Target
from platforms.transport import Unreachable
from releases.fleet import Server
from releases.status import Status_co, parse_status

QUERY_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Report(Generic[Status_co]):
    """A machine's response. facts: None without one; error: why. began_s, ended_s: when it was asked.

    is_reached: whether the machine responded, though perhaps with an error.
    """

    facts: Status_co | None
    error: str
    began_s: float
    ended_s: float
    is_reached: bool = False


def ask(target: Target, server: Server, command: Sequence[str], kind: type[Status_co]) -> Report[Status_co]:
    """Run a script that prints a status of that kind, and return the machine's report."""
    began, facts, error, is_reached = time.time(), None, "", False
    try:
        result = target.transport.exec(server.target, command, timeout_s=QUERY_TIMEOUT_S)
        is_reached = True
        if result.exit_code == 0:
            facts = parse_status(kind, result.output)
        else:
            last = result.output.strip().rpartition("\n")[2]
            error = f"`{command[0]}` failed: {last or f'exit code {result.exit_code}'}"
    except (Unreachable, ValueError) as problem:
        error = str(problem)
    except TimeoutError:
        error = f"it did not respond in {QUERY_TIMEOUT_S:.0f} s"
    return Report(facts, error, began, time.time(), is_reached)
