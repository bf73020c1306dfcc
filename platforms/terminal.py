"""Describe a command of this machine that opens a terminal on another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

SECRET_FD = 3


@dataclass(frozen=True)
class Terminal:
    """A command of this machine that opens a terminal on another. secret: what it reads from SECRET_FD; "" for none."""

    command: Sequence[str]
    environment: Mapping[str, str]
    secret: str = ""

    def enter(self) -> NoReturn:
        """Replace this process with that command. Raises FileNotFoundError if there is no such program."""
        if self.secret:
            # Never as a file: a pipe buffers 64 KiB (pipe(7)), and ends with its readers.
            read, write = os.pipe()
            os.write(write, self.secret.encode())
            os.close(write)
            os.dup2(read, SECRET_FD)
            os.set_inheritable(SECRET_FD, True)
        os.execvpe(self.command[0], list(self.command), dict(self.environment))  # noqa: S606  no shell is meant
