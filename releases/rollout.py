"""The rollout: the whole movement of a fleet from one release to another. Plain Python over a transport and a store.

It can be run again from any point: what is published, staged or serving already is a quick success. Nothing is switched
before every server has proven the release; if one fails to switch, all go back. So one release serves at the end.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from platforms.transport import SecretStore, Store, Transport
from releases import keeping, lock, pointers
from releases.client_watch import ClientWatch, WorseForClientsError, slices
from releases.fleet import Fleet, Server, ServerFailure, ServerFailures
from releases.hooks import NO_HOOKS, Hooks
from releases.journal import Journal
from releases.plan import Plan, batches
from releases.redaction import Redaction
from releases.static import StaticFiles
from releases.status import ReleaseStatus
from releases.threads import report_lost_threads
from releases.wheels import Wheels
from releases.workers import report_ended_workers
from settings.words import count

REMEDY = "Mend the cause and run the same command again (`pulumi up` or `make local`)."


class RolloutError(Exception):
    """The fleet is not on the new release. cause: servers, phase and cause, and what serves now. remedy: what to do."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__("\n".join(filter(None, (cause, remedy))))
        self.cause, self.remedy = cause, remedy


class Rollout:
    """One rollout of one plan. log: gets a line for each thing that happens. Raises RolloutError without servers.

    secrets: where servers find them when they boot, on platforms that have such a place. hooks: of the application.
    """

    def __init__(
        self,
        plan: Plan,
        transport: Transport,
        store: Store,
        log: Callable[[str], None],
        secrets: SecretStore | None = None,
        *,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self.plan, self.store, self.secrets, self.hooks = plan, store, secrets, hooks
        self.id = plan.release.id
        if not plan.servers:
            raise RolloutError(f"{plan.app}: there are no servers to release to")
        self.fleet = Fleet(
            plan.app,
            transport,
            log,
            first=plan.servers[0],
            start_timeout_s=plan.start_timeout_s,
            drain_timeout_s=plan.drain_timeout_s,
            clean=Redaction(plan.secrets.values()).clean,
        )
        self.static = StaticFiles(
            self.fleet, plan.balancer, self.id, plan.release.manifest, store if plan.keeps_static else None
        )
        self.wheels = Wheels(self.fleet, store, self.id, plan.release.manifest, plan.stage_timeout_s)
        # Server -> when it began and ended to stage, by time.monotonic().
        self._staged: dict[str, tuple[float, float]] = {}

    def run(self) -> None:
        """Move the fleet. Raises RolloutError; then no server serves the new release that served another before."""
        if rejected := pointers.rejection(self.store, self.id):
            raise RolloutError(f"{self.plan.app}: {rejected}")
        before = pointers.current(self.store)
        try:
            with lock.acquire(self.store, f"release {self.id}", self.fleet.log) as self.fleet.latest:
                journal = Journal(self.store, release=self.id, app=self.plan.app, revision=self.plan.revision)
                try:
                    self._run(journal)
                except RolloutError:
                    self.hooks.notify("failed", journal.facts)
                    raise
        except lock.Locked as error:
            raise RolloutError(f"{self.plan.app}: {error}") from error
        # Servers that are new take the release that serves; that is none.
        if before != self.id:
            self.hooks.notify("after_release", journal.facts)

    def _run(self, journal: Journal) -> None:
        start_s = time.monotonic()
        before = pointers.current(self.store)
        try:
            journal.note("begin", before=before, servers=[server.name for server in self.plan.servers])
            states = self._query_servers()
            if before != self.id:
                self.hooks.run("before_release", journal.facts)
            keeping.publish(self.store, self.plan.release, self.secrets, self.plan.secrets)
            journal.note("published")
            first = next(iter(states))
            runs_task = self._needs_task(states)
            # Where it is staged already, another rollout has proven it without the task.
            is_task_first = runs_task and self.plan.task_before_proof and self.id not in states[first].staged
            self._stage(list(states), first if is_task_first else None)
            if is_task_first:
                journal.note("release task", server=first.name)
            journal.note(
                "staged", spans={name: [*map(journal.seconds_at, each)] for name, each in self._staged.items()}
            )
            report_lost_threads(self.fleet, first, self.plan.release.manifest, time.monotonic() - start_s)
            self.static.publish(first)
            if runs_task and not is_task_first:
                self._release_task(first, journal)
            self._switch(states, before, journal)
            pointers.set_current(self.store, self.id)
        except Exception as error:
            journal.note_error(error)
            self.static.discard()
            raise RolloutError(f"{self.plan.app}: {error}\n{self._what_serves(before)}", REMEDY) from error
        # It serves; what is left must not make it look as if it did not.
        late = self._update_late_servers(states, journal)
        missing = [*self._missing(states, late), *self.static.activate()]
        keeping.prune(
            self.store, self.id, self.plan.keep_releases, fleet=self.fleet, servers=[*states, *late],
            kept=self.secrets, wheels=self.wheels, static=self.static,
        )  # fmt: skip
        report_ended_workers(self.fleet, [*states, *late], self.plan.release.manifest)
        journal.note("done", seconds=round(time.monotonic() - start_s, 1), missing=missing)
        self.fleet.log(f"release {self.id} serves on {count(len(states) + len(late), 'server')}")

    def _what_serves(self, before: str | None) -> str:
        serves = f"release {before} still serves" if before else "no other release was there before"
        return f"release {self.id} was not taken: {serves}."

    def _query_servers(self) -> dict[Server, ReleaseStatus]:
        """Return what each server runs now. Leave out a server that cannot be reached, if the plan allows it."""
        states: dict[Server, ReleaseStatus] = {}
        missing: list[str] = []

        def ask(server: Server) -> None:
            try:
                states[server] = self.fleet.status(server)
            except ServerFailure as failure:
                if self.fleet.has_gone(server):
                    return
                if not failure.is_unreachable:
                    raise
                missing.append(str(failure))

        self.fleet.on_all(self.plan.servers, ask)
        if len(missing) > self.plan.allow_unreachable:
            raise RuntimeError("\n".join(sorted(missing)))
        if not states:
            raise RuntimeError("no server can be reached")
        for line in missing:
            self.fleet.log(f"goes on without it (allow_unreachable): {line}")
        return {server: states[server] for server in self.plan.servers if server in states}

    def _stage(self, servers: Sequence[Server], runs_task_on: Server | None) -> None:
        """Prove the release on servers. runs_task_on: the one that runs the release task before."""
        if runs_task_on:
            self.wheels.stage([runs_task_on], lambda server: self._stage_one(server, with_task=True))
        self.wheels.stage([server for server in servers if server != runs_task_on], self._stage_one)

    def _stage_one(self, server: Server, *, with_task: bool = False) -> None:
        stdin = json.dumps(dict(self.plan.secrets)).encode()
        limit = self.plan.stage_timeout_s + self.plan.start_timeout_s + 30
        if with_task:
            arguments, limit = ["stage", self.id, "task"], limit + self.plan.task_timeout_s
        else:
            arguments = ["stage", self.id]
        begin_s = time.monotonic()
        self.fleet.run(server, "stage", arguments, stdin=stdin, timeout_s=limit, handle=self.wheels.handle_line)
        self._staged[server.name] = begin_s, time.monotonic()

    def _needs_task(self, states: Mapping[Server, ReleaseStatus]) -> bool:
        """Return whether the release has a task to run. A fleet that serves the release already has run it."""
        has_task = bool(json.loads(self.plan.release.manifest).get("release_task"))
        return has_task and any(state.live != self.id for state in states.values())

    def _release_task(self, server: Server, journal: Journal) -> None:
        """Run the release task once, by the new code, before it serves anywhere."""
        self.fleet.run(server, "release task", ["task", self.id], timeout_s=self.plan.task_timeout_s)
        journal.note("release task", server=server.name)

    def _switch(self, states: Mapping[Server, ReleaseStatus], before: str | None, journal: Journal) -> None:
        """Switch the canary, then batches. If a server fails, all that are or may be on the new release go back.

        So do they if clients see more errors or slower responses than the settings allow.
        """
        # A rollout that was killed may have left servers on the new release, and the first one not watched to its end.
        switched = [server for server, state in states.items() if state.live == self.id]
        guard, watch = threading.Lock(), self._client_watch(states, before, journal)

        def switch(server: Server) -> None:
            with guard:
                if server not in switched:
                    switched.append(server)
            begin_s = time.monotonic()
            self.fleet.switch(server, self.id)
            journal.note_switch("switched", server.name, begin_s)
            if watch:
                with guard:
                    watch.add(server)

        canary, *rest = states
        try:
            if all(state.live is None for state in states.values()):
                # Nothing serves that could be hurt: the first release, on new servers.
                self.fleet.on_all(states, switch)
                return
            self.fleet.on_all([canary], switch)
            is_proven = before == self.id or all(state.live == self.id for state in states.values())
            if (rest or watch) and self.plan.bake_s and not (is_proven and states[canary].live == self.id):
                self._bake(canary, watch)
            for batch in batches(rest, self.plan.batch_size):
                self.fleet.on_all(batch, switch)
                if watch:
                    watch.check()
        except (ServerFailures, ServerFailure, WorseForClientsError) as error:
            journal.note("switch failed", why=str(error))
            raise RuntimeError(
                "\n".join([str(error), *self._switch_back(switched, states, before, journal)])
            ) from error

    def _client_watch(
        self, states: Mapping[Server, ReleaseStatus], before: str | None, journal: Journal
    ) -> ClientWatch | None:
        """Return what judges the release by what clients see; None where there is no other one to compare it with."""
        others = [server for server, state in states.items() if state.live not in (None, self.id)]
        if self.plan.client_limits is None or not others or before == self.id:
            return None
        watch = ClientWatch(self.fleet, self.plan.client_limits, self.id, others, journal)
        for server, state in states.items():
            if state.live == self.id:
                watch.add(server)
        return watch

    def _bake(self, canary: Server, watch: ClientWatch | None) -> None:
        self.fleet.log(f"{canary.name} is watched for {self.plan.bake_s} s")
        for part_s in slices(self.plan.bake_s) if watch else [self.plan.bake_s]:
            self.fleet.run(canary, "canary", ["bake", self.id, f"{part_s:g}"], timeout_s=part_s + 60)
            if watch:
                watch.check()

    def _switch_back(
        self,
        switched: Sequence[Server],
        states: Mapping[Server, ReleaseStatus],
        previous: str | None,
        journal: Journal,
    ) -> list[str]:
        """Switch touched servers back to the pointer's release, all at once: they have it, and the new one is bad.

        Return what could not be undone. A server that fails to go back takes the pointer's release when it boots.
        """

        def switch_back(server: Server) -> None:
            target = previous or states[server].live
            if target in (None, self.id):
                return
            begin_s = time.monotonic()
            self.fleet.switch(server, target)
            journal.note_switch("went back", server.name, begin_s, release=target)

        try:
            self.fleet.on_all(switched, switch_back)
        except ServerFailures as error:
            return [f"going back failed as well: {failure}" for failure in error.failures]
        return []

    def _update_late_servers(self, states: Mapping[Server, ReleaseStatus], journal: Journal) -> list[Server]:
        """Switch servers that booted meanwhile and took what the pointer named then.

        One that fails takes the new release at its next boot.
        """
        del states  # those that took part are looked at again, too
        late: list[Server] = []

        def look(server: Server) -> None:
            try:
                late.extend([server] if self._bring_server(server) else [])
            except ServerFailure as failure:
                self.fleet.log(f"takes {self.id} when it boots: {failure}")

        self.fleet.on_all(self.plan.servers, look)
        return self._note_late(late, journal)

    def _bring_server(self, server: Server) -> bool:
        """Install the release on a server unless it is live there. Return whether it was not. Raises ServerFailure."""
        if self.fleet.status(server).live == self.id:
            return False
        self._stage_one(server)
        self.fleet.switch(server, self.id)
        return True

    def _missing(self, states: Mapping[Server, ReleaseStatus], late: Sequence[Server]) -> list[str]:
        """Return the servers that the release did not reach."""
        return [server.name for server in self.plan.servers if server not in states and server not in late]

    def _note_late(self, late: list[Server], journal: Journal) -> list[Server]:
        if late:
            journal.note("took along", servers=sorted(server.name for server in late))
        return late
