"""Differences between a fleet and the state of the stack, found by queries to the store and the servers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from platforms import operator
from platforms.transport import Store, Transport, Unreachable
from releases import lock, pointers, wheels
from releases.fleet import OF_RELEASE, PARALLEL, STATUS_COMMAND
from releases.journal import DAMAGED, completed_releases, entries
from releases.release import ID_LENGTH, has_archive
from releases.status import ReleaseStatus, parse_status

# Seconds for each server. One that does not respond needs `up --refresh`, and must not block another change.
STATUS_TIMEOUT_S = 15.0
# States of a unit that does not run and is not about to.
ENDED = ("inactive", "failed")
# What to do about a store that is damaged.
REPAIR = "`pulumi up` puts it right"
# The placeholder of a value that a preview cannot know (pulumi.runtime.rpc.UNKNOWN).
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


def find_drift(store: Store, release: str, manual_changes: int) -> str:
    """Return why the store shows that the fleet may not be on the release, or ""."""
    if damage := find_damage(store, release):
        return damage
    if manual_changes != pointers.manual_changes(store):
        return "an operator moved the fleet by hand, or `manual-changes` in the store is damaged"
    newest = next(entries(store), None)
    if not (newest and newest.is_settled):
        return "the last rollout did not end on all servers, or its journal is gone"
    return ""


def find_damage(store: Store, release: str | None = None, *, reads_archive: bool = True) -> str:
    """Return which file of the store is damaged, or "". release: what serves, where that is known.

    Of an archive that need not be read it checks only the presence.
    """
    return next(_damages(store, release, reads_archive=reads_archive), "")


def _damages(store: Store, release: str | None, *, reads_archive: bool) -> Iterator[str]:
    newest, serving = next(entries(store), None), pointers.current(store)
    if newest and newest.result == DAMAGED:
        yield newest.why
    expected = release or next(iter(completed_releases(store)), None)
    manifest, archive = (f"releases/{serving}/{file}" for file in ("manifest.json", "code.tar.gz"))
    content = store.read(manifest)
    # A rollout writes the pointer before it says that it is done.
    if serving != expected and (release or content is None):
        yield (
            f"release {serving} serves, not {expected} (after a rollback, or a rollout that was killed)"
            if serving and content is not None
            else f"{pointers.POINTER} in the store names no release"
        )
    if pointers.manual_changes(store) < 0:
        yield f"{pointers.MANUAL_CHANGES} in the store is damaged"
    if (lock_ := store.read(lock.KEY)) is not None and not lock.parse(lock_):
        yield f"{lock.KEY} in the store is damaged: nobody holds it"
    if serving and hashlib.sha256(content or b"").hexdigest()[:ID_LENGTH] != serving:
        yield f"{manifest} in the store is damaged or gone"
    elif serving and not (has_archive(store, content or b"", archive) if reads_archive else store.keys(archive)):
        yield f"{archive} in the store is damaged or gone"
    if serving and (key := wheels.find_key(store, serving)) and not wheels.is_whole(store, key):
        yield f"wheels/{key} in the store is gone"


def find_strays(
    reach: Mapping[str, Any], servers: Sequence[Mapping[str, str]], balancer: Mapping[str, str] | None, release: str
) -> list[str]:
    """Return a line for each server that responds but does not serve the release, and for a proxy that does not run.

    balancer: as RolloutResource has it. [] if no machine can be queried yet.
    """
    if UNKNOWN in json.dumps([reach, servers, balancer], default=repr):
        return []
    try:
        transport = operator.transport({**reach, "deadline_s": STATUS_TIMEOUT_S})
    except Unreachable:
        return []
    targets = [server["target"] for server in servers]
    with ThreadPoolExecutor(PARALLEL) as pool:
        state_future = pool.submit(proxy_state, transport, balancer) if balancer else None
        found = list(pool.map(partial(_find_drift, transport, release), targets))
    lines = [f"{server['name']} {why}" for server, why in zip(servers, found, strict=True) if why]
    if balancer and state_future and (state := state_future.result()) in ENDED:
        lines.append(f"{balancer['name']} does not serve: {balancer['unit']} is {state}")
    return lines


def proxy_state(transport: Transport, balancer: Mapping[str, str]) -> str:
    """Return what systemd calls the state of the balancer's proxy; "" where the balancer does not respond."""
    try:
        result = transport.exec(
            balancer["target"], ["systemctl", "is-active", balancer["unit"]], timeout_s=STATUS_TIMEOUT_S
        )
    except (Unreachable, TimeoutError):
        return ""
    return result.output.strip()


def _find_drift(transport: Transport, release: str, target: str) -> str:
    try:
        result = transport.exec(target, [STATUS_COMMAND, OF_RELEASE], timeout_s=STATUS_TIMEOUT_S)
        status = parse_status(ReleaseStatus, result.output)
    except (Unreachable, TimeoutError, ValueError):
        return ""
    if status.live != release:
        return f"serves {status.live or 'nothing'}"
    if not any(slot.release == release and slot.state == "active" for slot in status.slots.values()):
        return "does not run the release"
    if status.socket not in ("", "active"):
        return f"has a listening socket that is {status.socket}"
    return ""
