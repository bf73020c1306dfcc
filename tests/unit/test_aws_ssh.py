"""The SSH transport and the host keys that it demands, against real SSH servers on loopback."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asyncssh import SSHClientConnection

from platforms.aws.connection import JumpHostConnector, Login
from platforms.aws.known_hosts import KnownHosts
from platforms.aws.ssh import SshTransport
from platforms.transport import Result, Unreachable
from tests.unit.ssh_machine import JUMP, PRIVATE_KEY, SERVER, Machine, jump, key, port, server

__all__ = ["jump", "port", "server"]  # fixtures
FIRST, OTHER = "ssh-ed25519 AAAAfirst", "ssh-ed25519 AAAAother"


@contextmanager
def open_transport(
    port: int, known: KnownHosts, *, private_key: str = PRIVATE_KEY, deadline_s: float = 3
) -> Generator[SshTransport]:
    way = JumpHostConnector(Login("root", private_key, known, port=port), JUMP)
    made = SshTransport(way, user="root", deadline_s=deadline_s)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "known_hosts"


@pytest.fixture
def transport(port: int, file: Path) -> Iterator[SshTransport]:
    with open_transport(port, KnownHosts(file, {})) as made:
        yield made


def test_a_command_runs_behind_the_jump_host_with_its_words_and_its_input(
    jump: Machine, server: Machine, transport: SshTransport
) -> None:
    script = 'cat; echo "$1" >&2; exit 3'
    result = transport.exec(SERVER, ["sh", "-c", script, "-", "two  words; $HOME"], stdin=b"in\n", timeout_s=20)
    assert result.exit_code == 3
    assert sorted(result.output.splitlines()) == ["in", "two  words; $HOME"]
    assert (jump.tunnels, server.logins) == (1, 1)
    # The jump host itself is reached directly.
    assert transport.exec(JUMP, ["echo", "here"], timeout_s=20) == Result(0, "here\n")
    assert (jump.logins, jump.tunnels) == (1, 1)


@pytest.mark.usefixtures("jump", "server")
def test_lines_are_handed_on_as_they_appear(transport: SshTransport) -> None:
    seen: list[tuple[str, float]] = []
    parts: list[bytes] = []
    transport.exec(
        SERVER,
        ["sh", "-c", "echo first; sleep 0.5; printf 'sec\\303'; sleep 0.1; printf '\\266nd'"],
        timeout_s=20,
        on_line=lambda line: seen.append((line, time.monotonic())),
        on_output=parts.append,
    )
    assert b"".join(parts) == "first\nsecönd".encode()
    (first, early), (second, late) = seen
    assert (first, second) == ("first", "secönd")
    assert late - early > 0.4


@pytest.mark.usefixtures("jump", "server")
@pytest.mark.parametrize("content", [b"", b"0123456789abcdef" * 65536], ids=["none", "much"])
def test_input_passes_and_ends(transport: SshTransport, content: bytes) -> None:
    assert transport.exec(SERVER, ["cat"], stdin=content, timeout_s=30) == Result(0, content.decode())


@pytest.mark.usefixtures("jump", "server")
def test_a_command_that_takes_too_long_is_ended_on_the_machine(transport: SshTransport, tmp_path: Path) -> None:
    done = tmp_path / "done"
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"i-server@127.0.0.2: sh did not finish in 0.5 s"):
        transport.exec(SERVER, ["sh", "-c", f"sleep 2; touch {done}"], timeout_s=0.5)
    assert time.monotonic() - began < 1.8
    time.sleep(2)
    assert not done.exists()


@pytest.mark.usefixtures("jump", "server")
def test_a_command_takes_too_long_as_well_where_its_start_is_known_late(
    transport: SshTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SSHClientConnection.create_process

    async def late(self: SSHClientConnection, *args: Any, **options: Any) -> Any:
        process = await start(self, *args, **options)
        await asyncio.sleep(0.7)
        return process

    monkeypatch.setattr(SSHClientConnection, "create_process", late)
    with pytest.raises(TimeoutError, match=r"sh did not finish in 0.5 s"):
        transport.exec(SERVER, ["sh", "-c", "sleep 2"], timeout_s=0.5)


@pytest.mark.usefixtures("jump")
def test_a_machine_that_never_answers_is_named_after_the_deadline(transport: SshTransport) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"i-server@127.0.0.2 did not respond over SSH for 3 s"):
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
    server: Machine, transport: SshTransport, file: Path
) -> None:
    transport.exec(SERVER, ["true"], timeout_s=20)
    pinned = file.read_text().splitlines()
    assert [line.split()[:2] for line in pinned] == [["i-jump", "ssh-ed25519"], ["i-server", "ssh-ed25519"]]
    server.stop()
    server.key = key()
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


def test_a_key_that_the_machine_does_not_know_is_unreachable(jump: Machine, port: int, file: Path) -> None:
    with (
        open_transport(
            port, KnownHosts(file, {}), private_key=key().export_private_key().decode(), deadline_s=1
        ) as stranger,
        pytest.raises(Unreachable, match="Permission denied"),
    ):
        stranger.exec(JUMP, ["true"], timeout_s=20)
    assert jump.logins == 0


def test_a_key_is_pinned_at_first_contact_and_what_the_state_tells_counts_before_it(file: Path) -> None:
    known = KnownHosts(file, {"i-1": FIRST})
    assert known.accept("i-1", FIRST)
    assert not file.exists()
    assert KnownHosts(file, {}).accept("i-1", OTHER)
    assert KnownHosts(file, {}).accept("i-1", OTHER)
    assert not KnownHosts(file, {}).accept("i-1", FIRST)
    assert KnownHosts(file, {}).accept("i-2", FIRST)
    assert (known.accept("i-1", FIRST), known.accept("i-1", OTHER)) == (True, False)
    assert file.read_text() == f"i-1 {OTHER}\ni-2 {FIRST}\n"


def test_the_file_for_other_programs_has_what_the_state_tells_in_the_place_of_what_was_pinned(file: Path) -> None:
    KnownHosts(file, {}).accept("i-1", OTHER)
    KnownHosts(file, {}).accept("i-10", OTHER)
    written = KnownHosts(file, {"i-1": FIRST, "i-2": FIRST}).write()
    assert written == file
    assert sorted(file.read_text().splitlines()) == [f"i-1 {FIRST}", f"i-10 {OTHER}", f"i-2 {FIRST}"]
    assert [each.name for each in file.parent.iterdir()] == ["known_hosts"]


def test_a_refusal_says_where_the_known_key_stands_and_how_to_forget_it(file: Path) -> None:
    pinned, from_state = KnownHosts(file, {}).refusal("i-1"), KnownHosts(file, {"i-1": FIRST}).refusal("i-1")
    assert pinned.startswith(
        f"it shows another host key than the one in {file}. Possible man-in-the-middle: do not connect"
    )
    assert pinned.endswith(f"take the line of i-1 out of {file}, if there is one.")
    assert from_state.startswith(
        "it shows another host key than the one in the stack's state. Possible man-in-the-middle: do not connect"
    )
    assert "`pulumi up --replace '**::ROLE-host-key'`" in from_state


def test_the_key_of_a_machine_is_what_it_shows_through_the_jump_host(
    jump: Machine, server: Machine, port: int, file: Path
) -> None:
    with open_transport(port, KnownHosts(file, {"i-jump": jump.public_key})) as way:
        assert way.host_key(SERVER) == server.public_key
    assert file.read_text() == f"i-server {server.public_key}\n"


@pytest.mark.parametrize("wrong", ["i-jump", "i-server"])
def test_a_machine_with_another_key_than_the_state_tells_is_entered_by_nothing(
    jump: Machine, server: Machine, port: int, file: Path, wrong: str
) -> None:
    keys = {"i-jump": jump.public_key, "i-server": server.public_key} | {wrong: OTHER}
    with (
        open_transport(port, KnownHosts(file, keys)) as way,
        pytest.raises(Unreachable, match=f"{wrong}@.*: it shows another host key than the one in the stack's state"),
    ):
        way.exec(SERVER, ["true"], timeout_s=20)
    assert server.logins == 0
    assert not file.exists()


@pytest.mark.usefixtures("jump")
def test_an_address_that_leads_to_another_machine_for_a_while_is_tried_on_where_that_is_known(
    server: Machine, port: int, file: Path
) -> None:
    expected = {"i-server": OTHER}
    way = JumpHostConnector(Login("root", PRIVATE_KEY, KnownHosts(file, expected), port=port), JUMP)
    made = SshTransport(way, user="root", deadline_s=20, waits_for_key=True)
    threading.Timer(1.5, expected.update, [{"i-server": server.public_key}]).start()
    try:
        assert made.host_key(SERVER) == server.public_key
    finally:
        made.close()
