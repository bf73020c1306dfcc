"""The journal: who released what, when, and how it went; one JSON line an event, in the store."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from platforms.transport import Store
from releases.lock import operator_name

PREFIX = "journal/"
# The result of an entry whose file does not read.
DAMAGED = "damaged"
# The result of a movement whose process was ended meanwhile, and how Python says that to its threads.
INTERRUPTED = "interrupted"
_SHUTDOWN = "interpreter shutdown"


@dataclass(frozen=True)
class Entry:
    """One rollout or rollback. result: done, failed, interrupted, or the last thing that a killed one did.

    when: ISO 8601. revision: of the source in its version control, "" where it has none. seconds: None if killed.
    missing: servers that were left out because they were unreachable.
    """

    release: str
    who: str
    when: str
    revision: str
    is_rollback: bool
    result: str
    seconds: float | None
    why: str
    missing: tuple[str, ...]

    @property
    def is_settled(self) -> bool:
        """Return whether every server is surely on its release."""
        return self.result == "done" and not self.missing

    @property
    def is_unfinished(self) -> bool:
        """Return whether it is at work, or was ended before its end: servers may be on its release or not."""
        return self.result not in ("done", "failed", DAMAGED)


class Journal:
    """Events of one movement. Written whole at each event, so that a killed one leaves all that it did.

    facts: the details of all events together, by name; of the last event that has one.
    """

    def __init__(self, store: Store, *, release: str, app: str, revision: str = "") -> None:
        now = datetime.now(UTC)
        self._store, self._begun = store, time.monotonic()
        self._key = f"{PREFIX}{now:%Y%m%dT%H%M%S.%f}-{release}.jsonl"
        when = now.isoformat(timespec="seconds")
        self._head = {"release": release, "app": app, "who": operator_name(), "when": when, "revision": revision}
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self.facts: dict[str, Any] = {}

    def note(self, event: str, **details: Any) -> None:
        """Add an event; its time is in seconds since the movement began."""
        with self._lock:
            head = self._head if not self._lines else {}
            self.facts |= {**head, **details}
            line = {"event": event, "after_s": self.seconds_at(time.monotonic()), **head, **details}
            self._lines.append(json.dumps(line))
            self._store.write(self._key, ("\n".join(self._lines) + "\n").encode())

    def note_switch(self, event: str, server: str, begin_s: float, **details: Any) -> None:
        """Add that a server has switched. begin_s: when that began, by time.monotonic().

        A store that fails must not end a movement between its servers. The next event writes this one as well.
        """
        with suppress(Exception):
            self.note(event, server=server, began_s=self.seconds_at(begin_s), **details)

    def seconds_at(self, moment_s: float) -> float:
        """Return a moment of time.monotonic() as seconds since the movement began."""
        return round(moment_s - self._begun, 2)

    def note_error(self, error: Exception) -> None:
        """Add how the movement failed; an end from outside in words, not in Python's."""
        seconds = round(time.monotonic() - self._begun, 1)
        if _SHUTDOWN in str(error):
            why = "the command was ended while it was running; run the same command again"
            self.note(INTERRUPTED, why=why, seconds=seconds)
        else:
            self.note("failed", why=str(error), seconds=seconds)


def entries(store: Store) -> Iterator[Entry]:
    """Yield the entries of the journal, newest first."""
    for key in reversed(store.keys(PREFIX)):
        content = store.read(key) or b""
        try:
            lines: list[dict[str, Any]] = [json.loads(line) for line in content.splitlines()]
            if lines:
                yield _entry(lines[0], lines[-1])
        except (ValueError, KeyError, TypeError, AttributeError):
            when, _, release = key.removeprefix(PREFIX).removesuffix(".jsonl").rpartition("-")
            why = f"{key} in the store is damaged; delete it, or leave it: nothing is decided by it"
            yield Entry(release, "-", when, "", is_rollback=False, result=DAMAGED, seconds=None, why=why, missing=())


@dataclass(frozen=True)
class Movement:
    """All that one rollout or rollback wrote. begin_s: since 1970, by the clock of who wrote it."""

    begin_s: float
    events: Sequence[Mapping[str, Any]]


def read_movement(store: Store, release: str) -> Movement | None:
    """Return the newest movement to a release whose id begins so. None if there is none that reads."""
    for key in reversed(store.keys(PREFIX)):
        when, _, id_ = key.removeprefix(PREFIX).removesuffix(".jsonl").rpartition("-")
        if id_.startswith(release):
            try:
                events = [json.loads(line) for line in (store.read(key) or b"").splitlines()]
                begin = datetime.strptime(f"{when}+0000", "%Y%m%dT%H%M%S.%f%z")
            except ValueError:
                continue
            if events and all(isinstance(each, dict) for each in events):
                return Movement(begin.timestamp(), events)
    return None


def _entry(first: dict[str, Any], last: dict[str, Any]) -> Entry:
    return Entry(
        release=first["release"],
        who=first["who"],
        when=first["when"],
        revision=first.get("revision", ""),
        is_rollback=bool(first.get("rollback")),
        result=last["event"],
        seconds=last.get("seconds"),
        why=last.get("why", ""),
        missing=tuple(last.get("missing", ())),
    )


def completed_releases(store: Store) -> list[str]:
    """Return the releases that were rolled out (or back to) to the end, newest first, each once."""
    return list(dict.fromkeys(entry.release for entry in entries(store) if entry.result == "done"))
