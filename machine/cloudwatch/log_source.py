"""Sources of logs: the journal of units, or a rotated log file, read in parts from a position.

Standard library only. Both are kept independently of the reader. After an interruption it
continues at its position, as far back as journald and logrotate keep lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

# If nothing was read yet, so much of the existing log is shipped.
FIRST_BYTES, FIRST_SINCE = 1 << 20, "-1h"
# A file that was rotated is left once nothing was written into it for so long: it is reopened a moment later.
QUIET_S = 10.0

Position = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """A line of a log. time_ms: since 1970."""

    time_ms: int
    message: str


class Source(Protocol):
    """Something that is read on from a position ({}: nothing was read yet)."""

    def read(self, position: Position, limit: int) -> tuple[list[Event], Position]:
        """Return events of about `limit` bytes at most, and where the next ones begin. Raises OSError."""
        ...


class SystemdJournal:
    """units: names or patterns. A line is shipped as JSON with its unit and priority (0 is the worst, 6 is usual)."""

    def __init__(self, units: Sequence[str]) -> None:
        self._units = [f"--unit={unit}" for unit in units]

    def read(self, position: Position, limit: int) -> tuple[list[Event], Position]:
        """See Source. What journald does not have any more is passed over."""
        begin = f"--after-cursor={position['cursor']}" if position else f"--since={FIRST_SINCE}"
        fields = "--output-fields=MESSAGE,PRIORITY,UNIT,_SYSTEMD_UNIT"
        command = ["journalctl", "--quiet", "--no-pager", "--all", "--output=json", fields, *self._units, begin]
        events: list[Event] = []
        size = 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            for line in process.stdout or ():
                entry: dict[str, Any] = json.loads(line)
                position, size = {"cursor": entry["__CURSOR"]}, size + len(line)
                if event := _event(entry):
                    events.append(event)
                if size >= limit:
                    process.kill()
                    break
        return events, position


def _event(entry: dict[str, Any]) -> Event | None:
    """Return the event of an entry, which is as journalctl writes it; None for an entry without text."""
    message: str | list[int] | None = entry.get("MESSAGE")
    # What is no UTF-8 comes as numbers.
    text = bytes(message).decode(errors="replace") if isinstance(message, list) else message
    if not text:
        return None
    fields = {
        "unit": str(entry.get("UNIT") or entry.get("_SYSTEMD_UNIT", "")).removesuffix(".service"),
        "priority": int(entry.get("PRIORITY", 6)),
        "message": text,
    }
    return Event(int(entry["__REALTIME_TIMESTAMP"]) // 1000, json.dumps(fields, ensure_ascii=False))


class RotatedFile:
    """Lines of JSON with their `time`, in a file that logrotate renames to `<name>.1` and its writer makes anew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, position: Position, limit: int) -> tuple[list[Event], Position]:
        """See Source. A file that was rotated is read to its end before the one that took its place."""
        before = self._path.with_name(f"{self._path.name}.1")
        for path in (before, self._path):
            if position and path.exists() and path.stat().st_ino == position["inode"]:
                events, position = _lines(path, position, limit)
                rotated = path == before and time.time() - path.stat().st_mtime > QUIET_S
                if not events and rotated and self._path.exists():
                    position = {"inode": self._path.stat().st_ino, "offset": 0}
                return events, position
        if not self._path.exists():
            return [], position
        state = self._path.stat()
        # Of one that was rotated away twice the rest is lost; of the first one ever, the end is enough.
        offset = 0 if position else max(state.st_size - FIRST_BYTES, 0)
        return _lines(self._path, {"inode": state.st_ino, "offset": offset}, limit)


def _lines(path: Path, position: Position, limit: int) -> tuple[list[Event], Position]:
    """Return whole lines from an offset on; the last one may just be written."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # A shorter file was emptied.
        offset = position["offset"] if position["offset"] <= size else 0
        file.seek(offset)
        data = file.read(limit)
    whole = data.rpartition(b"\n")[0] + b"\n" if b"\n" in data else (data if len(data) == limit else b"")
    events = [_of_line(line) for line in whole.splitlines() if line.strip()]
    return events, {"inode": position["inode"], "offset": offset + len(whole)}


def _of_line(line: bytes) -> Event:
    text = line.decode(errors="replace")
    try:
        moment = datetime.fromisoformat(json.loads(text)["time"]).timestamp()
    except (ValueError, KeyError, TypeError):
        moment = time.time()
    return Event(int(moment * 1000), text)
