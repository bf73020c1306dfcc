"""Make an error of the engine readable for a person."""

from __future__ import annotations

import re

# The name of an exception's class stands before its text, and the engine's words; what people need is the text. The
# path of a setting may look like such a name (apps.notes.environment.DEBUG), but no text begins with one.
_CLASS = re.compile(r"\A(?!apps\.|balancer\.)(?:[a-z_]\w*\.)+[A-Z]\w*: ")
_INVALID = re.compile(r".*? resource '[^']*'(?:: property \S+ value .*?)? has a problem: ", re.DOTALL)
_TRACEBACK = "Traceback (most recent call last):"


def clean(text: str) -> str:
    """Return an error without the name of its class. Of chained tracebacks keep the last; the others led to it."""
    text = _CLASS.sub("", _INVALID.sub("", text, count=1), count=1)
    first, *tracebacks = text.split(_TRACEBACK)
    return f"{first}{_TRACEBACK}{tracebacks[-1]}" if tracebacks else text


def identify(text: str) -> str:
    """Return the text by which equal errors are found: of a traceback its last lines, the place and the error."""
    return "\n".join(text.splitlines()[-3:]) if _TRACEBACK in text else text
