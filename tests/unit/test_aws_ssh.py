"""The SSH transport against real SSH servers on loopback: 127.0.0.1 is the jump host, 127.0.0.2 a server behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest

from platforms.aws.known_hosts import KnownHosts
from platforms.aws.ssh import SshTransport
from platforms.transport import Result, Unreachable

JUMP, SERVER = "i-jump@127.0.0.1", "i-server@127.0.0.2"


def _key() -> asyncssh.SSHKey:
    return cast("Any", asyncssh).generate_private_key("ssh-ed25519")


CLIENT_KEY = _key()


class Machine:
    """An SSH server that runs what it is told. logins, tunnels: how many it has seen."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.key = _key()
        self.logins = self.tunnels = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._open: list[asyncssh.SSHServerConnection] = []

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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    return _free_port()


@pytest.fixture
def jump(port: int) -> Iterator[Machine]:
    machine = Machine("127.0.0.1", port)
    machine.start()
    yield machine
    machine.end()


@pytest.fixture
def server(port: int) -> Iterator[Machine]:
    machine = Machine("127.0.0.2", port)
    machine.start()
    yield machine
    machine.end()


@pytest.fixture
def transport(port: int, tmp_path: Path) -> Iterator[SshTransport]:
    made = SshTransport(
        user="root",
        private_key=CLIENT_KEY.export_private_key().decode(),
        jump_host=JUMP,
        known_hosts=KnownHosts(tmp_path / "state" / "known_hosts", {}),
        port=port,
        deadline_s=3,
    )
    yield made
    made.close()


def test_a_command_runs_behind_the_jump_host_with_its_words_and_its_input(
    jump: Machine, server: Machine, transport: SshTransport
) -> None:
    script = 'cat; echo "$1" >&2; exit 3'
    result = transport.exec(SERVER, ["sh", "-c", script, "-", "two  words; $HOME"], stdin=b"in\n", timeout_s=20)
    assert result.exit_code == 3
    assert sorted(result.output.splitlines()) == ["in", "two  words; $HOME"]
    assert (jump.tunnels, server.logins) == (1, 1)


def test_the_jump_host_itself_is_reached_directly(jump: Machine, transport: SshTransport) -> None:
    assert transport.exec(JUMP, ["echo", "here"], timeout_s=20) == Result(0, "here\n")
    assert (jump.logins, jump.tunnels) == (1, 0)


@pytest.mark.usefixtures("jump", "server")
def test_lines_are_handed_on_as_they_appear(transport: SshTransport) -> None:
    seen: list[tuple[str, float]] = []
    transport.exec(
        SERVER,
        ["sh", "-c", "echo first; sleep 0.5; printf 'sec\\303'; sleep 0.1; printf '\\266nd'"],
        timeout_s=20,
        on_line=lambda line: seen.append((line, time.monotonic())),
    )
    (first, early), (second, late) = seen
    assert (first, second) == ("first", "secönd")
    assert late - early > 0.4


@pytest.mark.usefixtures("jump", "server")
def test_a_command_without_input_reads_its_end_at_once(transport: SshTransport) -> None:
    assert transport.exec(SERVER, ["cat"], timeout_s=10) == Result(0, "")


@pytest.mark.usefixtures("jump", "server")
def test_large_input_and_output_pass(transport: SshTransport) -> None:
    content = b"0123456789abcdef" * 65536
    assert transport.exec(SERVER, ["cat"], stdin=content, timeout_s=30).output.encode() == content


@pytest.mark.usefixtures("jump", "server")
def test_a_command_that_takes_too_long_is_ended_on_the_machine(transport: SshTransport, tmp_path: Path) -> None:
    done = tmp_path / "done"
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"i-server@127.0.0.2: sh did not finish in 0.5 s"):
        transport.exec(SERVER, ["sh", "-c", f"sleep 2; touch {done}"], timeout_s=0.5)
    assert time.monotonic() - began < 1.8
    time.sleep(2)
    assert not done.exists()


@pytest.mark.usefixtures("jump")
def test_a_machine_that_never_answers_is_named_after_the_deadline(transport: SshTransport) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"i-server@127.0.0.2 did not answer over SSH for 3 s"):
        transport.exec(SERVER, ["true"], timeout_s=20)
    assert time.monotonic() - began < 5


def test_a_machine_that_answers_late_is_waited_for(jump: Machine, port: int, transport: SshTransport) -> None:
    late = Machine("127.0.0.2", port)
    timer = threading.Timer(0.5, late.start)
    timer.start()
    try:
        assert transport.exec(SERVER, ["echo", "up"], timeout_s=20).output == "up\n"
    finally:
        timer.join()
        late.end()
    assert jump.logins == 1


@pytest.mark.usefixtures("jump")
def test_a_machine_with_another_host_key_than_at_first_is_refused_at_once(
    server: Machine, transport: SshTransport, tmp_path: Path
) -> None:
    transport.exec(SERVER, ["true"], timeout_s=20)
    pinned = (tmp_path / "state" / "known_hosts").read_text().splitlines()
    assert [line.split()[:2] for line in pinned] == [["i-jump", "ssh-ed25519"], ["i-server", "ssh-ed25519"]]
    server.stop()
    server.key = _key()
    server.start()
    began = time.monotonic()
    with pytest.raises(Unreachable, match="shows another host key"):
        transport.exec(SERVER, ["true"], timeout_s=20)
    assert time.monotonic() - began < 2.5
    # Another machine at the same address is another name, and so a first contact.
    assert transport.exec("i-next@127.0.0.2", ["true"], timeout_s=20).exit_code == 0


def test_threads_share_one_connection_to_the_jump_host_and_one_to_each_machine(
    jump: Machine, server: Machine, transport: SshTransport
) -> None:
    def asked(n: int) -> str:
        # Twenty machines, as far as the transport knows, and each asked twice.
        return transport.exec(f"i-{n % 20}@127.0.0.2", ["echo", str(n)], timeout_s=20).output

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(asked, range(40))) == [f"{n}\n" for n in range(40)]
    assert (jump.logins, server.logins) == (1, 20)


@pytest.mark.usefixtures("jump")
def test_a_command_whose_connection_breaks_is_not_run_again(
    server: Machine, transport: SshTransport, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    timer = threading.Timer(1, server.drop)
    timer.start()
    with pytest.raises(Unreachable, match=r"i-server@127.0.0.2: the connection was lost"):
        transport.exec(SERVER, ["sh", "-c", f"echo once >> {ran}; sleep 3"], timeout_s=20)
    timer.join()
    assert transport.exec(SERVER, ["cat", str(ran)], timeout_s=20).output == "once\n"


def test_a_key_that_the_machine_does_not_know_is_unreachable(jump: Machine, port: int, tmp_path: Path) -> None:
    stranger = SshTransport(
        user="root",
        private_key=_key().export_private_key().decode(),
        jump_host=JUMP,
        known_hosts=KnownHosts(tmp_path / "known_hosts", {}),
        port=port,
        deadline_s=1,
    )
    with pytest.raises(Unreachable, match="Permission denied"):
        stranger.exec(JUMP, ["true"], timeout_s=20)
    stranger.close()
    assert jump.logins == 0
