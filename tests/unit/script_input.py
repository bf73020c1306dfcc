"""Run the main function of a script with something on its standard input."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence

import pytest


def call_with_input(main: Callable[[Sequence[str]], None], *arguments: str, stdin: bytes | str = b"") -> None:
    content = stdin.encode() if isinstance(stdin, str) else stdin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        main(arguments)
