"""Keep the application's variables from a gateway that reads some of that name, and warn of what a fork would lose."""

from __future__ import annotations

import os
import sys
from typing import Any

_hidden: dict[str, str] = {}


def hide_variables(*prefixes: str) -> None:
    """Take all variables whose names begin so out of the environment, until restore_variables()."""
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        _hidden[name] = os.environ.pop(name)


def restore_variables() -> None:
    """Put back what was hidden. Call it before the application is imported."""
    os.environ.update(_hidden)
    _hidden.clear()


def warn_of_threads() -> None:
    """Print which threads the import has started. Call it before workers are forked, where threads do not run on.

    releases/threads.py reads the line.
    """
    threading: Any = sys.modules.get("threading")
    names = [each.name for each in threading.enumerate()[1:]] if threading else []
    if names:
        print(f"warning: threads of the import end in workers: {', '.join(sorted(names))}", file=sys.stderr, flush=True)
