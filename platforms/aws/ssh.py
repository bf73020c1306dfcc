"""Scripts over SSH, through a jump host.

With asyncssh: typed, tunnels through a connection it has, and brings the server that the tests run against. A loop in a
thread of its own keeps one connection to the jump host and one to each machine for all calling threads: twenty servers
at once do not run into the jump host's MaxStartups (10 by default).
"""

from __future__ import annotations

import asyncio
import codecs
import shlex
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from platforms import STATE
from platforms.aws.known_hosts import KnownHosts
from platforms.transport import Result, Unreachable

# One kind of host key, so that what is pinned does not depend on what was negotiated.
HOST_KEY = "ssh-ed25519"
# Seconds: one attempt, pauses between attempts (the last one repeats), all attempts.
CONNECT_S, PAUSES_S, DEADLINE_S = 10.0, (1.0, 2.0, 4.0, 8.0), 90.0
# Seconds after its time that a command is given to end on the machine before the connection is dropped.
GRACE_S = 15.0
# What is left of a command that `timeout` had to end (124), or to kill (it goes along then).
ENDED = (124, 137, -9)

T = TypeVar("T")


class _WrongHostKey(Exception):
    """The machine shows another key than it did at first."""


class SshTransport:
    """Implements platforms.transport.Transport. A machine is `<name>@<address>`; its host key is known by the name.

    A key that is not known yet is pinned at first contact. Safe for threads; close() it to end its connections.
    """

    def __init__(
        self,
        *,
        user: str,
        private_key: str,
        jump_host: str,
        known_hosts: KnownHosts,
        port: int = 22,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._user, self._jump_host, self._port, self._deadline_s = user, jump_host, port, deadline_s
        self._key = asyncssh.import_private_key(private_key)
        self._known = known_hosts
        self._connections: dict[str, asyncssh.SSHClientConnection] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._start = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> SshTransport:
        """Return the transport of a ConnectionSpec.spec of platform aws.

        deadline_s in it, where it is given, is how long a machine is tried.
        """
        return cls(
            user=spec["user"],
            private_key=spec["private_key"],
            jump_host=f"{spec['jump_id']}@{spec['jump_address']}",
            known_hosts=known_hosts(spec),
            deadline_s=float(spec.get("deadline_s", DEADLINE_S)),
        )

    def exec(
        self,
        machine: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """Implement Transport.exec: run the command over SSH; `timeout` ends it on the machine."""
        return self._run(self._exec(machine, command, stdin, timeout_s, on_line))

    def host_key(self, machine: str) -> str:
        """Return the public host key of a machine that lets us in: `ssh-ed25519 AAAA...`. Raises Unreachable."""
        return self._run(self._retry(machine, _host_key))

    def close(self) -> None:
        """End all connections. The transport can be used again afterwards."""
        with self._start:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop and thread:
            asyncio.run_coroutine_threadsafe(self._close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._start:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="ssh", daemon=True)
                self._thread.start()
            loop = self._loop
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def _close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        for connection in self._connections.values():
            await connection.wait_closed()
        self._connections.clear()
        self._locks.clear()

    async def _exec(
        self,
        machine: str,
        command: Sequence[str],
        stdin: bytes,
        timeout_s: float,
        on_line: Callable[[str], None] | None,
    ) -> Result:
        # `timeout` on the machine ends the command even when this end is gone.
        words = ["timeout", "--kill-after=10", f"{timeout_s:g}", *command]
        text = shlex.join(words if self._user == "root" else ["sudo", "-n", "--", *words])

        async def started(connection: asyncssh.SSHClientConnection) -> asyncssh.SSHClientProcess[bytes]:
            # Without the end of an empty input a command that reads it would wait for all of its time.
            given: dict[str, Any] = {"input": stdin} if stdin else {"stdin": asyncssh.DEVNULL}
            return await connection.create_process(text, stderr=asyncssh.STDOUT, encoding=None, **given)

        # Until it is started everything may be tried again; afterwards nothing, for it may have run.
        process = await self._retry(machine, started)
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s + GRACE_S):
                output = await _read(process, on_line)
                await process.wait_closed()
        except TimeoutError:
            process.channel.abort()
            raise TimeoutError(_timeout_message(machine, command, timeout_s)) from None
        except (OSError, asyncssh.Error) as error:
            raise Unreachable(f"{machine}: the connection was lost while a command ran: {error}") from error
        if process.returncode is None:
            raise Unreachable(f"{machine}: the connection was lost while {command[0]} ran")
        if process.returncode in ENDED and time.monotonic() - began >= timeout_s:
            raise TimeoutError(_timeout_message(machine, command, timeout_s))
        return Result(process.returncode, output)

    async def _retry(self, machine: str, work: Callable[[asyncssh.SSHClientConnection], Coroutine[Any, Any, T]]) -> T:
        """Return the result of work on a connection; try again with pauses up to the deadline."""
        deadline = time.monotonic() + self._deadline_s
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), CONNECT_S)):
                    return await work(await self._connection(machine))
            except _WrongHostKey as error:
                raise Unreachable(str(error)) from None
            except (OSError, asyncssh.Error) as error:
                pause = PAUSES_S[min(attempt, len(PAUSES_S) - 1)]
                attempt += 1
                if time.monotonic() + pause > deadline:
                    raise Unreachable(
                        f"{machine} did not respond over SSH for {self._deadline_s:g} s "
                        f"(through {self._jump_host}): {str(error) or type(error).__name__}"
                    ) from error
                await asyncio.sleep(pause)

    async def _connection(self, machine: str) -> asyncssh.SSHClientConnection:
        """Return the open connection to a machine, or a new one where there is none or it is gone."""
        async with self._locks.setdefault(machine, asyncio.Lock()):
            connection = self._connections.get(machine)
            if connection and not connection.is_closed():
                return connection
            jump = None if machine == self._jump_host else await self._connection(self._jump_host)
            name, _, address = machine.rpartition("@")
            first = _FirstContact(self._known, name or address)
            try:
                connection = await asyncssh.connect(
                    address,
                    self._port,
                    username=self._user,
                    client_keys=[self._key],
                    agent_path=None,
                    config=None,
                    known_hosts=([], [], []),
                    server_host_key_algs=[HOST_KEY],
                    client_factory=lambda: first,
                    tunnel=jump,
                    connect_timeout=CONNECT_S,
                    login_timeout=CONNECT_S,
                    keepalive_interval=15,
                    keepalive_count_max=4,
                )
            except asyncssh.HostKeyNotVerifiable:
                raise _WrongHostKey(f"{machine}: {self._known.refusal(name or address)}") from None
            self._connections[machine] = connection
            return connection


