"""How the dynamic providers of this project talk to a person through the engine."""

from __future__ import annotations

import contextlib
import sys
from typing import TypeVar

E = TypeVar("E", bound=Exception)


def log(text: str) -> None:
    """Print a line, which the engine shows. It is one write, because machines are worked on side by side."""
    # A killed engine gets no message, but started work still finishes.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def without_traceback(error: E) -> E:
    """Return an error that explains itself, to be raised: Pulumi prints its text without a traceback."""
    sys.tracebacklimit = 0
    return error
