"""The journal of rollouts: who released what, when, and how it went; one JSON line an event, in the store."""

from __future__ import annotations

import getpass
import json
import socket
import time
from datetime import UTC, datetime
from typing import Any

from releases.transport import Store

PREFIX = "journal/"


class Journal:
    """Events of one rollout. Written whole at each event, so that a killed rollout leaves all that it did."""

    def __init__(self, store: Store, *, release: str, app: str) -> None:
        now = datetime.now(UTC)
        self._store, self._begun = store, time.monotonic()
        self._key = f"{PREFIX}{now:%Y%m%dT%H%M%S.%f}-{release}.jsonl"
        who = f"{getpass.getuser()}@{socket.gethostname()}"
        self._head = {"release": release, "app": app, "who": who, "when": now.isoformat(timespec="seconds")}
        self._lines: list[str] = []

    def note(self, event: str, **details: Any) -> None:
        """Add an event; its time is in seconds since the rollout began."""
        head = self._head if not self._lines else {}
        line = {"event": event, "after_s": round(time.monotonic() - self._begun, 2), **head, **details}
        self._lines.append(json.dumps(line))
        self._store.write(self._key, ("\n".join(self._lines) + "\n").encode())

    def released(self) -> list[str]:
        """Releases that were rolled out to the end, newest first, each once."""
        found: dict[str, None] = {}
        for key in reversed(self._store.keys(PREFIX)):
            lines = [json.loads(line) for line in (self._store.read(key) or b"").splitlines()]
            if lines and lines[-1]["event"] == "done":
                found.setdefault(lines[0]["release"])
        return list(found)
