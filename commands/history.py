"""Requests through time, as the balancer's log has them: kept between two queries, and drawn as a line of bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from releases.status import Row, TrafficSeries

# From little to much. Of a terminal that has no such characters, ASCII.
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "._-=+*#@"


@dataclass(frozen=True)
class Cell:
    """Some seconds of one server. errors_5xx: a count. p99_ms: the longest of its buckets; None without a response."""

    requests_per_s: float = 0
    errors_5xx: int = 0
    p99_ms: float | None = None


@dataclass
class History:
    """The last window_s seconds, in buckets of bucket_s seconds.

    now_s: of the balancer's clock, when it was asked. begins_s: from when on its log has all, by the same clock. app:
    the identifier of the application whose requests are the whole; "" for all of the balancer.
    """

    bucket_s: int
    window_s: int
    now_s: float = 0
    begins_s: float = math.inf
    app: str = ""
    # Address ("" for all servers) -> number of the bucket since 1970 -> its row.
    _rows: dict[str, dict[int, Row]] = field(default_factory=dict[str, "dict[int, Row]"])

    def add(self, series: TrafficSeries) -> None:
        """Take what was asked anew: it takes the place of what was known of the same time."""
        self.now_s, first = series.now_s, round(series.first_s / self.bucket_s)
        self.begins_s = min(self.begins_s, series.begins_s)
        whole = series.apps.get(self.app, []) if self.app else series.whole
        for address, rows in {"": whole, **series.servers}.items():
            known = self._rows.setdefault(address, {})
            known.update({first + row[0]: row for row in rows})
            for old in [number for number in known if number < self._end() - self.window_s // self.bucket_s]:
                del known[old]

    def cells(self, address: str, width: int) -> list[Cell]:
        """Return the window in so many cells at most, the newest last. The bucket that is not over is left out.

        A cell begins at a multiple of its length, so that it does not change while time goes on.
        """
        buckets, end = self.window_s // self.bucket_s, self._end()
        size = math.ceil(buckets / width)
        first = (end - buckets) // size
        if (end - 1) // size - first >= width:
            first += 1
        return [
            self._cell(address, range(max(cell * size, end - buckets), min((cell + 1) * size, end)))
            for cell in range(first, (end - 1) // size + 1)
        ]

    def newest(self, address: str) -> Cell:
        """Return the last bucket that is over."""
        return self._cell(address, range(self._end() - 1, self._end()))

    def _end(self) -> int:
        return int(self.now_s // self.bucket_s)

    def _cell(self, address: str, numbers: range) -> Cell:
        rows = [row for number in numbers if (row := self._rows.get(address, {}).get(number))]
        requests = sum(row[1] for row in rows) / (len(numbers) * self.bucket_s)
        p99_ms = max((row[4] for row in rows if row[4] is not None), default=None)
        return Cell(requests, sum(row[2] for row in rows), p99_ms)


def sparkline(values: Sequence[float | None], most: float, *, is_ascii: bool = False) -> str:
    """Return a bar for each value; a space for none. most: the value of the highest bar."""
    bars = ASCII_BARS if is_ascii else BARS
    return "".join(
        bars[min(math.ceil(value / most * len(bars)), len(bars)) - 1] if value and most else " " for value in values
    )
