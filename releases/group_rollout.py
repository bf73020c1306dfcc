"""The rollout over a group that moves: servers that go are no failure, and those that come take the release as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from platforms.server_group import ServerGroupError
from platforms.transport import SecretStore, Store, Transport
from releases.client_watch import ClientWatch
from releases.fleet import Server, ServerFailure
from releases.hooks import NO_HOOKS, Hooks
from releases.journal import Journal
from releases.live import LiveServers
from releases.plan import Plan
from releases.rollout import Rollout, RolloutError
from releases.status import ReleaseStatus
from releases.wheels import Wheels

NO_SERVERS = "every server that took part has left the group"


class GroupRollout(Rollout):
    """One rollout of one plan, whose servers are those that the group had when it began."""

    def __init__(
        self,
        plan: Plan,
        transport: Transport,
        store: Store,
        log: Callable[[str], None],
        secrets: SecretStore | None = None,
        *,
        hooks: Hooks = NO_HOOKS,
        live: LiveServers,
    ) -> None:
        self._live = live
        super().__init__(plan, transport, store, log, secrets, hooks=hooks)
        self.fleet.has_gone = live.has_gone

    def run(self) -> None:
        """Move the fleet, while the group leaves its servers alone. Raises RolloutError."""
        try:
            with self._live.protect(self.plan.servers):
                super().run()
            self._live.wait_until_healthy()
        except ServerGroupError as error:
            raise RolloutError(f"{self.plan.app}: {error}") from error

    def _query_servers(self) -> dict[Server, ReleaseStatus]:
        self.fleet.on_all(self.plan.servers, lambda server: self._live.wait_for_boot(self.fleet, server))
        return super()._query_servers()

    def _stage(self, servers: Sequence[Server], runs_task_on: Server | None) -> None:
        super()._stage(servers, runs_task_on)
        # Who installs first takes along what the others wait for.
        while servers[0] not in (left := self._live.present(servers)):
            if not left:
                raise RuntimeError(NO_SERVERS)
            servers = left
            self.wheels = Wheels(self.fleet, self.store, self.id, self.plan.release.manifest, self.plan.stage_timeout_s)
            super()._stage(servers, None)

    def _release_task(self, server: Server, journal: Journal) -> None:
        for each in [server, *self._live.present([one for one in self.plan.servers if one != server])]:
            try:
                super()._release_task(each, journal)
                return
            except ServerFailure:
                if not self._live.has_gone(each):
                    raise
        raise RuntimeError(NO_SERVERS)

    def _switch(self, states: Mapping[Server, ReleaseStatus], before: str | None, journal: Journal) -> None:
        present = self._live.present(states)
        super()._switch({server: states[server] for server in present}, before, journal)
        if not self._live.present(present):
            raise RuntimeError(NO_SERVERS)

    def _bake(self, canary: Server, watch: ClientWatch | None) -> None:
        try:
            super()._bake(canary, watch)
        except ServerFailure:
            if not self._live.has_gone(canary):
                raise

    def _update_late_servers(self, states: Mapping[Server, ReleaseStatus], journal: Journal) -> list[Server]:
        late = self._live.bring_late(self.fleet, self._live.present(states), self._bring_server)
        return self._note_late(late, journal)

    def _missing(self, states: Mapping[Server, ReleaseStatus], late: Sequence[Server]) -> list[str]:
        present = self._live.present(self.plan.servers)
        return [server.name for server in present if server not in states and server not in late]
