"""How the dynamic providers of this project talk to a person through the engine."""

from __future__ import annotations

import contextlib
import sys
from typing import TypeVar

E = TypeVar("E", bound=Exception)


def say(text: str) -> None:
    """The engine shows what a provider prints. One write for a line: machines are worked on side by side."""
    # An engine that was killed hears nothing, and what was begun is ended all the same.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def told(error: E) -> E:
    """An error that explains itself, to be raised: Pulumi would print a traceback around it."""
    sys.tracebacklimit = 0
    return error
