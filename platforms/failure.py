"""End the program after its mistake was logged."""

from __future__ import annotations

from typing import NoReturn

import pulumi

# By this code the engine knows that the program has said why it ends (pulumi-language-python-exec). It adds nothing.
EXIT_AFTER_MESSAGE = 32


def end_program(message: str) -> NoReturn:
    """End the program with only a message."""
    pulumi.log.error(message)
    raise SystemExit(EXIT_AFTER_MESSAGE)
