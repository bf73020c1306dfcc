"""Ask the release store now and then which release this server should run. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

# Seconds between two questions: in a bucket each of them is a request that costs money.
EVERY_S = 60.0


class WantedRelease:
    """Remembers the release that the store names. ask: returns it; "" where there is none yet."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask, self._due_s = ask, 0.0
        # A store that does not respond must not hold up other metrics.
        self._thread = ThreadPoolExecutor(1)
        self._asking: Future[str] | None = None
        self._answer: Future[str] | None = None

    def read(self) -> str | None:
        """Return the last answer, which may be a minute old; None before the first. Raises what `ask` raised then."""
        if self._asking and self._asking.done():
            self._asking, self._answer = None, self._asking
        if not self._asking and time.monotonic() >= self._due_s:
            self._asking, self._due_s = self._thread.submit(self._ask), time.monotonic() + EVERY_S
        return self._answer.result() if self._answer else None
