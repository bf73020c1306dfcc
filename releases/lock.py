"""One rollout of an application at a time, whoever starts it from wherever: a lock in its store."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from releases.transport import Store

KEY = "lock"
# Seconds: how often the holder says that it lives, and after how long a silent one counts as dead.
BEAT_S, DEAD_S = 10.0, 60.0


class Locked(Exception):
    """Somebody else moves this application. The text says who and since when."""


def whoami() -> str:
    """Who this is, for people who read it later: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A uid without an entry, as in a container.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@contextlib.contextmanager
def held(store: Store, what: str) -> Generator[None]:
    """Hold the lock. what: the work, in a few words. Raises Locked at once when somebody else has it."""
    content: dict[str, Any] = {
        "who": whoami(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": what,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "token": secrets.token_hex(8),
    }
    _take(store, content)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(store, content, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _read(store).get("token") == content["token"]:
            store.delete(KEY)


def _take(store: Store, content: dict[str, Any]) -> None:
    for _ in range(3):
        if store.create(KEY, _encoded(content)):
            return
        other = _read(store)
        if other and not _is_dead(other):
            raise Locked(
                f"{other['who']} is at work on this application since {other['since']} ({other['what']}); "
                "wait until that has ended"
            )
        # Whoever held it was killed. Two that see this at once are told apart by the create above; looking once more
        # keeps the slower one from deleting what the quicker one has made.
        if _read(store).get("token") == other.get("token"):
            store.delete(KEY)
    raise Locked("others keep taking the lock of this application; try again")


def _beat(store: Store, content: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        # One that was held up for so long that another took over must not take it back.
        if _read(store).get("token") != content["token"]:
            return
        store.write(KEY, _encoded(content))


def _is_dead(other: dict[str, Any]) -> bool:
    if other["host"] == socket.gethostname() and not Path(f"/proc/{other['process']}").exists():
        return True
    return time.time() - float(other["beat"]) > DEAD_S


def _encoded(content: dict[str, Any]) -> bytes:
    return json.dumps({**content, "beat": time.time()}).encode()


def _read(store: Store) -> dict[str, Any]:
    return json.loads(store.read(KEY) or b"{}")
