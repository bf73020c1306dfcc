"""Find units that keep ending. systemd restarts them for ever, so `status` and `doctor` must show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from platforms.transport import Transport, Unreachable
from releases.cause import distinct
from releases.fleet import Server
from releases.status import ServerStatus

# A unit counts where systemd started it again so often within so many seconds. With back-off that is every 11 s.
MIN_RESTARTS, WINDOW_S = 3, 120
QUERY_TIMEOUT_S = 20.0
# Log lines to read, and how many to show if they contain no traceback.
LINES, MAX_LOG_LINES = 60, 3
# Written by systemd for each restart.
_RESTART = "Scheduled restart job"


@dataclass(frozen=True)
class Restarting:
    """times: how often within WINDOW_S, first at since_s (seconds since 1970). lines: what it logged last."""

    unit: str
    times: int
    since_s: float
    lines: Sequence[str]

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since_s, UTC).strftime("%H:%M:%S")
        last = f"; its last lines: {' | '.join(self.lines)}" if self.lines else ""
        return f"{self.unit} keeps ending: {self.times} times since {since} UTC{last}"


def find_restarting(transport: Transport, server: Server, facts: ServerStatus) -> list[Restarting]:
    """Ask the journal of a server about units that were started again."""
    suspects = [unit for unit, times in facts.restarts.items() if times >= MIN_RESTARTS]
    found = (_ask(transport, server, unit) for unit in sorted(suspects))
    return [each for each in found if each is not None]


def _ask(transport: Transport, server: Server, unit: str) -> Restarting | None:
    name = unit.removesuffix(".service")
    since = f"--since=-{WINDOW_S}s"
    text = _journal(transport, server, "--output=short-unix", since, "_PID=1", f"UNIT={unit}")
    starts = [float(line.split()[0]) for line in text.splitlines() if _RESTART in line]
    if len(starts) < MIN_RESTARTS:
        return None
    last = _journal(transport, server, "--output=cat", f"--lines={LINES}", f"_SYSTEMD_UNIT={unit}")
    return Restarting(name, len(starts), starts[0], find_cause(last.splitlines()))


def find_cause(lines: Sequence[str]) -> list[str]:
    """Return the exception of the last traceback, or the last lines without duplicates."""
    logged = [line.rstrip() for line in lines if line.strip()]
    begun = [number for number, line in enumerate(logged) if line.startswith("Traceback (most recent call last)")]
    raised = [line for line in logged[begun[-1] + 1 :] if not line.startswith(" ")] if begun else []
    return raised[:1] or distinct(logged)[-MAX_LOG_LINES:]


def _journal(transport: Transport, server: Server, *options: str) -> str:
    """Return what journalctl prints on a server; nothing where it fails or the server does not respond."""
    try:
        command = ["journalctl", "--no-pager", "--quiet", *options]
        done = transport.exec(server.target, command, timeout_s=QUERY_TIMEOUT_S)
    except (Unreachable, TimeoutError):
        return ""
    return "" if done.exit_code else done.output
