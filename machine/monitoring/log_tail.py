"""Read the lines that are added to a log which logrotate renames. Standard library only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# A file that was renamed is left once nothing was added for so long: the proxy opens the new one a moment later.
QUIET_S = 10.0
CHUNK_BYTES = 1 << 20


class LogTail:
    """A log that is read on from where it ended when this began. Each line is read once.

    The open file is what is read, so a rename loses nothing. clock: seconds that never go back.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._rest = b""
        self._grown_at = clock()
        # A descriptor, None until the file is there.
        self._file = self._open()
        self._offset = os.fstat(self._file).st_size if self._file is not None else 0

    def lines(self) -> Iterator[bytes]:
        """Yield the whole lines since the last call."""
        yield from self._read()
        if self._has_moved() and self._clock() - self._grown_at >= QUIET_S:
            # What the proxy wrote last, after the look above.
            yield from self._read()
            if self._file is not None:
                os.close(self._file)
            self._file, self._offset, self._rest = self._open(), 0, b""
            yield from self._read()

    def _open(self) -> int | None:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def _has_moved(self) -> bool:
        """Return whether another file has the name by now."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return self._file is None or there.st_ino != os.fstat(self._file).st_ino

    def _read(self) -> Iterator[bytes]:
        if self._file is None:
            return
        size = os.fstat(self._file).st_size
        if size < self._offset:
            # It was emptied.
            self._offset, self._rest = 0, b""
        while chunk := os.pread(self._file, min(CHUNK_BYTES, size - self._offset), self._offset):
            self._offset += len(chunk)
            self._grown_at = self._clock()
            *whole, rest = (self._rest + chunk).split(b"\n")
            # No line of a proxy is that long.
            self._rest = rest if len(rest) < CHUNK_BYTES else b""
            yield from whole
