"""SSH connections to machines: through a jump host, or through an EC2 Instance Connect Endpoint.

With asyncssh: typed, tunnels through a connection it has, and brings the server that the tests run against.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncssh

from platforms import STATE
from platforms.aws.known_hosts import KnownHosts
from platforms.aws.tunnel import MAX_TUNNELS, TUNNEL_LIFETIME_S, Endpoint, open_socket
from platforms.transport import Unreachable

# One kind of host key, so that what is pinned does not depend on what was negotiated.
HOST_KEY = "ssh-ed25519"
# Seconds for one attempt.
CONNECT_S = 10.0
# Tunnels of this process, over all its transports: commands of colleagues need some as well.
TUNNELS_PER_PROCESS = 16
_TUNNEL_SLOTS = threading.BoundedSemaphore(TUNNELS_PER_PROCESS)
# Seconds to wait for one of them.
TUNNEL_WAIT_S = 900.0


class WrongHostKey(Exception):
    """The machine shows another key than it did at first."""


class Connector(Protocol):
    """How to connect to machines. name: for errors. lifetime_s: of a connection; None: no limit."""

    name: str
    lifetime_s: float | None

    def reserve(self, machine: str) -> Any:
        """Return a context in which one connection may be used; entered and left in the caller's thread."""
        ...

    async def connect(self, machine: str) -> asyncssh.SSHClientConnection:
        """Return a connection. Raises WrongHostKey, TunnelRefused, OSError or asyncssh.Error."""
        ...

    def give_back(self, connection: asyncssh.SSHClientConnection) -> None:
        """Take back a connection that is no longer used."""
        ...

    async def close(self) -> None:
        """End all connections."""
        ...


class Login:
    """User, key and known host keys of connections. A machine is `<name>@<address>`."""

    def __init__(self, user: str, private_key: str, known_hosts: KnownHosts, *, port: int = 22) -> None:
        self.user, self._port = user, port
        self._key = asyncssh.import_private_key(private_key)
        self._known = known_hosts

    async def connect(
        self, machine: str, *, jump: asyncssh.SSHClientConnection | None = None, sock: socket.socket | None = None
    ) -> asyncssh.SSHClientConnection:
        """Return a new connection, through a jump host or over a given socket. Raises WrongHostKey."""
        name, _, address = machine.rpartition("@")
        first = _FirstContact(self._known, name or address)
        try:
            return await asyncssh.connect(
                address,
                self._port,
                tunnel=jump,
                sock=sock,
                username=self.user,
                client_keys=[self._key],
                agent_path=None,
                config=None,
                known_hosts=([], [], []),
                server_host_key_algs=[HOST_KEY],
                client_factory=lambda: first,
                connect_timeout=CONNECT_S,
                login_timeout=CONNECT_S,
                keepalive_interval=15,
                keepalive_count_max=4,
            )
        except asyncssh.HostKeyNotVerifiable:
            raise WrongHostKey(f"{machine}: {self._known.refusal(name or address)}") from None


class JumpHostConnector:
    """One connection to the jump host and one to each machine, kept for all calling threads.

    Twenty servers at once do not run into the jump host's MaxStartups (10 by default).
    """

    lifetime_s: float | None = None

    def __init__(self, login: Login, jump_host: str) -> None:
        self.name = jump_host
        self._login = login
        self._connections: dict[str, asyncssh.SSHClientConnection] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    @contextmanager
    def reserve(self, machine: str) -> Generator[None]:
        """Implement Connector.reserve: there is nothing to wait for."""
        del machine
        yield

    async def connect(self, machine: str) -> asyncssh.SSHClientConnection:
        """Implement Connector.connect: return the open connection, or a new one if there is none."""
        async with self._locks.setdefault(machine, asyncio.Lock()):
            connection = self._connections.get(machine)
            if connection and not connection.is_closed():
                return connection
            jump = None if machine == self.name else await self.connect(self.name)
            self._connections[machine] = await self._login.connect(machine, jump=jump)
            return self._connections[machine]

    def give_back(self, connection: asyncssh.SSHClientConnection) -> None:
        """Implement Connector.give_back: keep it for the next command."""

    async def close(self) -> None:
        """Implement Connector.close."""
        for connection in self._connections.values():
            connection.close()
        for connection in self._connections.values():
            await connection.wait_closed()
        self._connections.clear()
        self._locks.clear()


class EndpointConnector:
    """One tunnel and one connection for each command.

    So every command has the hour that a tunnel lasts, and no idle tunnel counts among those that AWS allows.
    """

    lifetime_s: float | None = TUNNEL_LIFETIME_S

    def __init__(self, login: Login, endpoint: Endpoint) -> None:
        self.name = endpoint.id
        self._login, self._endpoint = login, endpoint
        self._copies: set[asyncio.Task[str]] = set()

    @contextmanager
    def reserve(self, machine: str) -> Generator[None]:
        """Implement Connector.reserve: wait for one of the process's tunnels. Raises Unreachable."""
        if not _TUNNEL_SLOTS.acquire(timeout=TUNNEL_WAIT_S):
            raise Unreachable(
                f"{machine}: the {TUNNELS_PER_PROCESS} tunnels of this command were in use for {TUNNEL_WAIT_S:g} s; "
                f"ask fewer machines at a time ({self.name} has {MAX_TUNNELS} tunnels for all who use it)"
            )
        try:
            yield
        finally:
            _TUNNEL_SLOTS.release()

    async def connect(self, machine: str) -> asyncssh.SSHClientConnection:
        """Implement Connector.connect: open a tunnel, and a connection in it."""
        sock, copying = await open_socket(self._endpoint, machine.rpartition("@")[2])
        self._copies.add(copying)
        copying.add_done_callback(self._copies.discard)
        try:
            return await self._login.connect(machine, sock=sock)
        except (OSError, asyncssh.Error) as error:
            sock.close()
            if reason := await copying:
                raise OSError(f"{self.name} ended the tunnel: {reason}") from error
            raise
        except BaseException:
            sock.close()
            raise

    def give_back(self, connection: asyncssh.SSHClientConnection) -> None:
        """Implement Connector.give_back: end it."""
        connection.close()

    async def close(self) -> None:
        """Implement Connector.close: wait for the tunnels of connections that were given back."""
        await asyncio.gather(*self._copies, return_exceptions=True)


def make_connector(spec: Mapping[str, Any]) -> Connector:
    """Return the connector for a ConnectionSpec.spec of platform aws."""
    login = Login(spec["user"], spec["private_key"], known_hosts(spec))
    if "endpoint" in spec:
        return EndpointConnector(login, Endpoint(**spec["endpoint"]))
    return JumpHostConnector(login, f"{spec['jump_id']}@{spec['jump_address']}")


def known_hosts(spec: Mapping[str, Any]) -> KnownHosts:
    """Return the host keys of a ConnectionSpec.spec.

    They are those that it contains, and those of a file in the project's .state folder, per stack.
    """
    file = Path(__file__).parents[2] / STATE / spec["stack"] / "known_hosts"
    return KnownHosts(file, spec.get("host_keys", {}))


class _FirstContact(asyncssh.SSHClient):
    def __init__(self, known_hosts: KnownHosts, name: str) -> None:
        self._known, self._name = known_hosts, name

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        return self._known.accept(self._name, public_text(key))


def public_text(key: asyncssh.SSHKey) -> str:
    """Return a public key without a comment: `ssh-ed25519 AAAA...`."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])
