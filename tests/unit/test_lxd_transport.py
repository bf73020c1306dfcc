"""Commands on machines of LXD, by a made-up `lxc` that runs them here: nothing that they print is lost in silence."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from platforms.lxd import machine
from platforms.lxd.client import Client
from platforms.lxd.transport import LxdTransport
from platforms.transport import Result, Unreachable

# What stands before the command of the machine: exec --project default --mode non-interactive local:NAME --
LXC = """#!/bin/sh
shift 7
{then}
"""


@pytest.fixture
def transport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LxdTransport:
    lxc(tmp_path, 'exec "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def status(_client: Client, _name: str) -> str:
        return machine.RUNNING

    monkeypatch.setattr(machine, "status", status)
    return LxdTransport(Client(tmp_path / "socket"))


def lxc(folder: Path, then: str) -> None:
    (folder / "lxc").write_text(LXC.format(then=then))
    (folder / "lxc").chmod(0o755)


def run(transport: LxdTransport, script: str, timeout_s: float = 10, **more: Any) -> Result:
    return transport.exec("m", ["sh", "-c", script], timeout_s=timeout_s, **more)


@pytest.mark.parametrize(
    ("script", "code", "output"),
    [
        ("echo a; echo b >&2; echo c", 0, "a\nb\nc\n"),
        ("printf unfinished", 0, "unfinished"),
        ("printf '\\n\\n'", 0, "\n\n"),
        ("true", 0, ""),
        ("echo no; exit 3", 3, "no\n"),
        ("kill -9 $$", 137, ""),
    ],
)
def test_output_and_exit_code_are_the_commands_own(
    transport: LxdTransport, script: str, code: int, output: str
) -> None:
    lines: list[str] = []
    result = run(transport, script, on_line=lines.append)
    assert (result.exit_code, result.output.removesuffix("Killed\n")) == (code, output)
    assert [line for line in lines if line != "Killed"] == output.splitlines()


@pytest.mark.parametrize("script", ["printf 'a\\r\\n\\377\\000b\\r'", "printf '\\033[1m\\n\\r\\n'", "true"])
def test_output_is_there_byte_for_byte_as_well(transport: LxdTransport, script: str) -> None:
    parts: list[bytes] = []
    run(transport, script, on_output=parts.append)
    assert b"".join(parts) == subprocess.run(["sh", "-c", script], check=True, capture_output=True).stdout


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_a_command_gets_its_standard_input_and_its_end(transport: LxdTransport, size: int) -> None:
    assert run(transport, "wc -c", stdin=b"x" * size).output.strip() == str(size)
    # One that reads nothing of it.
    assert run(transport, "echo done", stdin=b"x\n" * size) == Result(0, "done\n")


def test_a_command_that_lxd_does_not_connect_is_tried_again_and_runs_once(
    transport: LxdTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platforms.lxd.transport._START_TIMEOUT_S", 0.5)
    lxc(
        tmp_path,
        f'echo x >>{tmp_path}/tries; [ $(wc -l <{tmp_path}/tries) -gt 2 ] && exec "$@"; "$@" >/dev/null 2>&1; sleep 9',
    )
    assert run(transport, f"echo ran >>{tmp_path}/runs; echo hello") == Result(0, "hello\n")
    assert (tmp_path / "tries").read_text() == "x\n" * 3
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_a_command_that_lxd_never_connects_is_an_error(
    transport: LxdTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platforms.lxd.transport._START_TIMEOUT_S", 0.2)
    lxc(tmp_path, 'exec "$@" >/dev/null')
    with pytest.raises(Unreachable, match=r"^m: LXD did not start `sh -c echo hello` in 0 s, 3 times; restart LXD$"):
        run(transport, "echo hello")


def test_a_client_that_hangs_when_the_command_has_ended_is_not_waited_for(
    transport: LxdTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platforms.lxd.transport._END_TIMEOUT_S", 0.2)
    lxc(tmp_path, '"$@"; exec sleep 60')
    began = time.monotonic()
    assert run(transport, "echo hello; exit 4") == Result(4, "hello\n")
    assert time.monotonic() - began < 30


def test_what_the_client_itself_says_is_told(transport: LxdTransport, tmp_path: Path) -> None:
    lxc(tmp_path, "echo 'Error: not found'; exit 1")
    assert run(transport, "true") == Result(1, "Error: not found\n")


def test_a_command_that_does_not_end_is_ended(transport: LxdTransport) -> None:
    with pytest.raises(TimeoutError, match="did not finish in 1 s"):
        run(transport, "echo begun; sleep 60", timeout_s=1)


def test_a_list_of_processes_with_the_word_in_it_is_output(transport: LxdTransport) -> None:
    result = run(transport, "tr '\\0' ' ' </proc/$PPID/cmdline; echo; exit 3")
    assert result.exit_code == 3
    assert "wsgi-fleet-" in result.output
