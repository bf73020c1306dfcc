"""Following logs: bounded on the machine, taken up without a gap, and not stopped by a machine that is away."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from commands import logs
from commands.logs import Output, follow, journalctl_command, sources
from platforms.transport import Result, Unreachable
from tests.unit.fake_stack import make

Turn = tuple[list[str], Exception | None]


@dataclass
class Following:
    """A Transport whose machine says and does these things in turn, and ends the follow after the last."""

    turns: list[Turn]
    ended: threading.Event
    commands: list[Sequence[str]] = field(default_factory=list[Sequence[str]])

    def exec(self, machine: str, command: Sequence[str], *, timeout_s: float, on_line: Any = None, **_: Any) -> Result:
        del machine
        assert timeout_s == logs.FOLLOW_S
        self.commands.append(command)
        lines, error = self.turns.pop(0)
        for line in lines:
            on_line(line)
        if not self.turns:
            self.ended.set()
        if error:
            raise error
        return Result(0, "")


def follow_logs(turns: list[Turn], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[list[str], list[str]]:
    """Return the lines that are shown, and the commands that the machine got."""
    monkeypatch.setattr(logs, "RETRY_S", 0.0)
    stack, ended = make(monkeypatch), threading.Event()
    transport = Following(turns, ended)
    monkeypatch.setattr("platforms.operator.transport", lambda _: transport)  # pyright: ignore
    target = stack.target()
    (source,) = sources(target, "hello-1", 10, follow=True)
    follow(target, source, Output([source.name]), ended)
    return capsys.readouterr().out.splitlines(), [" ".join(command) for command in transport.commands]


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("python[1]: 2026-11-28 23:36:49,123 INFO begun", "python[1]: INFO begun"),
        ("python[1]: [2026-11-28 23:36:49 +0000] [9] [INFO] Booting", "python[1]: [9] [INFO] Booting"),
        ("python[1]: 2026-11-28T23:36:49.5Z: begun", "python[1]: begun"),
        ("python[1]: Sat Nov 28 23:36:49 2026 - SIGPIPE: writing", "python[1]: SIGPIPE: writing"),
        ("python[1]: [pid: 1|app: 0] [Sat Nov 28 23:36:49 2026] GET /x", "python[1]: [pid: 1|app: 0] GET /x"),
        ("python[1]: paid until 2026-11-28 23:36:49", "python[1]: paid until 2026-11-28 23:36:49"),
        ("systemd[1]: Started app@blue.service.", "systemd[1]: Started app@blue.service."),
    ],
)
def test_a_line_has_one_time(line: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    Output(["a-1"]).line("a-1", f"2026-11-28T23:36:49+0000 {line}")
    assert capsys.readouterr().out == f"a-1 | 2026-11-28T23:36:49+0000 {output}\n"


def test_a_follow_that_the_machine_ended_is_taken_up_and_shows_each_line_once(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    turns: list[Turn] = [(["1 a", "2 b"], TimeoutError()), (["2 b", "3 c"], TimeoutError()), (["3 c"], None)]
    output, commands = follow_logs(turns, monkeypatch, capsys)
    assert output == ["hello-1 | 1 a", "hello-1 | 2 b", "hello-1 | 3 c"]
    assert commands[0] == " ".join(journalctl_command(10, follow=True))
    assert [command.partition("--since=")[2] for command in commands[1:]] == ["-4s --lines=all --follow"] * 2


def test_a_machine_that_is_away_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    output, commands = follow_logs([([], Unreachable("gone")), (["1 a"], None)], monkeypatch, capsys)
    assert output == ["hello-1 | unreachable, next try in 0 s: gone", "hello-1 | 1 a"]
    assert len(commands) == 2


def test_the_balancers_logs_are_followed_by_name_and_begin_anew_without_the_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = sources(make(monkeypatch).target(), "balancer", 5, follow=True)
    assert [(source.name, " ".join(source.command)) for source in found] == [
        ("balancer error", "tail -n 5 /var/log/wsgi-fleet/error.log -F"),
        ("balancer access", "tail -n 5 /var/log/wsgi-fleet/access.log -F"),
    ]
    assert [" ".join(source.again(9))[:9] for source in found] == ["tail -n 0"] * 2
