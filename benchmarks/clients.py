"""Clients of a stack that is measured: one that waits for an answer, and some that ask all the time."""

from __future__ import annotations

import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

CLIENTS = 8
LONGEST_S = 600
# How often a client that waits asks again, in seconds.
PAUSE_S = 0.02


class FirstResponse(threading.Thread):
    """Asks a URL until it responds with status 200. at: when it did, as time.monotonic().

    is_wanted: takes the text of a response; others do not count.
    """

    def __init__(self, url: str, is_wanted: Callable[[str], bool] = lambda _: True) -> None:
        super().__init__(daemon=True)
        self.at = 0.0
        self._url, self._is_wanted = url, is_wanted

    def run(self) -> None:
        """Implement Thread.run: request the URL until it succeeds, for at most LONGEST_S."""
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self._url, timeout=2) as response:
                    if self._is_wanted(response.read().decode()):
                        self.at = time.monotonic()
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(PAUSE_S)

    def seconds_since(self, start_s: float) -> float:
        """Return how many seconds after a moment the response came. Raises TimeoutError if it does not come."""
        self.join(timeout=LONGEST_S)
        if not self.at:
            raise TimeoutError(f"{self._url}: no response as wanted in {LONGEST_S} s")
        return self.at - start_s


class SteadyClient:
    """Clients that ask without pause, each on a fresh connection, and keep how long each answer took."""

    def __init__(self, url: str) -> None:
        self._url, self._seconds, self._ended = url, list[float](), threading.Event()
        self._clients = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> SteadyClient:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for client in self._clients:
            client.join()

    def p99_s(self) -> float:
        """Return the 99th percentile, in seconds, of all responses since the last call."""
        found, self._seconds = self._seconds, []
        return statistics.quantiles(found, n=100)[98]

    def _ask(self) -> None:
        while not self._ended.is_set():
            start_s = time.monotonic()
            with urllib.request.urlopen(self._url, timeout=30) as response:
                response.read()
            self._seconds.append(time.monotonic() - start_s)
            time.sleep(0.02)
