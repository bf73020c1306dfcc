"""What a person sees of a `pulumi up`: a line for each thing that happens, within the width of the terminal."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commands.progress import INTERRUPTED, Progress, Screen, describe_serving, run
from platforms.lxd.store import DirectoryStore
from releases import pointers
from releases.journal import Journal

ROOT = Path(__file__).resolve().parents[2]
URN = "urn:pulumi:local::wsgi-fleet::wsgi-fleet:app_server_fleet:AppServerFleet$pulumi-python:dynamic/lxd:Machine::"


def step(kind: str, op: str = "create", *, custom: bool = True) -> dict[str, Any]:
    state = {"custom": custom}
    return {kind: {"metadata": {"op": op, "urn": f"{URN}hello-1", "type": "x:dynamic/lxd:Machine", "new": state}}}


def message(text: str, severity: str = "info#err") -> dict[str, Any]:
    return {"diagnosticEvent": {"message": text, "severity": severity}}


def test_a_resource_is_told_when_it_is_done_with_the_time_that_it_took() -> None:
    progress = Progress()
    assert progress.handle_event(step("resourcePreEvent"), 3.0) == []
    assert progress.describe_waiting(9.0) == "waiting 6 s for Machine hello-1"
    assert progress.handle_event(step("resOutputsEvent"), 15.0) == ["Machine hello-1: created in 12 s"]
    assert progress.describe_waiting(16.0) == "the engine compares the stack with its program"


@pytest.mark.parametrize("event", [step("resOutputsEvent", "same"), step("resOutputsEvent", custom=False)])
def test_what_does_not_change_and_what_is_no_thing_is_not_told(event: dict[str, Any]) -> None:
    assert Progress().handle_event(event, 1.0) == []


def test_the_engines_own_chatter_is_left_out_and_an_error_waits_for_the_end_without_its_class() -> None:
    progress = Progress()
    error = message("<{%reset%}>releases.rollout.RolloutError: hello: on all 3 servers, stage: no\n", "error")
    events = [message("rpc", "debug"), message("hello-1: staged\n\n"), error, error, message("update failed", "error")]
    assert [line for event in events for line in progress.handle_event(event, 1.0)] == ["hello-1: staged"]
    assert progress.errors == ["hello: on all 3 servers, stage: no"]


def test_of_an_error_in_the_program_one_traceback_is_told_and_its_cause_ends_it() -> None:
    progress = Progress()
    begin = "Program failed with an unhandled exception:\n"
    first, then = (
        f"Traceback (most recent call last):\n{way}  File b.py, line 1\n    raise X\nX: no\n" for way in ("  a\n", "")
    )
    during = "During handling of the above exception, another exception occurred:\n\n"
    for text in (f"{begin}{first}\n{during}{then}", f"{begin}{first}", then):
        progress.handle_event(message(text, "error"), 1.0)
    assert progress.errors == [f"{begin}{then}".strip()]


@pytest.mark.parametrize("value", ["1: should be text", "(secret): is stored in plain text"])
@pytest.mark.parametrize("before", ["", "stacks/Pulumi.local.yaml has a problem; nothing was changed: line 4, "])
def test_an_error_keeps_the_path_of_a_setting_that_looks_like_a_class(before: str, value: str) -> None:
    progress = Progress()
    text = f"{before}apps.notes.environment.DEBUG: {value}"
    progress.handle_event(message(text, "error"), 1.0)
    assert progress.errors == [text]


def test_what_an_interrupted_run_left_is_told_in_a_line() -> None:
    text = "Attempting to deploy or update resources with 1 pending operations from previous deployment.\n\nx"
    expected_text = "warning: the last run was interrupted; what it began is"
    for is_removal, then in ((False, "done anew"), (True, "removed")):
        progress = Progress(is_removal=is_removal)
        assert progress.handle_event(message(text, "warning"), 1.0) == [f"{expected_text} {then}"]


@pytest.mark.parametrize(
    ("changes", "result", "expected_text"),
    [({"update": 2, "create": 1}, "", ["updated 2, created 1"]), ({}, "", ["nothing was to do"]), ({}, "failed", [])],
)
def test_the_summary_counts_what_was_done(changes: dict[str, int], result: str, expected_text: list[str]) -> None:
    summary = {"resourceChanges": {"same": 21, **changes}, "result": result}
    assert Progress().handle_event({"summaryEvent": summary}, 1.0) == expected_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 80])
def test_no_line_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 24)))
    terminal = Terminal()
    screen = Screen(terminal)
    screen.line("hello-1: " + "the balancer sends requests to 3 servers, " * 9 + "\n    indented")
    screen.show_waiting("waiting 6 s for " + "Machine hello-1, " * 9)
    parts = terminal.getvalue().replace("\r\033[K", "\n").splitlines()
    assert max(map(len, parts)) <= columns
    assert "            indented" in parts


def test_a_pipe_is_told_what_is_waited_for_only_after_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    screen = Screen(pipe)
    screen.show_waiting("waiting")
    assert pipe.getvalue() == ""
    monkeypatch.setattr("commands.progress.SILENCE_S", 0.0)
    screen.show_waiting("waiting")
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
    pulumi.write_text("#!/bin/sh\necho noise\necho 'error: no backend' >&2\nexit 255\n")
    pulumi.chmod(0o755)
    assert run(["up", "-s", "local"], Screen(sys.stdout), []) == 255
    report = capsys.readouterr()
    assert (report.out, report.err) == ("   0 s  failed:\n", "error: no backend\n")


def test_text_that_pulumi_would_change_is_rejected_before_pulumi_writes_the_stack_file(
    pulumi: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("commands.progress.STACKS", pulumi.parent)
    (pulumi.parent / "Pulumi.local.yaml").write_text("config:\n  pin: 012\n")
    assert run(["up", "-s", "local"], Screen(sys.stdout), []) == 1
    assert 'line 2, column 8: "  pin: …":' in capsys.readouterr().err


def test_a_lock_of_the_stack_is_told_with_its_holder_and_what_is_safe(
    pulumi: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = (
        "error: the stack is currently locked by 1 lock(s). Either wait or `pulumi cancel`.\n  f.json: created by a@b"
    )
    pulumi.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{locked}\nEND\nexit 255\n")
    pulumi.chmod(0o755)
    assert run(["up", "-s", "local"], Screen(sys.stdout), []) == 255
    assert capsys.readouterr().err == (
        "error: another `pulumi up` or `make local` works on this stack (a@b); wait until it has ended. "
        "Only if none runs: `pulumi cancel`, then run the same command again\n"
    )


def test_an_engine_that_was_killed_is_told_with_what_to_do(pulumi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pulumi.write_text("#!/bin/sh\nkill -9 $$\n")
    pulumi.chmod(0o755)
    assert run(["up", "-s", "local"], Screen(sys.stdout), []) == 137
    assert capsys.readouterr().err == "the engine was killed (signal 9); run the same command again\n"


def test_the_engines_words_before_a_resources_problem_are_left_out() -> None:
    progress = Progress()
    words = (
        "x:releases:Rollout resource 'hello': property release value {3d32} has a problem: release 3d32 was rejected"
    )
    progress.handle_event(message(words, "error"), 1.0)
    assert progress.errors == ["release 3d32 was rejected"]


@pytest.mark.parametrize("stream", ["terminal", "pipe"])
def test_what_a_machine_prints_moves_no_cursor(stream: str) -> None:
    text = Terminal() if stream == "terminal" else io.StringIO()
    screen = Screen(text)
    screen.line("a\x1b[2Jb\x07c\x9b")
    screen.show_waiting("a\x1b[2Jb\x07c")
    assert text.getvalue().replace("\r\033[K", "").splitlines()[0] == "   0 s  abc"
    assert "\x07" not in text.getvalue()


@pytest.mark.parametrize(
    ("event", "expected_text"),
    [
        ("switched", "hello: some servers may run the new release already; run the same command again"),
        ("interrupted", "hello: some servers may run the new release already; run the same command again"),
        ("done", "hello: release r1 serves"),
        ("failed", "hello: release r1 serves"),
    ],
)
def test_after_ctrl_c_a_rollout_that_was_not_ended_is_told(
    event: str, expected_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)
    pointers.set_current(store, "r1")
    Journal(store, release="r2", app="hello").note(event)

    def find_all(_stack: str, _app: None) -> list[SimpleNamespace]:
        return [SimpleNamespace(app="hello", store=store)]

    monkeypatch.setattr("commands.target.find_all", find_all)
    assert describe_serving("local") == expected_text


# An engine that heeds no signal, with the host of a program in a group of its own; its ids go to the file.
DEAF = """#!/bin/bash
[ "$1" = up ] || exit 1
trap "" INT
set -m
cp /bin/sleep "$0-language-python"
"$0-language-python" 60 &
echo "$$ $!" >"$0.new"
mv "$0.new" "$0.begun"
while :; do
    echo '{"diagnosticEvent": {"message": "x", "severity": "info"}}' >>"${@: -1}"
    sleep 0.1
