"""The servers of a group during a rollout: listed when needed, protected while they switch, and late ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager

from platforms.server_group import Member, Phase, ServerGroup, ServerGroupError
from platforms.transport import machine_id
from releases.fleet import Fleet, Server, ServerFailure, ServerFailures

# Seconds for a group to have as many machines as it must, and for the load balancer to find them healthy.
MEMBERS_TIMEOUT_S, HEALTH_TIMEOUT_S = 600.0, 300.0
LOOK_S = 5.0


def server_name(app: str, member: Member) -> str:
    """Return the name of a server in a group, as people see it."""
    return f"{app}-{member.id}"


class LiveServers:
    """The servers of an application's group. log: gets a line for each thing that happens."""

    def __init__(self, app: str, group: ServerGroup, log: Callable[[str], None]) -> None:
        self._app, self._group, self._log = app, group, log
        self._ids: dict[Server, str] = {}
        self._gone: set[Server] = set()

    def server(self, member: Member) -> Server:
        """Return a machine of the group as a server."""
        return self.add_server(server_name(self._app, member), member.target)

    def add_server(self, name: str, target: str) -> Server:
        """Return a server that was listed before."""
        server = Server(name, target)
        self._ids[server] = machine_id(target)
        return server

    def servers(self) -> list[Server]:
        """Return the servers that get a release: first those that get requests. Raises ServerGroupError."""
        members = [member for member in self._group.members() if member.takes_part]
        return [self.server(member) for member in sorted(members, key=lambda each: each.phase is not Phase.SERVING)]

    def wait(self) -> list[Server]:
        """Return the servers once there are as many as there must be. Raises ServerGroupError with the cause."""
        start_s, is_logged = time.monotonic(), False
        while len(found := self.servers()) < (least := self._group.minimum()):
            if time.monotonic() - start_s > MEMBERS_TIMEOUT_S:
                why = self._group.last_problem() or "EC2 Auto Scaling tells no reason"
                raise ServerGroupError(f"{len(found)} of {least} servers came in {MEMBERS_TIMEOUT_S:.0f} s: {why}")
            if not is_logged:
                self._log(f"waits for its servers: {len(found)} of {least} are there")
                is_logged = True
            time.sleep(LOOK_S)
        return found

    def wait_until_healthy(self) -> None:
        """Wait until as many as there must be get requests. Raises ServerGroupError."""
        start_s = time.monotonic()
        while len(found := self._group.healthy()) < (least := self._group.minimum()):
            if time.monotonic() - start_s > HEALTH_TIMEOUT_S:
                raise ServerGroupError(
                    f"{len(found)} of {least} servers get requests after {HEALTH_TIMEOUT_S:.0f} s; "
                    "`./fleet status` and `./fleet logs` say more"
                )
            time.sleep(LOOK_S)

    def has_gone(self, server: Server) -> bool:
        """Query whether a failed server has left the group, or is about to."""
        if server in self._gone:
            return True
        try:
            phases = {member.id: member.phase for member in self._group.members()}
        except ServerGroupError as error:
            self._log(f"whether {server.name} has left is not known: {error}")
            return False
        if phases.get(self._ids.get(server, ""), Phase.LEAVING) is not Phase.LEAVING:
            return False
        self._gone.add(server)
        self._log(f"{server.name} has left the group meanwhile")
        return True

    def present(self, servers: Collection[Server]) -> list[Server]:
        """Return the servers without those that were found to have gone."""
        return [server for server in servers if server not in self._gone]

    @contextmanager
    def protect(self, servers: Sequence[Server]) -> Generator[None]:
        """Have the group take none of these away in this block."""
        ids = [self._ids[server] for server in servers]
        self._group.protect(ids, on=True)
        try:
            yield
        finally:
            try:
                self._group.protect(ids, on=False)
            except ServerGroupError as error:
                self._log(f"servers stay protected from scale-in, for the next release to take that off: {error}")

    def stand_by(self, server: Server, *, on: bool) -> None:
        """Have the group send a server no requests, or send it requests again. Raises ServerGroupError."""
        self._group.stand_by(self._ids[server], on=on)

    def wait_for_boot(self, fleet: Fleet, server: Server) -> None:
        """Wait until cloud-init has made a machine a server. Raises ServerFailure with what it says of a failure."""
        # Only for groups: it loads all that renders templates.
        from rendering.common import BOOT_TIMEOUT_S, apply_files_command, files_to_apply  # noqa: PLC0415

        program, *arguments = apply_files_command()
        stdin, limit = files_to_apply({}).encode(), BOOT_TIMEOUT_S + 30
        fleet.run(server, "boot", arguments, stdin=stdin, timeout_s=limit, program=program)

    def bring_late(
        self, fleet: Fleet, verified_servers: Collection[Server], bring: Callable[[Server], bool]
    ) -> list[Server]:
        """Bring the release to servers that came meanwhile, which may have booted the one before; return those.

        The pointer names the release already, so each machine that is launched from now on boots it. bring: brings it
        where it does not serve, and returns whether it did. A server that cannot take it must not serve another
        release: the group replaces its machine.
        """
        verified, late, start_s = {self._ids[server] for server in verified_servers}, list[Server](), time.monotonic()
        expected: set[str] | None = None

        def look(server: Server) -> None:
            try:
                self.wait_for_boot(fleet, server)
                if bring(server):
                    late.append(server)
            except ServerFailure as failure:
                if not self.has_gone(server):
                    self._replace(server, failure)

        while True:
            present = {each.id: each for each in self._members() if each.phase is not Phase.LEAVING}
            expected = {*present} if expected is None else expected
            unverified = [present[id_] for id_ in sorted(expected - verified) if id_ in present]
            if not unverified or time.monotonic() - start_s > MEMBERS_TIMEOUT_S:
                break
            if ready := [self.server(each) for each in unverified if each.takes_part]:
                fleet.on_all(ready, look)
                verified |= {self._ids[server] for server in ready}
            else:
                time.sleep(LOOK_S)
        return late

    def _members(self) -> list[Member]:
        try:
            return self._group.members()
        except ServerGroupError as error:
            self._log(f"whether servers came meanwhile is not known: {error}")
            return []

    def _replace(self, server: Server, failure: ServerFailure | ServerFailures) -> None:
        self._log(f"{server.name} did not take the release and is replaced: {failure}")
        try:
            self._group.replace(self._ids[server])
        except ServerGroupError as error:
            self._log(f"{server.name} is not replaced: {error}")
