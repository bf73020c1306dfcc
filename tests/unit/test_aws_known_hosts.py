"""Host keys: what the stack's state tells counts, and what it does not tell is pinned at first contact."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from platforms.aws.known_hosts import KnownHosts
from platforms.aws.ssh import SshTransport, known_hosts
from platforms.transport import Unreachable
from tests.unit.test_aws_ssh import CLIENT_KEY, JUMP, SERVER, Machine, jump, port, server

__all__ = ["jump", "port", "server"]  # fixtures
FIRST, OTHER = "ssh-ed25519 AAAAfirst", "ssh-ed25519 AAAAother"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "known_hosts"


@contextmanager
def transport(port: int, known: KnownHosts) -> Generator[SshTransport]:
    private_key = CLIENT_KEY.export_private_key().decode()
    made = SshTransport(
        user="root", private_key=private_key, jump_host=JUMP, known_hosts=known, port=port, deadline_s=3
    )
    try:
        yield made
    finally:
        made.close()


def shown(machine: Machine) -> str:
    return " ".join(machine.key.export_public_key().decode().split()[:2])


def test_a_key_is_pinned_at_first_contact_and_demanded_from_then_on(file: Path) -> None:
    assert KnownHosts(file, {}).accept("i-1", FIRST)
    assert KnownHosts(file, {}).accept("i-1", FIRST)
    assert not KnownHosts(file, {}).accept("i-1", OTHER)
    assert KnownHosts(file, {}).accept("i-2", OTHER)
    assert file.read_text() == f"i-1 {FIRST}\ni-2 {OTHER}\n"


def test_what_the_state_tells_counts_before_what_was_pinned_here(file: Path) -> None:
    KnownHosts(file, {}).accept("i-1", OTHER)
    known = KnownHosts(file, {"i-1": FIRST})
    assert known.accept("i-1", FIRST)
    assert not known.accept("i-1", OTHER)
    assert file.read_text() == f"i-1 {OTHER}\n"


def test_a_key_that_the_state_tells_needs_no_file(file: Path) -> None:
    assert KnownHosts(file, {"i-1": FIRST}).accept("i-1", FIRST)
    assert not file.exists()


def test_the_file_for_other_programs_has_what_the_state_tells_in_the_place_of_what_was_pinned(file: Path) -> None:
    KnownHosts(file, {}).accept("i-1", OTHER)
    KnownHosts(file, {}).accept("i-10", OTHER)
    written = KnownHosts(file, {"i-1": FIRST, "i-2": FIRST}).write()
    assert written == file
    assert sorted(file.read_text().splitlines()) == [f"i-1 {FIRST}", f"i-10 {OTHER}", f"i-2 {FIRST}"]
    assert [each.name for each in file.parent.iterdir()] == ["known_hosts"]


def test_a_refusal_says_where_the_known_key_stands_and_how_to_forget_it(file: Path) -> None:
    pinned, told = KnownHosts(file, {}).refusal("i-1"), KnownHosts(file, {"i-1": FIRST}).refusal("i-1")
    assert pinned.startswith(f"it shows another host key than the one in {file}. Somebody may be in between")
    assert pinned.endswith(f"take the line of i-1 out of {file}, if there is one.")
    assert told.startswith("it shows another host key than the one in the stack's state. Somebody may be in between")
    assert "`pulumi up --replace '**::ROLE-host-key'`" in told


def test_keys_are_kept_per_stack_and_an_older_state_tells_none() -> None:
    root = Path(__file__).resolve().parents[2]
    assert known_hosts({"stack": "prod"}).file == root / ".state" / "prod" / "known_hosts"


def test_the_key_of_a_machine_is_what_it_shows_through_the_jump_host(
    jump: Machine, server: Machine, port: int, file: Path
) -> None:
    with transport(port, KnownHosts(file, {"i-jump": shown(jump)})) as way:
        assert way.host_key(SERVER) == shown(server)
    assert file.read_text() == f"i-server {shown(server)}\n"


@pytest.mark.parametrize("wrong", ["i-jump", "i-server"])
def test_a_machine_with_another_key_than_the_state_tells_is_entered_by_nothing(
    jump: Machine, server: Machine, port: int, file: Path, wrong: str
) -> None:
    told = {"i-jump": shown(jump), "i-server": shown(server)} | {wrong: OTHER}
    with (
        transport(port, KnownHosts(file, told)) as way,
        pytest.raises(Unreachable, match=f"{wrong}@.*: it shows another host key than the one in the stack's state"),
    ):
        way.exec(SERVER, ["true"], timeout_s=20)
    assert server.logins == 0
    assert not file.exists()
