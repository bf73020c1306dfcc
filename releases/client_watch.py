"""What clients see of a release while it moves: responses of servers on it, beside those of the one before."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from releases.fleet import Fleet, Server, ServerFailure
from releases.journal import Journal
from releases.status import GroupTraffic, Summary, TrafficGroups, parse_status
from rendering.paths import SCRIPTS
from settings.limits import MIN_ERRORS, MIN_REQUESTS

COMMAND = f"{SCRIPTS}/traffic.py"
# Where no server is left on the release before, the time before this one's first switch is compared.
BEFORE_S = 300.0
# Of fewer responses, the 99th percentile is the slowest one; and times of a few milliseconds vary by themselves.
MIN_RESPONSES, MIN_SLOWER_MS = 100, 20.0
QUERY_S = 20.0
# How often clients are looked at while a canary is watched for long: at most so many times, and not more often.
LOOKS, LOOK_S = 10, 10.0


class WorseForClientsError(Exception):
    """Clients see more errors or slower responses than the settings allow. The text says what to do."""


@dataclass(frozen=True)
class ClientLimits:
    """front: the balancer that is asked. addresses: server -> address by which the balancer knows it.

    max_error_percent: points of 5xx above those of the release before; max_latency_ratio: of p99. None: not judged.
    """

    front: Server
    addresses: Mapping[str, str]
    # Pulumi leaves out what is None.
    max_error_percent: float | None = None
    max_latency_ratio: float | None = None


def is_judged(new: Summary, old: Summary) -> bool:
    """Return whether both have requests enough."""
    return min(new[0], old[0]) >= MIN_REQUESTS


def judge(new: Summary, old: Summary, limits: ClientLimits) -> str:
    """Return in what the new release is worse than its limits allow; "" where it is not, or where too few asked."""
    if not is_judged(new, old):
        return ""
    (requests, errors, _, p99_ms), (_, _, _, old_p99_ms) = new, old
    most, ratio = limits.max_error_percent, limits.max_latency_ratio
    if most is not None and errors >= MIN_ERRORS and percent(new) - percent(old) > most:
        return f"5xx are more than rollout.max_error_percent ({most:g}) percentage points above those of the one before"
    if ratio is None or p99_ms is None or old_p99_ms is None or requests < MIN_RESPONSES:
        return ""
    if p99_ms > old_p99_ms * ratio and p99_ms - old_p99_ms >= MIN_SLOWER_MS:
        return f"p99 is more than rollout.max_latency_ratio ({ratio:g}) times that of the one before"
    return ""


def percent(summary: Summary) -> float:
    """Return the share of 5xx in percent; 0 without a request."""
    return 100 * summary[1] / max(summary[0], 1)


def describe(summary: Summary) -> str:
    """Describe requests for people."""
    time_ = "" if summary[3] is None else f", p99 {summary[3]:.0f} ms"
    return f"{summary[1]} of {summary[0]} requests got 5xx ({percent(summary):.1f} %){time_}"


def slices(seconds: float) -> list[float]:
    """Return the parts of a time between which clients are looked at."""
    length = max(seconds / LOOKS, LOOK_S)
    whole = [length] * int(seconds // length)
    return [*whole, rest] if (rest := round(seconds - sum(whole), 3)) else whole


class ClientWatch:
    """Of one rollout. before: servers that serve another release when it begins; their responses are the measure.

    It asks the balancer until that fails once: no release fails for it, and none waits for it again and again.
    """

    def __init__(
        self, fleet: Fleet, limits: ClientLimits, release: str, before: Sequence[Server], journal: Journal
    ) -> None:
        self._fleet, self._limits, self._release, self._journal = fleet, limits, release, journal
        self._before, self._begin_s = list(before), time.monotonic()
        self._since: dict[Server, float] = {}
        self._is_off = False
        # What was said of too few requests.
        self._few = ""

    def add(self, server: Server) -> None:
        """Take a server for one on the new release from now on. Its old slot has finished what it had."""
        self._since[server] = time.monotonic()

    def check(self) -> None:
        """Ask the balancer, and log what clients saw. Raises WorseForClientsError."""
        if self._is_off or not self._since:
            return
        try:
            found = self._ask()
            new, side, past = (found[name] for name in ("new", "side", "past"))
        except (ServerFailure, ValueError, KeyError) as error:
            self._is_off = True
            self._fleet.log(f"what clients see is not known, and the release goes on without it: {error}")
            return
        # In the same time, if servers are left on it: what hurts both releases is not the new one's fault.
        is_beside = side.all[0] >= MIN_REQUESTS
        old = side.all if is_beside else past.all
        self._journal.note("watched", clients={"new": new.all, "old": old, "beside": is_beside})
        seen = f"clients of release {self._release}: {describe(new.all)}"
        if not is_judged(new.all, old):
            few = f"the release before: {old[0]}; to judge it {MIN_REQUESTS} of each are needed, as in a longer bake_s"
            # Of a long bake without visitors it would be the same line at each look.
            if few != self._few or new.all[0]:
                self._fleet.log(f"{seen}; {few}")
            self._few = few
            return
        when = "in the same time" if is_beside else f"in the {BEFORE_S:.0f} s before"
        seen += f"; of the release before {when}: {describe(old)}"
        self._fleet.log(seen)
        if fault := judge(new.all, old, self._limits):
            raise WorseForClientsError(f"{seen}; {fault} ({self._by_server(new)}){self._remedy(new)}")

    def _ask(self) -> Mapping[str, GroupTraffic]:
        now = time.monotonic()
        first_s, begin_s = now - min(self._since.values()), now - self._begin_s
        groups = {
            "new": {self._address(server): (now - since, 0) for server, since in self._since.items()},
            "side": {self._address(each): (first_s, 0) for each in self._before if each not in self._since},
            "past": {self._address(each): (begin_s + BEFORE_S, begin_s) for each in self._before},
        }
        result = self._fleet.run(
            self._limits.front, "clients", ["groups"], stdin=json.dumps(groups).encode(), timeout_s=QUERY_S,
            quiet=True, program=COMMAND,
        )  # fmt: skip
        return parse_status(TrafficGroups, result.output).groups

    def _address(self, server: Server) -> str:
        # Of a group, the transport's name ends with it (platforms.server_group.Member).
        return self._limits.addresses.get(server.name) or server.target.rpartition("@")[2]

    def _by_server(self, new: GroupTraffic) -> str:
        found = {server.name: new.servers.get(self._address(server)) for server in self._since}
        return "; ".join(f"{name}: {describe(each)}" for name, each in found.items() if each)

    def _remedy(self, new: GroupTraffic) -> str:
        worst = max(self._since, key=lambda each: percent(new.servers.get(self._address(each), (0, 0, None, None))))
        return f". `./fleet logs --server {worst.name}` may say why; a higher limit, or null, takes it as it is"
