"""The requests that a worker works on, in memory that its companion process reads, and who asks for statistics."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress

# These names stay the real ones when gevent replaces those in their modules.
from mmap import mmap
from time import monotonic
from typing import Any

# State, file descriptor, thread, start (monotonic seconds), longest time in seconds, method and path.
ENTRY = struct.Struct("=B3xiQdd160s")
RUNNING, RESPONDING = 1, 2
# An entry and one more, 0 for none: of the request whose greenlet runs. A greenlet has it as this attribute.
CURRENT = struct.Struct("=i")
ATTRIBUTE = "wsgi_fleet_request"


class Requests:
    """The requests that this process works on, in memory that its companion reads. most: how many at a time.

    file: where that memory shows for app_status.py, "" for nowhere.
    """

    def __init__(self, most: int, file: str = "") -> None:
        self.file = file
        self.memory = _memory(most * ENTRY.size, file)
        # Offsets. The lowest are used first, so that the companion looks at few.
        self.free = list(range((most - 1) * ENTRY.size, -1, -ENTRY.size))
        self.current = mmap(-1, CURRENT.size)
        self.current_greenlet: Callable[[], Any] | None = None

    def watch_greenlets(self, greenlet: Any) -> None:
        """Note from now on whose request runs: one thread runs all greenlets. greenlet: the package."""
        before = greenlet.gettrace()

        def switched(event: str, greenlets: tuple[Any, Any]) -> None:
            CURRENT.pack_into(self.current, 0, getattr(greenlets[1], ATTRIBUTE, 0))
            if before:
                before(event, greenlets)

        greenlet.settrace(switched)
        self.current_greenlet = greenlet.getcurrent

    def _set_current(self, number: int) -> None:
        if self.current_greenlet:
            setattr(self.current_greenlet(), ATTRIBUTE, number)
            CURRENT.pack_into(self.current, 0, number)

    def current_connection(self) -> int:
        """Return the file descriptor of the request whose greenlet runs; -1 where that is unknown."""
        (number,) = CURRENT.unpack_from(self.current)
        return self.connection(number - 1) if number else -1

    def begin(self, fd: int, thread: int, limit_s: float, request: str) -> int:
        """Enter a request that may take limit_s seconds.

        Returns its entry; raises IndexError when there are `most` of them.
        """
        entry = self.free.pop()
        # The state comes last: until then the companion would see a request that began at 0.
        ENTRY.pack_into(self.memory, entry, 0, fd, thread, monotonic(), limit_s, request.encode(errors="replace"))
        self.memory[entry] = RUNNING
        self._set_current(entry + 1)
        return entry

    def respond(self, entry: int) -> None:
        """Note that a response was begun."""
        self.memory[entry] = RESPONDING

    def end(self, entry: int) -> None:
        """Remove a request."""
        self.memory[entry] = 0
        self._set_current(0)
        self.free.append(entry)

    def forget(self, fd: int) -> None:
        """Note that a connection was closed while requests of it are still worked on."""
        for entry in range(0, len(self.memory), ENTRY.size):
            if self.memory[entry] and ENTRY.unpack_from(self.memory, entry)[1] == fd:
                struct.pack_into("=i", self.memory, entry + 4, -1)

    def connection(self, entry: int) -> int:
        """Return the file descriptor of a request; -1 after its connection was closed."""
        return int(ENTRY.unpack_from(self.memory, entry)[1])

    def last_begin(self) -> float:
        """Return when a request last began, 0 before the first: entries keep that of requests that have ended."""
        return max(ENTRY.unpack_from(self.memory, at)[3] for at in range(0, len(self.memory), ENTRY.size))

    def remove_file(self) -> None:
        """Remove the file, if there is one: the worker has ended."""
        with suppress(OSError):
            os.unlink(self.file)  # noqa: PTH108  os alone, to start fast

    def in_flight(self) -> list[tuple[int, int, int, float, float, str]]:
        """Return the state, file descriptor, thread, start, longest time and name of each request."""
        found = (ENTRY.unpack_from(self.memory, offset) for offset in range(0, len(self.memory), ENTRY.size))
        # A name may be cut within a character, and an entry is written while it is read.
        return [(*each, text.rstrip(b"\0").decode(errors="replace")) for *each, text in found if each[0] and each[3]]


def _memory(size: int, file: str) -> mmap:
    """Return memory that other processes read too, of a file if it can be made: statistics must not cost a worker."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError:
        return mmap(-1, size)
    try:
        # Without room for all of it, a write to the memory would end this process.
        os.posix_fallocate(descriptor, 0, size)
        return mmap(descriptor, size)
    except OSError:
        return mmap(-1, size)
    finally:
        os.close(descriptor)
