"""The rollout: the whole movement of a fleet from one release to another. Plain Python over a transport and a store.

It can be run again from any point: what is published, staged or serving already is a quick success. Nothing is switched
before every server has proven the release, and a server that fails to switch takes the ones before it back with it.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from releases.journal import Journal
from releases.release import Release
from releases.transport import Result, Store, Transport, Unreachable

COMMAND = "/usr/local/lib/wsgi-fleet/release.py"
POINTER = "pointer"
# Servers worked on at a time; each holds a connection and a thread.
PARALLEL = 16


@dataclass(frozen=True)
class Server:
    """name: as a person knows it. target: what the transport calls it."""

    name: str
    target: str


@dataclass(frozen=True)
class Plan:
    """What one rollout is to do. Times in seconds; keep_releases counts the new one.

    allow_unreachable: servers that may be missing; they take the release when they boot.
    """

    app: str
    release: Release
    servers: Sequence[Server]
    secrets: Mapping[str, str] = field(repr=False)
    stage_timeout_s: int
    start_timeout_s: int
    drain_timeout_s: int
    allow_unreachable: int
    keep_releases: int


class RolloutError(Exception):
    """The fleet is not on the new release. The text names servers, phase and cause, and says what serves now."""


class _Failed(Exception):
    """One server could not do its part."""

    def __init__(self, server: Server, phase: str, why: str) -> None:
        super().__init__(f"{server.name}, {phase}: {why}")


class Rollout:
    """One rollout of one plan. say: gets a line for each thing that happens."""

    def __init__(self, plan: Plan, transport: Transport, store: Store, say: Callable[[str], None]) -> None:
        self.plan, self.transport, self.store = plan, transport, store
        self.id = plan.release.id
        self._tell = say
        self.journal = Journal(store, release=self.id, app=plan.app)

    def run(self) -> None:
        """Move the fleet. Raises RolloutError; then no server serves the new release that served another before."""
        begun = time.monotonic()
        before = current(self.store)
        if not self.plan.servers:
            raise RolloutError(f"{self.plan.app}: there are no servers to release to")
        try:
            self.journal.note("begin", before=before, servers=[server.name for server in self.plan.servers])
            states = self._reach()
            self._publish()
            self._stage(list(states))
            self._switch(states)
            self.store.write(POINTER, self.id.encode())
            self._prune(list(states))
        except Exception as error:
            self.journal.note("failed", why=str(error))
            if isinstance(error, RolloutError):
                raise
            raise RolloutError(f"{self.plan.app}: {error}\n{self._what_serves(before)}") from error
        self.journal.note("done", seconds=round(time.monotonic() - begun, 1))
        self._say(f"release {self.id} serves on {len(states)} servers")

    def _say(self, text: str) -> None:
        self._tell(f"{self.plan.app}: {text}")

    def _what_serves(self, before: str | None) -> str:
        serves = (
            f"release {before} still serves" if before and before != self.id else "no other release was there before"
        )
        return f"release {self.id} was not taken: {serves}. Mend the cause and run `pulumi up` again."

    def _publish(self) -> None:
        prefix = f"releases/{self.id}"
        # The manifest last: where it is, the archive is whole.
        if self.store.read(f"{prefix}/manifest.json") != self.plan.release.manifest:
            self.store.write(f"{prefix}/code.tar.gz", self.plan.release.archive)
            self.store.write(f"{prefix}/manifest.json", self.plan.release.manifest)
        self.journal.note("published")

    def _reach(self) -> dict[Server, dict[str, Any]]:
        """What each server runs now; a server that cannot be reached is left out if the plan allows it."""
        states: dict[Server, dict[str, Any]] = {}
        missing: list[str] = []

        def ask(server: Server) -> None:
            try:
                states[server] = json.loads(self._command(server, "reach", ["status"], timeout_s=60, quiet=True).output)
            except _Failed as failed:
                if not isinstance(failed.__cause__, Unreachable):
                    raise
                missing.append(str(failed))

        self._everywhere(self.plan.servers, ask)
        if len(missing) > self.plan.allow_unreachable:
            raise RuntimeError("\n".join(sorted(missing)))
        if not states:
            raise RuntimeError("no server can be reached")
        for line in missing:
            self._say(f"goes on without it (allow_unreachable): {line}")
        return {server: states[server] for server in self.plan.servers if server in states}

    def _stage(self, servers: Sequence[Server]) -> None:
        stdin = json.dumps(dict(self.plan.secrets)).encode()
        limit = self.plan.stage_timeout_s + self.plan.start_timeout_s + 30
        self._everywhere(
            servers, lambda server: self._command(server, "stage", ["stage", self.id], stdin=stdin, timeout_s=limit)
        )
        self.journal.note("staged")

    def _switch(self, states: Mapping[Server, Mapping[str, Any]]) -> None:
        """One server after the other; if one fails, those before it go back to what they served."""
        switched: list[Server] = []
        for server in states:
            try:
                self._switch_one(server, self.id)
            except _Failed as error:
                self.journal.note("switch failed", server=server.name)
                problems = [str(error), *self._go_back(switched, states)]
                raise RuntimeError("\n".join(problems)) from error
            switched.append(server)
            self.journal.note("switched", server=server.name)

    def _switch_one(self, server: Server, release: str) -> None:
        limit = self.plan.start_timeout_s + self.plan.drain_timeout_s * 2 + 30
        self._command(server, "switch", ["switch", release], timeout_s=limit)

    def _go_back(self, switched: Sequence[Server], states: Mapping[Server, Mapping[str, Any]]) -> list[str]:
        problems: list[str] = []
        for server in reversed(switched):
            before = states[server]["live"]
            if before in (None, self.id):
                continue
            try:
                self._switch_one(server, before)
                self.journal.note("went back", server=server.name, release=before)
            except _Failed as error:
                problems.append(f"going back to {before} failed as well: {error}")
        return problems

    def _prune(self, servers: Sequence[Server]) -> None:
        """Keep the newest releases, there and in the store. A server that cannot prune is no failed release."""
        kept = self.journal.released()[: self.plan.keep_releases - 1]
        keep = [self.id, *(release for release in kept if release != self.id)]
        for key in self.store.keys("releases/"):
            if key.split("/")[1] not in keep:
                self.store.delete(key)
        try:
            self._everywhere(servers, lambda server: self._command(server, "prune", ["prune", *keep], timeout_s=60))
        except RuntimeError as error:
            self._say(f"old releases stay for now: {error}")

    def _everywhere(self, servers: Sequence[Server], work: Callable[[Server], object]) -> None:
        """Do the work on the servers in parallel; every server that fails is in the error."""
        problems: list[str] = []
        with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
            for future in [pool.submit(work, server) for server in servers]:
                try:
                    future.result()
                except _Failed as error:
                    problems.append(str(error))
        if problems:
            raise RuntimeError("\n".join(problems))

    def _command(
        self, server: Server, phase: str, arguments: Sequence[str], *,
        timeout_s: float, stdin: bytes = b"", quiet: bool = False,
    ) -> Result:  # fmt: skip
        try:
            result = self.transport.exec(
                server.target, [COMMAND, *arguments], stdin=stdin, timeout_s=timeout_s,
                on_line=None if quiet else lambda line: self._say(f"{server.name}: {line}"),
            )  # fmt: skip
        except Unreachable as error:
            raise _Failed(server, phase, f"unreachable: {error}") from error
        except TimeoutError as error:
            raise _Failed(server, phase, f"`{shlex.join(arguments)}` did not finish in {timeout_s:.0f} s") from error
        if result.exit_code:
            why = result.output.strip().rpartition("error: ")[2] or f"exit code {result.exit_code}"
            raise _Failed(server, phase, why)
        return result


def current(store: Store) -> str | None:
    """The release that the store's pointer names: the one that serves, and that booting servers take."""
    content = store.read(POINTER)
    return content.decode().strip() or None if content else None
