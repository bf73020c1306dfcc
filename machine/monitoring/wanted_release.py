"""Ask the release store now and then which release this server should run. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from concurrent.futures import Future, ThreadPoolExecutor

# Seconds between two questions: in a bucket each of them is a request that costs money. Sooner while the server runs
# another release: one that has just ended must not look like drift for a minute.
EVERY_S, DRIFTED_EVERY_S = 60.0, 5.0


class WantedRelease:
    """Remembers the release that the store names. ask: returns it; "" where there is none yet."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask, self._asked_s, self._is_drift = ask, float("-inf"), False
        # A store that does not respond must not hold up other metrics.
        self._thread = ThreadPoolExecutor(1)
        self._asking: Future[str] | None = None
        self._answer: Future[str] | None = None

    def is_drift(self, releases: Set[str | None]) -> bool | None:
        """Return whether these are others than the store named last; None before the first answer.

        Raises what `ask` raised last.
        """
        if self._asking and self._asking.done():
            self._asking, self._answer = None, self._asking
        now, wait_s = time.monotonic(), DRIFTED_EVERY_S if self._is_drift else EVERY_S
        if not self._asking and now - self._asked_s >= wait_s:
            self._asking, self._asked_s = self._thread.submit(self._ask), now
        self._is_drift = False
        if self._answer is None:
            return None
        self._is_drift = {self._answer.result()} != releases
        return self._is_drift
