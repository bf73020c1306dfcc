"""Ask the release store now and then which release this server should run. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from threading import Thread

# Seconds between two questions: in a bucket each of them is a request that costs money. Sooner while the server runs
# another release: one that has just ended must not look like drift for a minute.
EVERY_S, DRIFTED_EVERY_S = 60.0, 5.0
# Longest wait for a response of the store, in seconds; after it, the metric is reported as one that cannot be read.
PATIENCE_S = 300.0


class WantedRelease:
    """Remembers the release that the store names. ask: returns it; "" where there is none yet."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask, self._asked_s = ask, float("-inf")
        self._is_asking = self._is_drift = False
        self._answer: str | Exception | None = None

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        # Whatever it is, is_drift() raises it.
        except Exception as error:  # noqa: BLE001
            self._answer = error
        self._is_asking = False

    def is_drift(self, releases: Set[str | None]) -> bool | None:
        """Return whether these are others than the store named last; None before the first answer.

        Raises the exception of the last question, if it failed. Raises TimeoutError if the store has not responded for
        PATIENCE_S.
        """
        now, wait_s = time.monotonic(), DRIFTED_EVERY_S if self._is_drift else EVERY_S
        # The thread may write it meanwhile.
        answer, self._is_drift = self._answer, False
        if self._is_asking and now - self._asked_s > PATIENCE_S:
            raise TimeoutError(f"no response of the release store for {PATIENCE_S:.0f} s")
        if not self._is_asking and now - self._asked_s >= wait_s:
            self._is_asking, self._asked_s = True, now
            # It must hold up neither other metrics nor the end of this process.
            Thread(target=self._run, daemon=True).start()
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)
        self._is_drift = answer is not None and {answer} != releases
        return None if answer is None else self._is_drift
