"""What follows moto: it looks again and again at what has changed there, in a thread of its own."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager

from tests.aws.kind import is_gone

# Seconds between two looks. A load balancer of AWS takes some until all of its nodes know of a change.
LOOK_S = 1.0
# A look fails that reads what moto changes; the session fails where so many do, one after the other.
FAILURES = 5


class Follower:
    """Implemented by what has a look()."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self.failures: list[str] = []

    def look(self) -> None:
        """Look once, and do what is to be done."""
        raise NotImplementedError

    @contextmanager
    def running(self) -> Generator[None]:
        """Look until the block ends. Raises RuntimeError then if that failed."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        if len(self.failures) >= FAILURES:
            raise RuntimeError(f"{type(self).__name__} did not follow:\n{self.failures[-1]}")

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S) and len(self.failures) < FAILURES:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  the session says it at its end
                # Something that was listed is gone by now.
                if not is_gone(error):
                    self.failures.append(traceback.format_exc())
            else:
                self.failures.clear()
