"""A steady load: so many requests a second whatever becomes of them, each on a connection of its own, all counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from harness.load import Background

# What others ask meanwhile: quick ones, ones that are at work for a while, and ones that must not run twice.
MIX = (("GET", "/"), ("GET", "/?s=0.2"), ("POST", "/"))
LONGEST_S = 120.0
PATIENCE_S = 30.0


@dataclass
class Seen:
    """What became of the requests. failed: moment (seconds since the first one), method, and what came."""

    sent: int = 0
    slowest_s: float = 0.0
    failed: list[tuple[float, str, str]] = field(default_factory=list[tuple[float, str, str]])
    seconds: list[float] = field(default_factory=list[float])

    def of(self, method: str) -> int:
        """Return how many requests of a method failed."""
        return sum(each[1] == method for each in self.failed)

    @property
    def p99_s(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)] if self.seconds else 0.0

    def quiet_after_s(self, since_s: float) -> float:
        """Return the seconds from a moment until the last failure."""
        return max([0.0, *(moment - since_s for moment, *_ in self.failed)])

    def __str__(self) -> str:
        kinds = Counter(f"{method} {what}" for _, method, what in self.failed)
        return f"{self.sent} sent, slowest {self.slowest_s:.2f} s, failed: {dict(kinds)}"


class Steady(Background):
    """`with Steady(url) as load: ...`, then load.seen. rate: requests a second.

    mix: (method, path) in turn. end: that of each right response, which has the status 200.
    """

    def __init__(self, url: str, rate: float = 60, mix: Sequence[tuple[str, str]] = MIX, end: str = "\n") -> None:
        super().__init__()
        self.url, self.rate, self.mix, self.end, self.seen = url, rate, mix, end, Seen()
        self._begun = time.monotonic()

    def __enter__(self) -> Steady:
        self._begun = time.monotonic()
        self._thread.start()
        time.sleep(1)
        return self

    @property
    def now_s(self) -> float:
        """Seconds since the first request."""
        return time.monotonic() - self._begun

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            while not self._stop.is_set() and self.now_s < LONGEST_S:
                while self.seen.sent < self.rate * self.now_s:
                    group.create_task(self._ask(session, *self.mix[self.seen.sent % len(self.mix)]))
                    self.seen.sent += 1
                await asyncio.sleep(0.005)

    async def _ask(self, session: aiohttp.ClientSession, method: str, path: str) -> None:
        began = time.monotonic()
        body = b"x" * 1000 if method == "POST" else None
        try:
            async with session.request(method, self.url + path, data=body) as response:
                text = await response.text()
                what = str(response.status) if response.status != 200 or not text.endswith(self.end) else ""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            what = type(error).__name__
        took_s = time.monotonic() - began
        self.seen.slowest_s = max(self.seen.slowest_s, took_s)
        self.seen.seconds.append(took_s)
        if what:
            self.seen.failed.append((self.now_s, method, what))
