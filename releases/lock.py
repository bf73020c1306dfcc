"""A lock in the store of an application: it allows one rollout at a time, from any machine."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any, cast

from platforms.transport import Store

KEY = "lock"
_FIELDS = frozenset({"who", "since", "what", "host", "process", "token", "beat"})
# Seconds: how often the holder says that it lives, and after how long a silent one counts as dead.
HEARTBEAT_S, LEASE_S = 10.0, 60.0
# Seconds to wait for a rollout whose `pulumi` was killed: it has lost its terminal, and still ends what it began.
ORPHAN_S = 300.0


class Locked(Exception):
    """Another rollout of this application is running. The text says whose, and since when."""


def operator_name() -> str:
    """Return the operator as user@host, for people who read it later."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A uid without an entry, as in a container.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@contextlib.contextmanager
def acquire(store: Store, what: str, log: Callable[[str], None]) -> Generator[dict[str, str]]:
    """Hold the lock in this block. what: the work, in a few words. log: prints a wait for work whose starter is gone.

    Yields what each server printed last, which the caller fills; `./fleet status` shows it to others. Raises Locked at
    once if another process has it.
    """
    latest: dict[str, str] = {}
    content: dict[str, Any] = {
        "who": operator_name(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": what,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started_by": _started_by(),
        "token": secrets.token_hex(8),
        "servers": latest,
    }
    _take(store, content, log)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(store, content, ended), daemon=True)
    beat.start()
    try:
        yield latest
    finally:
        ended.set()
        beat.join()
        if _read(store).get("token") == content["token"]:
            store.delete(KEY)


def _take(store: Store, content: dict[str, Any], log: Callable[[str], None]) -> None:
    for _ in range(3):
        if store.create(KEY, _encode(content)):
            return
        other = _read(store)
        if other and _is_orphan(other) and not _is_dead(other):
            log(
                f"process {other['process']} is not done yet ({other['what']}), though who started it is gone; "
                f"waiting for up to {ORPHAN_S:.0f} s"
            )
            other = _wait_for_orphan(other, store)
        if other and not _is_dead(other):
            raise Locked(
                f"{other['who']} is at work on this application since {other['since']} ({other['what']}); "
                f"wait until that has ended (process {other['process']} on {other['host']}), then run the same command "
                "again"
            )
        # The holder was killed. When two rollouts see this at once, the create above succeeds for one of them. Reading
        # the lock again keeps the other one from deleting the new lock.
        if _read(store).get("token") == other.get("token"):
            store.delete(KEY)
    raise Locked("others keep taking the lock of this application; try again")


def _wait_for_orphan(orphan: dict[str, Any], store: Store) -> dict[str, Any]:
    """Return the lock once that process has released it, or unchanged after ORPHAN_S."""
    deadline = time.monotonic() + ORPHAN_S
    while (other := _read(store)).get("token") == orphan["token"] and not _is_dead(other):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return other


def _beat(store: Store, content: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        # A holder that was delayed so long that another took over must not take the lock back.
        if _read(store).get("token") != content["token"]:
            return
        # A copy, for threads that work on servers go on to fill it.
        store.write(KEY, _encode({**content, "servers": dict(content["servers"])}))


def _is_dead(other: dict[str, Any]) -> bool:
    if other["host"] == socket.gethostname() and not _runs(other["process"]):
        return True
    return time.time() - float(other["beat"]) > LEASE_S


def _is_orphan(other: dict[str, Any]) -> bool:
    return other["host"] == socket.gethostname() and not all(_runs(each) for each in other.get("started_by", []))


def _started_by() -> list[int]:
    """Return the processes above this one: of a rollout the plugin's shell, and the `pulumi` that started that."""
    parent = os.getppid()
    try:
        output = subprocess.run(["ps", "-o", "ppid=", "-p", str(parent)], check=True, capture_output=True, text=True)
        return [parent, int(output.stdout)]
    except (OSError, subprocess.CalledProcessError, ValueError):
        return [parent]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps({**content, "beat": time.time()}).encode()


def _read(store: Store) -> dict[str, Any]:
    return parse(store.read(KEY))


def parse(content: bytes | None) -> dict[str, Any]:
    """Return the content of a lock; {} where there is none or it is damaged.

    A damaged lock counts as free: a holder rewrites its lock every HEARTBEAT_S seconds, so it has no holder.
    """
    try:
        found: Any = json.loads(content or b"{}")
    except ValueError:
        return {}
    fields = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return fields if fields.keys() >= _FIELDS else {}
