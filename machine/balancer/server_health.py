"""What probes of an upstream server mean: when it is unhealthy, when it is healthy again, and who gets no requests.

Pure: the clock is given, in seconds that never go back. Standard library only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

# Unhealthy without a good response for so long, which with a reload is less than 5 s; back after this many in a row.
OUT_S, GOOD = 3.5, 2
# A path is lossy if LOSSY of the last WINDOW probes had segments sent again, or LOSSY_SOON of the last WINDOW_SOON.
# Where a third of the packets is lost the second rule is 1.5 s faster. Then CLEAN probes in a row must have none.
LOSSY, WINDOW, CLEAN = 3, 10, 4
LOSSY_SOON, WINDOW_SOON = 2, 3
# Each time out within FORGET_S doubles how long a server must be healthy before it is back: 2, 4, ... LONGEST_S.
FORGET_S, LONGEST_S = 300.0, 60.0
# A server is taken out only beside one of its application that was healthy so lately, in intervals of probes.
FRESH = 2.5
# The balancer opens at most so many probes a second.
PROBES_PER_S = 200


class Outcome(Enum):
    """How a probe ended. BUSY: the gateway sheds load (503 with Retry-After). SILENT: nothing within the limit."""

    GOOD = 1
    BUSY = 2
    SILENT = 3
    BAD = 4


@dataclass(frozen=True)
class Probe:
    """at: when it was begun. words: what is wrong, "" of a good one. was_resent: whether TCP sent anything again."""

    at: float
    outcome: Outcome
    words: str = ""
    was_resent: bool = False


@dataclass
class Server:
    """What is known of one server. alive_at: when it last was healthy, or busy.

    since: when it became healthy or unhealthy. why: "" where it is healthy.
    """

    alive_at: float
    since: float
    is_healthy: bool = True
    why: str = ""
    goods: int = 0
    good_since: float = 0.0
    is_lossy: bool = False
    only_silent: bool = True
    resent: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    outs: list[float] = field(default_factory=list[float])
    words: str = ""

    def record(self, probe: Probe) -> None:
        """Take in a probe that has ended."""
        self.resent.append(probe.was_resent)
        if probe.outcome in (Outcome.GOOD, Outcome.BUSY):
            self.alive_at, self.only_silent = max(self.alive_at, probe.at), True
        elif probe.at > self.alive_at:
            self.words = probe.words
            self.only_silent = self.only_silent and probe.outcome is Outcome.SILENT
        if probe.outcome is Outcome.GOOD and not (self.is_lossy and probe.was_resent):
            self.good_since = self.good_since if self.goods else probe.at
            self.goods += 1
        elif probe.at >= self.good_since:
            # One that was begun before the first good one has ended late.
            self.goods = 0

    def judge(self, now: float, path: str, out_s: float, responds_to_others: Callable[[], bool]) -> None:
        """Decide whether it is healthy. responds_to_others: whether it has responded to clients lately.

        Where all threads are busy, a probe waits behind requests: a server that responds to those does not hang.
        """
        if not self.is_healthy:
            need = CLEAN if self.is_lossy else GOOD
            if self.goods >= need and now - self.good_since >= self.patience_s(now) - 1:
                self.is_healthy, self.why, self.since, self.is_lossy = True, "", now, False
                self.alive_at = now
                self.resent.clear()
            return
        if now - self.alive_at >= out_s:
            if self.only_silent and responds_to_others():
                self.alive_at = now - out_s / 2
            else:
                self._fail(now, f"GET {path} was not 200 for {out_s:g} s: {self.words or 'no response'}")
        elif sum(self.resent) >= LOSSY or sum(list(self.resent)[-WINDOW_SOON:]) >= LOSSY_SOON:
            self.is_lossy = True
            self._fail(now, f"packets are lost on the way to it ({sum(self.resent)} of {len(self.resent)} probes)")

    def patience_s(self, now: float) -> float:
        """Return how many seconds the server must be healthy before it is back."""
        return min(2.0 ** sum(now - out < FORGET_S for out in self.outs), LONGEST_S)

    def _fail(self, now: float, why: str) -> None:
        self.outs = [*(out for out in self.outs if now - out < FORGET_S), now]
        self.is_healthy, self.why, self.since, self.goods = False, why, now, 0


def interval_s(servers: int) -> float:
    """Return the seconds between two checks of each of so many servers."""
    return max(1.0, servers / PROBES_PER_S)


def excluded_servers(
    addresses: Iterable[str], servers: Mapping[str, Server], drained: Iterable[str], before: Iterable[str], now: float
) -> set[str]:
    """Return which servers of one application get no requests. before: those that get none now.

    None where no other is healthy: then all get requests. A further one only beside a server that was healthy a moment
    ago: a fault of all of them at once (their database) is not mended by removing one after the other.
    """
    left = set(addresses) - set(drained)
    unhealthy = {address for address in left if not servers[address].is_healthy}
    healthy = left - unhealthy
    if not healthy:
        return set()
    fresh = FRESH * interval_s(len(servers))
    if any(now - servers[address].alive_at <= fresh for address in healthy):
        return unhealthy
    return unhealthy & set(before)