def known_hosts(spec: Mapping[str, Any]) -> KnownHosts:
    """Return the host keys of a ConnectionSpec.spec.

    They are those that it contains, and those of a file in the project's .state folder, per stack.
    """
    file = Path(__file__).parents[2] / STATE / spec["stack"] / "known_hosts"
    return KnownHosts(file, spec.get("host_keys", {}))


class _FirstContact(asyncssh.SSHClient):
    def __init__(self, known: KnownHosts, name: str) -> None:
        self._known, self._name = known, name

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        return self._known.accept(self._name, _public(key))


def _public(key: asyncssh.SSHKey) -> str:
    """Return a public key without a comment: `ssh-ed25519 AAAA...`."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


async def _host_key(connection: asyncssh.SSHClientConnection) -> str:
    key = connection.get_server_host_key()
    if key is None:
        raise OSError("it showed no host key")
    return _public(key)


async def _read(process: asyncssh.SSHClientProcess[bytes], on_line: Callable[[str], None] | None) -> str:
    """Return all output; pass each line on as it appears."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    output, begun = "", ""
    while chunk := await process.stdout.read(65536):
        text = decoder.decode(chunk)
        output += text
        *lines, begun = (begun + text).split("\n")
        if on_line:
            for line in lines:
                on_line(line)
    if on_line and begun:
        on_line(begun)
    return output


def _timeout_message(machine: str, command: Sequence[str], timeout_s: float) -> str:
    return f"{machine}: {command[0]} did not finish in {timeout_s:g} s and was ended"
