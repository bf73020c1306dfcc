"""SSH servers on loopback: 127.0.0.1 is the jump host, 127.0.0.2 a server behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import asyncssh
import pytest

JUMP, SERVER = "i-jump@127.0.0.1", "i-server@127.0.0.2"


def key() -> asyncssh.SSHKey:
    return cast("Any", asyncssh).generate_private_key("ssh-ed25519")


CLIENT_KEY = key()
PRIVATE_KEY = CLIENT_KEY.export_private_key().decode()


class Machine:
    """An SSH server that runs what it is told. logins, tunnels: how many it has seen."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.key = key()
        self.logins = self.tunnels = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._open: list[asyncssh.SSHServerConnection] = []

    @property
    def public_key(self) -> str:
        """The host key as known_hosts has it."""
        return " ".join(self.key.export_public_key().decode().split()[:2])

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._started(), self._loop).result()

    def drop(self) -> None:
        """Cut all connections, as a machine that goes down does."""
        asyncio.run_coroutine_threadsafe(self._dropped(), self._loop).result()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stopped(), self._loop).result()

    def end(self) -> None:
        self.stop()
        asyncio.run_coroutine_threadsafe(self._ended(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _started(self) -> None:
        machine = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                machine._open.append(conn)

            def auth_completed(self) -> None:
                machine.logins += 1

            def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
                del dest_host, dest_port, orig_host, orig_port
                machine.tunnels += 1
                return True

        self._acceptor = await asyncssh.create_server(
            Server,
            self.address,
            self.port,
            server_host_keys=[self.key],
            authorized_client_keys=asyncssh.import_authorized_keys(CLIENT_KEY.export_public_key().decode()),
            process_factory=_shell,
            encoding=None,
        )

    async def _dropped(self) -> None:
        for connection in self._open:
            connection.abort()
        self._open.clear()

    async def _ended(self) -> None:
        """End what still runs for connections that are gone."""
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _stopped(self) -> None:
        if self._acceptor:
            self._acceptor.close()
            await self._acceptor.wait_closed()
        await self._dropped()


async def _shell(process: asyncssh.SSHServerProcess[bytes]) -> None:
    run = await asyncio.create_subprocess_shell(
        process.command or "true",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert run.stdin is not None
    assert run.stdout is not None
    feeding = asyncio.create_task(_feed(process, run.stdin))
    try:
        while chunk := await run.stdout.read(65536):
            process.stdout.write(chunk)
            await process.stdout.drain()
        process.exit(await run.wait())
    except (BrokenPipeError, asyncssh.Error):
        return
    finally:
        feeding.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        await run.wait()


async def _feed(process: asyncssh.SSHServerProcess[bytes], stdin: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncssh.Error):
        while chunk := await process.stdin.read(65536):
            stdin.write(chunk)
            await stdin.drain()
    stdin.close()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _running(address: str, port: int) -> Iterator[Machine]:
    machine = Machine(address, port)
    machine.start()
    yield machine
    machine.end()


@pytest.fixture
def jump(port: int) -> Iterator[Machine]:
    yield from _running("127.0.0.1", port)


@pytest.fixture
def server(port: int) -> Iterator[Machine]:
    yield from _running("127.0.0.2", port)
