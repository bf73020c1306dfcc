"""A terminal by the real ssh, against SSH servers on loopback: with the stack's key and host keys and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.program import ROOT
from platforms import operator
from platforms.aws import connection, terminal
from platforms.aws.known_hosts import KnownHosts
from platforms.terminal import Terminal
from tests.unit.ssh_machine import JUMP, PRIVATE_KEY, SERVER, Machine, jump, port, server

__all__ = ["jump", "port", "server"]  # fixtures
ENTER = "import json, sys; from platforms.terminal import Terminal; Terminal(**json.load(sys.stdin)).enter()"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> Path:
    """Return the stack's known_hosts file, in a folder whose name OpenSSH would split or expand."""
    file = tmp_path / "my 100%d folder" / "known_hosts"

    def known_hosts(spec: dict[str, Any]) -> KnownHosts:
        return KnownHosts(file, spec["host_keys"])

    for module in (connection, terminal):
        monkeypatch.setattr(module, "known_hosts", known_hosts)
    monkeypatch.setattr(terminal, "PORT", port)
    return file


def spec(**host_keys: str) -> dict[str, Any]:
    keys = {name.replace("_", "-"): key for name, key in host_keys.items()}
    way = {"jump_id": "i-jump", "jump_address": "127.0.0.1", "stack": "s", "host_keys": keys}
    return {"platform": "aws", "user": "root", "private_key": PRIVATE_KEY, **way}


def entered(way: Terminal, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the terminal's command for a user who has no agent, no key and no known hosts."""
    environment = {key: value for key, value in way.environment.items() if key != "SSH_AUTH_SOCK"}
    described = {"command": way.command, "environment": environment | {"HOME": str(home)}, "secret": way.secret}
    return subprocess.run(
        [sys.executable, "-c", ENTER], input=json.dumps(described), check=False, capture_output=True, text=True,
        cwd=ROOT, timeout=60,
    )  # fmt: skip


def test_a_command_runs_behind_the_jump_host_with_the_stacks_own_key(
    jump: Machine, server: Machine, file: Path, tmp_path: Path
) -> None:
    way = operator.terminal(
        spec(i_jump=jump.public_key, i_server=server.public_key),
        SERVER,
        ["sh", "-c", 'echo "$1"; exit 3', "-", "a  b; $HOME"],
    )
    result = entered(way, tmp_path)
    assert (result.returncode, result.stdout.strip()) == (3, "a  b; $HOME"), result.stderr
    assert (jump.tunnels, server.logins) == (1, 1)
    assert sorted(file.read_text().splitlines()) == [f"i-jump {jump.public_key}", f"i-server {server.public_key}"]
    assert [each.name for each in tmp_path.iterdir()] == [file.parent.name]


@pytest.mark.usefixtures("file")
def test_the_jump_host_itself_is_entered_directly(jump: Machine, tmp_path: Path) -> None:
    result = entered(operator.terminal(spec(i_jump=jump.public_key), JUMP, ["echo", "here"]), tmp_path)
    assert result.stdout.strip() == "here", result.stderr
    assert (jump.logins, jump.tunnels) == (1, 0)


def test_a_host_key_that_nobody_told_is_pinned_where_releases_pin_it(
    jump: Machine, server: Machine, file: Path, tmp_path: Path
) -> None:
    assert entered(operator.terminal(spec(i_jump=jump.public_key), SERVER, ["true"]), tmp_path).returncode == 0
    assert KnownHosts(file, {}).accept("i-server", server.public_key)
    assert not KnownHosts(file, {}).accept("i-server", jump.public_key)


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("wrong", ["i_jump", "i_server"])
def test_a_machine_that_shows_another_host_key_is_not_entered(
    jump: Machine, server: Machine, tmp_path: Path, wrong: str
) -> None:
    keys = {"i_jump": jump.public_key, "i_server": server.public_key}
    keys[wrong] = keys["i_server" if wrong == "i_jump" else "i_jump"]
    result = entered(operator.terminal(spec(**keys), SERVER, ["echo", "inside"]), tmp_path)
    assert (result.returncode, result.stdout, server.logins) == (255, "", 0)
    assert "Host key verification failed" in result.stderr


@pytest.mark.usefixtures("file", "jump", "server")
def test_the_private_key_is_in_no_argument_no_environment_and_no_file(tmp_path: Path) -> None:
    way = operator.terminal(spec(), SERVER, ["true"])
    body = re.sub(r"-----.*?-----", "", PRIVATE_KEY).split()
    report = json.dumps([*way.command, *way.environment.values()])
    assert not [line for line in body if line in report]
    assert way.environment == dict(os.environ)
    entered(way, tmp_path)
    kept = [each.read_text() for each in tmp_path.rglob("*") if each.is_file()]
    assert kept
    assert not [line for line in body for text in kept if line in text]