done
"""


@pytest.fixture
def deaf(pulumi: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start an `up` with an engine that hears nothing. Yield it, and the processes of the engine."""
    pulumi.write_text(DEAF)
    pulumi.chmod(0o755)
    start_s = pulumi.with_suffix(".begun")
    with subprocess.Popen(
        [sys.executable, "-m", "commands.progress", "up", "-s", "local"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        while not start_s.exists():
            time.sleep(0.05)
        engine = [int(pid) for pid in start_s.read_text().split()]
        yield process, engine
        process.kill()
    for pid in engine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that only nobody has waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("times", [1, 9])
def test_ctrl_c_however_often_ends_the_engine_whatever_it_waits_for_and_says_what_to_run(
    deaf: tuple[subprocess.Popen[str], list[int]], times: int
) -> None:
    process, engine = deaf
    since = time.monotonic()
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2 if times > 1 else 0)
    report, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (INTERRUPTED, "")
    assert time.monotonic() - since < 10
    first, last = report.splitlines()[-2:]
    assert first.endswith("s  stopped. What servers have begun, they end; run the same command again to go on")
    assert last.endswith("s  nothing serves yet")
    assert [pid for pid in engine if is_running(pid)] == []


def test_a_reader_that_is_gone_ends_the_engine_without_a_word(deaf: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, engine = deaf
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.wait(20) == INTERRUPTED
    assert process.stderr.read() == ""
    assert [pid for pid in engine if is_running(pid)] == []
