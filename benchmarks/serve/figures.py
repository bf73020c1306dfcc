"""What was measured, as numbers to show: medians, spreads, and goals as ratios within one round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.pages import Goal
from benchmarks.serve.contestants import PRODUCTS
from benchmarks.serve.works import LOADS, load_name
from benchmarks.serve.wrk import Sample

WAIT_S = 0.02
# How much p99 may grow below 70 % of the most, where it is called flat.
FLAT = 2.0


class Figures:
    """The samples of a run by contestant and work; result: as benchmarks/serve/run.py keeps it."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self._samples: dict[str, dict[str, list[dict[str, float]]]] = result["samples"]

    def samples(self, contestant: str, work: str) -> list[Sample]:
        """Return the samples of a cell, one of each round; [] where it is not measured."""
        return [Sample.of(each) for each in self._samples.get(contestant, {}).get(work, [])]

    def median(self, contestant: str, work: str, value: str = "rps") -> float:
        """Return the median of one value of a cell (a field of Sample)."""
        return statistics.median(each.values()[value] for each in self.samples(contestant, work))

    def ratios(self, contestant: str, other: str, work: str) -> list[float]:
        """Return how many times the other's requests/s a contestant has, in each round."""
        return _quotients(self.samples(contestant, work), self.samples(other, work))

    def reached(self, load: float) -> float:
        """Return the median of the share of the most requests/s that clients reached who asked for `load` of it."""
        return statistics.median(_quotients(self.samples("default", load_name(load)), self.samples("default", "hello")))

    def lost(self, contestant: str, work: str) -> int:
        """Return the errors, and the requests without an answer, of all rounds."""
        return sum(each.errors + each.timeouts for each in self.samples(contestant, work))

    def cell(self, contestant: str, work: str) -> str:
        """Return requests/s for a table: the median, half the range in percent, and what went wrong."""
        samples = self.samples(contestant, work)
        if not samples:
            return ""
        rates = [each.rps for each in samples]
        middle = statistics.median(rates)
        spread = f" ±{(max(rates) - min(rates)) / 2 / middle:.0%}" if len(rates) > 1 and middle else ""
        lost = self.lost(contestant, work)
        return f"{middle:,.0f}{spread}" + f" **({lost:,} lost)**" * bool(lost)

    def latency(self, contestant: str, work: str) -> str:
        """Return the median and the 99th percentile in ms, each the median of all rounds."""
        if not self.samples(contestant, work):
            return ""
        p50, p99 = (self.median(contestant, work, value) for value in ("p50_ms", "p99_ms"))
        return f"{p50:,.0f} / {p99:,.0f}"

    def goals(self) -> list[Goal]:
        """Return each goal with what was measured."""
        return [*self._rates(), *self._limits(), *self._memory()]

    def _rates(self) -> list[Goal]:
        # The same gateway with other threads differs by less than rounds do.
        others = [each.name for each in PRODUCTS if (each.gateway or {}).get("kind")]
        fastest = max(others, key=lambda name: self.median(name, "hello"))
        default, fleet = self.ratios("default", "gunicorn-sync", "hello"), self.ratios("default", fastest, "hello")
        granian, waiting = self.ratios("default", "granian", "hello"), self.ratios("default", "beanstalk", "wait")
        most = self.result["requests_at_a_time"] / WAIT_S
        share = self.median("default", "wait") / most
        return [
            _goal_of_times("hello: 3 times Gunicorn's default", default, 3, 1,
                 "gateway, Nginx and the load share two cores here; Gunicorn's one worker leaves them the second"),
            _goal_of_times(f"hello: no other gateway of the product is faster (`{fastest}`)", fleet, 1, 2,
                 "the difference is within the spread, or the other costs waiting requests"),
            _goal_of_times("hello: no gateway that keeps PEP 3333 is faster (Granian)", granian, 1, 2,
                 "Granian parses HTTP in Rust and keeps connections; it is not among the gateways"),
            _goal_of_times("waiting: as many as Elastic Beanstalk's default", waiting, 1, 1),
            Goal(f"waiting: 95 % of what {self.result['requests_at_a_time']} requests at a time make possible",
                 f"{share:.0%}", share >= 0.95, "two cores for clients, balancer and gateway are used up before that"),
        ]  # fmt: skip

    def _limits(self) -> list[Goal]:
        costs = [1 - ratio for ratio in self.ratios("gunicorn", "gunicorn-direct", "hello")]
        cost = statistics.median(costs)
        lost = [self.lost("default", work) for work in ("many", "many-fresh")]
        p99 = {load: self.median("default", load_name(load), "p99_ms") for load in LOADS}
        least = p99[LOADS[0]]
        worst = max((value for load, value in p99.items() if self.reached(load) <= 0.7), default=least)
        return [
            Goal("the balancer costs 15 % at most", f"{cost:.0%} ({min(costs):.0%} to {max(costs):.0%})", cost <= 0.15,
                 "Nginx runs on the cores of the gateway here"),
            Goal("2,000 clients: no error, and an answer to each request", f"{sum(lost):,}", sum(lost) == 0),
            Goal(f"p99 up to 70 % of the most: {FLAT:.0f} times the least load's", f"{worst / least:.1f} times",
                 worst <= FLAT * least, "requests that come at random wait for one another on two cores"),
        ]  # fmt: skip

    def _memory(self) -> list[Goal]:
        wanted = {"server": 90, "balancer": 25}
        why = "all processes count: systemd's own use 31 MiB, the balancer's health agent 22, its Nginx 15"
        found: Sequence[tuple[str, float]] = [(name, self.result["idle_mib"][name]) for name in wanted]
        return [
            Goal(f"an idle {name}: {wanted[name]} MiB", f"{mib:.0f} MiB", mib <= wanted[name], why)
            for name, mib in found
        ]


def _quotients(samples: Sequence[Sample], others: Sequence[Sample]) -> list[float]:
    """Return how many times the requests/s of the other sample each one has."""
    return [each.rps / max(other.rps, 0.1) for each, other in zip(samples, others, strict=True)]


def _goal_of_times(text: str, ratios: Sequence[float], wanted: float, digits: int, missed: str = "") -> Goal:
    """Return a goal that the median of ratios shall reach, shown with their range to so many digits."""
    middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
    measured = f"{middle:.{digits}f} times ({least:.{digits}f} to {most:.{digits}f})"
    return Goal(text, measured, middle >= wanted, missed)
