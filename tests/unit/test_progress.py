"""What a person sees of a `pulumi up`: a line for each thing that happens, within the width of the terminal."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from commands.progress import INTERRUPTED, Progress, Screen, run

ROOT = Path(__file__).resolve().parents[2]
URN = "urn:pulumi:local::wsgi-fleet::wsgi-fleet:app_server_fleet:AppServerFleet$pulumi-python:dynamic/lxd:Machine::"


def step(kind: str, op: str = "create", *, custom: bool = True) -> dict[str, Any]:
    state = {"custom": custom}
    return {kind: {"metadata": {"op": op, "urn": f"{URN}hello-1", "type": "x:dynamic/lxd:Machine", "new": state}}}


def message(text: str, severity: str = "info#err") -> dict[str, Any]:
    return {"diagnosticEvent": {"message": text, "severity": severity}}


def test_a_resource_is_told_when_it_is_done_with_the_time_that_it_took() -> None:
    progress = Progress()
    assert progress.hear(step("resourcePreEvent"), 3.0) == []
    assert progress.still(9.0) == "waiting 6 s for Machine hello-1"
    assert progress.hear(step("resOutputsEvent"), 15.0) == ["Machine hello-1: created in 12 s"]
    assert progress.still(16.0) == "the engine compares the stack with its program"


@pytest.mark.parametrize("event", [step("resOutputsEvent", "same"), step("resOutputsEvent", custom=False)])
def test_what_does_not_change_and_what_is_no_thing_is_not_told(event: dict[str, Any]) -> None:
    assert Progress().hear(event, 1.0) == []


def test_the_engines_own_chatter_is_left_out_and_an_error_waits_for_the_end_without_its_class() -> None:
    progress = Progress()
    error = message("<{%reset%}>releases.rollout.RolloutError: hello: on all 3 servers, stage: no\n", "error")
    events = [message("rpc", "debug"), message("hello-1: staged\n\n"), error, error, message("update failed", "error")]
    assert [line for event in events for line in progress.hear(event, 1.0)] == ["hello-1: staged"]
    assert progress.errors == ["hello: on all 3 servers, stage: no"]


def test_what_an_interrupted_run_left_is_told_in_a_line() -> None:
    text = "Attempting to deploy or update resources with 1 pending operations from previous deployment.\n\nx"
    told = ["warning: the last run was interrupted; what it began is done anew"]
    assert Progress().hear(message(text, "warning"), 1.0) == told


@pytest.mark.parametrize(
    ("changes", "result", "told"),
    [({"update": 2, "create": 1}, "", ["updated 2, created 1"]), ({}, "", ["nothing was to do"]), ({}, "failed", [])],
)
def test_the_summary_counts_what_was_done(changes: dict[str, int], result: str, told: list[str]) -> None:
    summary = {"resourceChanges": {"same": 21, **changes}, "result": result}
    assert Progress().hear({"summaryEvent": summary}, 1.0) == told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 80])
def test_no_line_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 24)))
    terminal = Terminal()
    screen = Screen(terminal)
    screen.line("hello-1: " + "the balancer sends requests to 3 servers, " * 9 + "\n    indented")
    screen.still("waiting 6 s for " + "Machine hello-1, " * 9)
    parts = terminal.getvalue().replace("\r\033[K", "\n").splitlines()
    assert max(map(len, parts)) <= columns
    assert "            indented" in parts


def test_a_pipe_is_told_what_is_waited_for_only_after_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    screen = Screen(pipe)
    screen.still("waiting")
    assert pipe.getvalue() == ""
    monkeypatch.setattr("commands.progress.STILL_S", 0.0)
    screen.still("waiting")
    assert pipe.getvalue() == "   0 s  waiting\n"


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a program that runs in the place of pulumi."""
    file = tmp_path / "pulumi"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return file


def test_a_command_that_fails_before_its_first_event_shows_its_own_words(
    pulumi: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pulumi.write_text("#!/bin/sh\necho noise\necho 'error: the stack is currently locked' >&2\nexit 255\n")
    pulumi.chmod(0o755)
    assert run(["up", "-s", "local"], Screen(sys.stdout)) == 255
    told = capsys.readouterr()
    assert (told.out, told.err) == ("   0 s  failed:\n", "error: the stack is currently locked\n")


def test_ctrl_c_ends_it_within_two_seconds_whatever_the_engine_waits_for_and_says_what_to_run(pulumi: Path) -> None:
    pulumi.write_text('#!/bin/sh\n[ "$1" = up ] || exit 1\ntrap "" INT\n: >"$0.begun"\nwhile :; do sleep 0.1; done\n')
    pulumi.chmod(0o755)
    begun = pulumi.with_suffix(".begun")
    process = subprocess.Popen(
        [sys.executable, "-m", "commands.progress", "up", "-s", "local"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not begun.exists():
        time.sleep(0.05)
    since = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    told, _ = process.communicate(timeout=20)
    assert process.returncode == INTERRUPTED
    assert time.monotonic() - since < 10
    first, last = told.splitlines()[-2:]
    assert first.endswith("s  stopped. What servers have begun, they end; run the same command again to go on")
    assert last.endswith("s  nothing serves yet")
