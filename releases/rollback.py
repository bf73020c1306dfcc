"""The way back: makes an earlier release serve at once, on all servers, without the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from platforms.transport import Store
from releases import lock, pointers
from releases.fleet import Fleet, Server, ServerFailure, ServerFailures
from releases.hooks import NO_HOOKS, Hooks
from releases.journal import Journal, completed_releases
from releases.live import LiveServers
from releases.static import StaticFiles


class RollbackError(Exception):
    """The fleet did not go back, or not whole. The text says what is where and what to do."""


def target_of(store: Store, journal_releases: Sequence[str], release_prefix: str | None) -> str:
    """Return the release to go back to: the wanted one, or the newest that served before and was not rejected.

    Raises RollbackError where there is none, with those that there are.
    """
    now = pointers.current(store)
    stored = {key.split("/")[1] for key in store.keys("releases/")}
    served = [release for release in journal_releases if release in stored and release != now]
    if release_prefix is not None:
        found = [release for release in served if release.startswith(release_prefix)]
        if len(found) == 1:
            return found[0]
        raise RollbackError(
            (
                f"there is no release {release_prefix}; these can be gone back to: {', '.join(served)}"
                if served
                else f"there is no release {release_prefix}, nor another one to go back to"
            )
            if now != release_prefix
            else f"{release_prefix} serves already"
        )
    good = [release for release in served if pointers.rejection(store, release) is None]
    if not good:
        raise RollbackError(f"there is no release before {now or 'the first'} to go back to (`./fleet releases`)")
    return good[0]


def _switch(fleet: Fleet, server: Server, release: str, journal: Journal, event: str) -> None:
    begin_s = time.monotonic()
    fleet.switch(server, release)
    journal.note_switch(event, server.name, begin_s)


def _undo(fleet: Fleet, servers: Sequence[Server], release: str | None, journal: Journal) -> list[str]:
    """Undo a rollback that failed on some servers: one release shall serve."""
    if release is None:
        return []
    try:
        fleet.on_all(servers, lambda server: _switch(fleet, server, release, journal, "went back"))
    except ServerFailures as error:
        return [f"returning to {release} failed as well: {failure}" for failure in error.failures]
    return []


def roll_back(
    fleet: Fleet,
    store: Store,
    servers: Sequence[Server],
    release_prefix: str | None,
    log: Callable[[str], None],
    *,
    balancer: Server | None = None,
    keeps_static: bool = False,
    live: LiveServers | None = None,
    hooks: Hooks = NO_HOOKS,
) -> str:
    """Make an earlier release serve everywhere and reject the one that served. The id of what serves now.

    All servers at a time: they have it staged. balancer: serves static files, if there are any. keeps_static:
    whether the store keeps them as well. live: the group that they are of, where their number follows the load.
    hooks: of the application.

    Raises RollbackError.
    """
    start_s = time.monotonic()
    before = pointers.current(store)
    target = target_of(store, completed_releases(store), release_prefix)
    try:
        with lock.acquire(store, f"rollback to {target}", log):
            journal, away = Journal(store, release=target, app=fleet.app), list[str]()
            journal.note("begin", before=before, servers=[server.name for server in servers], rollback=True)
            manifest = store.read(f"releases/{target}/manifest.json")
            static = StaticFiles(fleet, balancer, target, manifest, store if keeps_static else None)
            try:
                static.publish(servers[0])
            except ServerFailure as failure:
                # The balancer usually has them already, and a rollback is urgent.
                log(f"goes on without its static files (`pulumi up` brings them): {failure}")

            def go_back(server: Server) -> bool:
                found = fleet.status(server)
                if target not in found.staged:
                    # A server made since: it takes the secrets that it has, as at boot.
                    fleet.run(server, "stage", ["stage", target], stdin=b"null", timeout_s=600)
                _switch(fleet, server, target, journal, "switched")
                return found.live != target

            try:
                fleet.on_all(servers, go_back)
            except ServerFailures as error:
                reached = {failure.server for failure in error.failures if not failure.is_unreachable}
                if reached or len(error.failures) == len(servers):
                    problems = [str(error), *_undo(fleet, servers, before, journal)]
                    journal.note_error(error)
                    static.discard()
                    hooks.notify("failed", journal.facts)
                    raise RollbackError("\n".join([*problems, f"release {before} still serves"])) from error
                away += sorted(failure.server.name for failure in error.failures)
                log(f"takes {target} when it boots: {error}")
            # First that it must not come back, then that the other serves: a kill between leaves the safe half.
            if before and before != target:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                pointers.reject(store, pointers.Rejection(before, lock.operator_name(), now))
            pointers.allow(store, target)
            pointers.set_current(store, target)
            pointers.count_manual_change(store)
            late = {each.name for each in live.bring_late(fleet, servers, go_back)} if live else set[str]()
            missing = [*(name for name in away if name not in late), *static.activate()]
            journal.note("done", seconds=round(time.monotonic() - start_s, 1), missing=missing)
    except lock.Locked as error:
        raise RollbackError(str(error)) from error
    hooks.notify("rolled_back", journal.facts)
    return target
