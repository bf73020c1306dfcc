"""The operator's command over a stack in memory: what it prints, what it does, and how it ends."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner, Result

from commands.__main__ import app
from commands.logs import logs
from commands.progress import wrap
from commands.servers import exec_
from commands.stack import DESCRIPTION
from platforms import operator
from platforms.terminal import Terminal
from releases import lock, pointers
from releases.journal import Journal
from tests.unit.fake_stack import GONE, NAMES, NEW, OLD, FakeStack, facts, front, host_status, make, on_new


class TerminalText(io.StringIO):
    def isatty(self) -> bool:
        return True


ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("p50", "ms", "p99", "ms", "5xx")
SITE = "/usr/local/lib/wsgi-fleet/proxy_site.py"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    return make(monkeypatch)


def fleet(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_status_of_a_well_fleet_is_a_head_and_a_table_without_colour_and_ends_with_0(stack: FakeStack) -> None:
    del stack
    result = fleet("status")
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert lines[0].startswith(f"http://192.0.2.1  hello of stack prod, release {OLD} (abc1234) by ")
    assert lines[0].endswith(" s ago")
    running = "servers run debian-13 with Python 3.13.5"
    assert lines[1:3] == [f"no rollout is running; maintenance is off; {running}", ""]
    assert [line.split() for line in lines[3:]] == [
        ["server", "state", "release", "slot", "age", "busy/idle", "queue", "req/s", *MEASURED],
        f"hello-1 serving {OLD} blue 3 min 1/3 0 1.0 12.5 80.0 0".split(),
        f"hello-2 serving {OLD} blue 3 min 1/3 0 0.0 - - 0".split(),
        ["balancer", "serving", "1.0", "12.5", "80.0", "0"],
    ]
    assert (result.exit_code, "\x1b" in result.output) == (0, False)


def test_status_as_json_has_units_in_its_names_and_null_for_what_is_not_known(stack: FakeStack) -> None:
    stack.machines.status("hello-2", GONE)
    result = fleet("status", "--json")
    report = json.loads(result.output)
    assert (result.exit_code, report["healthy"], report["maintenance"], report["rollout"]) == (1, False, False, None)
    assert report["release"]["id"] == OLD
    traffic = {"requests_per_s": 1.0, "p50_ms": 12.5, "p99_ms": 80.0, "errors_5xx": 0}
    assert report["balancer"] == {"problem": "", "window_s": 60.0} | traffic
    first, second = report["servers"]
    assert 179 < first.pop("release_age_s") < 200
    workers = {"workers_busy": 1, "workers_idle": 3, "threads_busy": 2, "threads": 16, "listen_queue": 0}
    workers |= {"os": "debian-13", "python": "3.13.5"}
    words = {"name": "hello-1", "address": "10.0.0.1", "state": "serving", "cause": "", "remedy": "", "ended": ""}
    assert first == words | workers | traffic | {"release": OLD, "slot": "blue", "background": []}
    assert (second["state"], second["cause"], second["release"]) == ("unreachable", "no route to host", None)


@pytest.mark.parametrize(
    ("traffic", "server", "code", "message"),
    [
        (front(drained=["10.0.0.2"], active=["10.0.0.1"]), facts(), 0, "hello-2 is drained: it was drained by hand; "),
        (front(active=["10.0.0.1"]), facts(), 1, "hello-2 is stopped: the balancer sends it no requests; "),
        (front(), on_new(), 1, f"hello-2 is outdated: it serves {NEW}, the current release is {OLD}; `pulumi up`"),
        (front(state="failed"), facts(), 1, "the balancer: Nginx is failed; see `./fleet logs --server balancer`"),
        (GONE, facts(), 1, "the balancer: no route to host"),
        (TimeoutError(), facts(), 1, "the balancer: it did not respond in 20 s"),
        ((1, "Traceback\nerror: no log"), facts(), 1, "failed: error: no log"),
        ('{"proxy": 1}', facts(), 1, "the balancer: it runs scripts of another version; run `pulumi up`"),
        (front(), "oops", 1, "hello-2 is failed: it can be reached, but its script printed 'oops' and no status"),
        (front(), (1, "error: no disk"), 1, "failed: error: no disk; `pulumi up --replace '**-booted'` installs"),
    ],
)
def test_status_says_why_a_machine_does_not_serve(
    stack: FakeStack, traffic: Any, server: Any, code: int, message: str
) -> None:
    stack.machines.traffic(traffic)
    stack.machines.status("hello-2", server)
    result = fleet("status")
    assert message in result.output
    assert result.exit_code == code


def test_status_after_an_interrupted_rollout_calls_the_server_that_has_its_release_ahead(stack: FakeStack) -> None:
    stack.machines.status("hello-2", on_new())
    Journal(stack.store, release=NEW, app="hello").note("switched", server="hello-2")
    output = fleet("status").output
    assert f"hello-2 is ahead: it serves {NEW} of a rollout that has not ended" in output
    assert "hello-1 is" not in output


def test_status_tells_of_maintenance_and_of_a_rollout_that_lives(
    stack: FakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.machines.traffic(front(maintenance=True))
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.01)
    with lock.acquire(stack.store, f"release {NEW}", print) as latest:
        Journal(stack.store, release=NEW, app="hello").note("published")
        latest["hello-2"] = "GET /healthz still responds with status 500 after 10 s of 60 s"
        time.sleep(0.2)
        output = fleet("status").output
    assert re.search(rf"release {NEW} by {lock.operator_name()} for \d+ s: staging on all servers;", output)
    assert "maintenance is ON" in output
    assert "\nhello-2: GET /healthz still responds with status 500 after 10 s of 60 s\n" in output


def test_status_tells_what_servers_run_while_they_are_replaced_by_newer_ones(stack: FakeStack) -> None:
    stack.machines.status("hello-2", facts(machine=host_status(os="debian-12", python="3.11.2")))
    message = "servers run 1 of debian-13 with Python 3.13.5, 1 of debian-12 with Python 3.11.2"
    assert message in fleet("status").output
    for name in NAMES:
        stack.machines.status(name, GONE)
    assert "what the servers run is not known" in fleet("status").output


def test_a_fleet_without_a_release_is_empty_and_says_what_brings_one(stack: FakeStack) -> None:
    stack.whole.files.clear()
    for name in NAMES:
        stack.machines.status(name, facts(live=None, live_since_s=None, slots={}, gateway={}, health=None, staged=[]))
    result = fleet("status")
    assert "hello of stack prod, no release yet" in result.output
    assert "hello-1 is empty: no release is here yet; `pulumi up` brings one" in result.output
    assert result.exit_code == 1


def test_releases_lists_the_newest_first_and_marks_what_serves_and_what_was_rejected(stack: FakeStack) -> None:
    quoted = "    Traceback (most recent call last):\n      File\n    NameError: shop\n    Failed to start\n"
    stack.released(NEW, "failed", why=f"hello-2, stage: no import:\n{quoted}release still serves")
    pointers.reject(stack.store, pointers.Rejection(NEW, "ann@build", "2026-11-24T20:00:00+00:00"))
    output = fleet("releases").output
    rows = [line.split() for line in output.splitlines()]
    assert [row[0] for row in rows[:4]] == ["release", NEW, OLD, NEW]
    assert rows[1][4:] == ["abc1234", "failed", "9", "s", "rejected"]
    assert rows[2][4:] == ["abc1234", "done", "9", "s", "current"]
    assert output.endswith(": hello-2, stage: no import:\n    NameError: shop\n")
    (newest,) = json.loads(fleet("releases", "--json", "-n", "1").output)
    values = {"release": NEW, "current": False, "rejected": True, "duration_s": 9.3}
    assert newest | values == newest


def test_requests_that_ended_their_worker_are_told_and_the_server_is_well(stack: FakeStack) -> None:
    stack.machines.status("hello-1", facts(ended=["worker 12 ended while it worked on GET '/abort'"] * 3))
    message = (
        "3 requests ended their worker in the last 10 min; the last: worker 12 ended while it worked on GET '/abort'"
    )
    result = fleet("status")
    assert f"hello-1: {message}" in " ".join(result.output.split())
    assert result.exit_code == 0
    assert f"requests of hello-1: {message}" in " ".join(fleet("doctor").output.split())


def test_a_release_id_is_whole_in_a_narrow_terminal(stack: FakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.releases.console", lambda: Console(width=50))
    stack.released(NEW)
    assert [line.split()[0] for line in fleet("releases").output.splitlines()] == ["release", NEW, OLD]


def test_a_rollback_switches_every_server_and_rejects_what_served(stack: FakeStack) -> None:
    stack.released(NEW)
    for name in NAMES:
        stack.machines.status(name, on_new())
    result = fleet("rollback", "--yes")
    assert result.output.endswith(f"release {OLD} serves; {NEW} is rejected (`./fleet allow {NEW}` takes that back)\n")
    assert result.exit_code == 0
    switches = [call for name in NAMES for call in stack.machines.asked(f"m-{name}") if "switch" in call]
    assert switches == [f"/usr/local/lib/wsgi-fleet/release.py switch {OLD} {place}" for place in ("first", "other")]
    assert pointers.current(stack.store) == OLD
    refused = fleet("allow", "cc")
    message = f"error: cc: no rejected release has this id; rejected are {NEW} (`./fleet releases`)\n"
    assert (refused.output, refused.exit_code, fleet("rollback", "cc", "--yes").exit_code) == (message, 2, 2)
    assert fleet("allow").output == f"{NEW}\n"
    # An id that begins as another does is named longer.
    pointers.reject(stack.store, pointers.Rejection(f"{NEW[:4]}00000000", "ann", "2026-11-29T09:00:00"))
    assert fleet("allow", NEW[:4]).exit_code == 2
    for each in (NEW[:6], f"{NEW[:4]}0"):
        assert fleet("allow", each).exit_code == 0
    assert pointers.rejection(stack.store, NEW) is None
    assert fleet("allow").output == "no release is rejected\n"
    assert "; none is rejected (" in fleet("allow", "cc").output


def test_a_rollback_that_fails_tells_and_keeps_no_secret_that_a_server_holds(stack: FakeStack) -> None:
    stack.released(NEW)
    for name in NAMES:
        stack.machines.status(name, on_new())
        stack.machines.answers[f"m-{name}", "python3 -c"] = json.dumps(["hunter2"])
        switch = f"m-{name}", "/usr/local/lib/wsgi-fleet/release.py switch"
        stack.machines.answers[switch] = (1, "trying hunter2\nerror: no database at app:hunter2@db")
    result = fleet("rollback", "--yes")
    assert "trying [removed]" in result.output
    assert "no database at app:[removed]@db" in result.output
    assert "hunter2" not in result.output + "".join(map(str, stack.whole.files.values()))


def test_a_rollback_to_nothing_fails_and_one_without_a_terminal_wants_yes(stack: FakeStack) -> None:
    result = fleet("rollback")
    message = f"error: there is no release before {OLD} to go back to (`./fleet releases`)\n"
    assert (result.output, result.exit_code) == (message, 1)
    stack.released(NEW)
    result = fleet("rollback")
    message = "error: there is no terminal for the question; run it with --yes. Nothing was changed\n"
    assert (result.output, result.exit_code, pointers.current(stack.store)) == (message, 2, NEW)


@pytest.mark.parametrize(("response", "to", "code"), [(b"n\n", NEW, 1), (b"y\n", OLD, 0)])
def test_on_a_terminal_a_rollback_asks_first(
    stack: FakeStack, monkeypatch: pytest.MonkeyPatch, response: bytes, to: str, code: int
) -> None:
    stack.released(NEW)
    monkeypatch.setattr("commands.releases.is_terminal", lambda: True)
    result = fleet("rollback", stdin=response)
    assert f"hello of stack prod: from {NEW} back to {OLD} on 2 servers?" in result.output
    assert (pointers.current(stack.store), result.exit_code) == (to, code)


def test_exec_runs_as_the_release_on_the_first_server_and_ends_as_the_command_does(stack: FakeStack) -> None:
    stack.machines.answers["m-hello-1", "sh -c"] = (7, "one\ntwo\n")
    result = fleet("exec", "python", "-c", "print('a b')", "--help", stdin=b"ignored")
    assert (result.output, result.exit_code) == ("one\ntwo\n", 7)
    assert fleet("exec", "--stdin", "cat", stdin=b"wanted").output == "one\ntwo\n"
    (machine, words, stdin), (_, _, expected) = stack.machines.calls
    assert (machine, words[:2], stdin, expected) == ("m-hello-1", ["sh", "-c"], b"", b"wanted")
    options = "User=app EnvironmentFile=/srv/app/live/environment WorkingDirectory=/srv/app/live/code UMask=0077"
    assert [option for option in options.split() if f"--property={option} " not in words[2]] == []
    assert "--property=SystemCallFilter=~@privileged @resources'" in words[2]


def test_what_exec_and_logs_print_is_as_it_was_in_a_pipe_and_escaped_on_a_terminal(
    stack: FakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.machines.answers["m-hello-1", "sh -c"] = b"\x1b[31mred\r\n\xff\x00 \ttab".decode(errors="surrogateescape")
    assert fleet("exec", "cat").stdout_bytes == b"\x1b[31mred\r\n\xff\x00 \ttab"
    for first in ("sh -c", "journalctl"):
        stack.machines.answers["m-hello-1", first] = "\x1b[31mred\x07 \ttab\n"
    assert fleet("logs", "--server", "hello-1", "-n", "1").stdout == "hello-1 | \x1b[31mred\x07 \ttab\n"
    monkeypatch.setattr("sys.stdout", screen := TerminalText())
    exec_(["cat"], timeout_s=3)
    logs(server="hello-1", lines=1)
    output = "\\x1b[31mred\\x07 \ttab\n"
    assert screen.getvalue() == f"{output}hello-1 | {output}"


def test_what_exec_runs_reaches_the_machine_word_for_word(stack: FakeStack, tmp_path: Path) -> None:
    """Run the script here, with a systemd-run that runs the command after `--`, and check the arguments."""
    fleet("exec", "--server", "hello-2", "--", "printf", "%s|", "a b", "c'd", "$HOME", "${HOME}$$", "--", "-x")
    ((machine, words, _),) = stack.machines.calls
    stub = tmp_path / "systemd-run"
    # As systemd: words with `$` are those of a variable, `$$` is `$`.
    code = (
        "words = sys.argv[sys.argv.index('--') + 1:]; assert not any('$' in word.replace('$$', '') for word in words)"
    )
    ran = "os.execvp(words[0], [word.replace('$$', '$') for word in words])"
    stub.write_text(f"#!{sys.executable}\nimport os, sys; {code}; {ran}\n")
    stub.chmod(0o755)

    def output() -> tuple[int, str]:
        script = words[2].replace("/srv/app/live/environment ]", f"{tmp_path}/environment ]")
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        ran = subprocess.run(["sh", "-c", script], check=False, capture_output=True, text=True, env=path)
        return ran.returncode, ran.stdout

    assert output() == (1, "error: no release serves on this server; `pulumi up` brings one\n")
    (tmp_path / "environment").touch()
    assert (machine, output()) == ("m-hello-2", (0, "a b|c'd|$HOME|${HOME}$$|--|-x|"))


@pytest.mark.parametrize(
    ("command", "asked"),
    [("drain hello-2", "drain 10.0.0.2"), ("admit hello-1", "admit 10.0.0.1"), ("maintenance off",) * 2],
)
def test_the_balancer_is_told_addresses_and_answers_with_names(stack: FakeStack, command: str, asked: str) -> None:
    stack.machines.answers["m-balancer", SITE] = "draining 10.0.0.2\n10.0.0.2 is drained\n"
    result = fleet(*command.split())
    assert stack.machines.asked("m-balancer") == [f"{SITE} {asked}"]
    assert (result.output, result.exit_code) == ("draining hello-2\nhello-2 is drained\n", 0)


def test_what_the_balancer_refuses_is_told_once_and_by_name(stack: FakeStack) -> None:
    refusal = "app_hello would have no server left ({}): `./fleet maintenance on`; the site before it serves"
    stack.machines.answers["m-balancer", SITE] = (1, f"working\nerror: {refusal.format('10.0.0.1')}\n")
    result = fleet("drain", "hello-1")
    assert result.output == f"working\nerror: the balancer: {refusal.format('hello-1')}\n"
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("size", "switch", "message"),
    [
        (0, "on", "is empty; write what clients shall read"),
        (-1, "on", "No such file or directory"),
        (5, "off", "--page goes with `on` only"),
    ],
)
def test_a_page_comes_from_where_the_user_is_and_what_is_none_is_refused_before_anything_is_asked(
    stack: FakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, size: int, switch: str, message: str
) -> None:
    monkeypatch.setenv("FLEET_FROM", str(tmp_path))
    page = tmp_path / "page.html"
    if size >= 0:
        page.write_bytes(b"x" * size)
    result = fleet("maintenance", switch, "--page", "page.html")
    assert message in result.output
    assert (result.exit_code, stack.machines.calls) == (2, [])
    page.write_text("<h1>soon</h1>")
    assert fleet("maintenance", "on", "--page", "page.html").exit_code == 0
    assert stack.machines.calls == [("m-balancer", [SITE, "maintenance", "on"], b"<h1>soon</h1>")]


def test_logs_stand_side_by_side_with_the_names_of_their_machines(stack: FakeStack) -> None:
    stack.machines.answers["m-hello-1", "journalctl"] = "one\n"
    stack.machines.answers["m-hello-2", "journalctl"] = GONE
    result = fleet("logs", "-n", "7")
    assert result.output == "hello-1 | one\nerror: hello-2 is unreachable: no route to host\n"
    assert result.exit_code == 1
    (asked,) = stack.machines.asked("m-hello-1")
    units = {f"--unit={unit}.service" for unit in ("app@blue", "app@green", "app-boot", "app-proof")}
    assert {"--lines=7", *units} <= set(asked.split())
    assert "--follow" not in asked


@pytest.mark.parametrize(
    ("command", "entered"),
    [
        ("console", "m-hello-1 sh -c"),
        ("console --server hello-2", "m-hello-2 sh -c"),
        ("shell", "m-hello-1 bash -l"),
        ("shell --server balancer", "m-balancer bash -l"),
    ],
)
@pytest.mark.usefixtures("stack")
def test_who_has_a_terminal_gets_one_on_the_machine_that_is_named(
    monkeypatch: pytest.MonkeyPatch, command: str, entered: str
) -> None:
    asked: list[str] = []

    def terminal(_spec: object, machine: str, words: list[str]) -> Terminal:
        asked.append(" ".join([machine, *words[:2]]))
        return Terminal(["/no/such/ssh"], {})

    monkeypatch.setattr(operator, "terminal", terminal)
    without = fleet(*command.split())
    assert (without.exit_code, asked) == (2, [])
    assert without.output.startswith("error: this needs a terminal; `./fleet exec -- ")
    monkeypatch.setattr("commands.servers._has_terminal", lambda: True)
    # It would have become that program.
    message = "error: /no/such/ssh is not on the PATH; install OpenSSH's client\n"
    assert (fleet(*command.split()).output, asked) == (message, [entered])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("drain hello-3", "error: there is no server hello-3; there are: hello-1, hello-2"),
        ("rollback nope", "error: there is no release nope, nor another one to go back to"),
        ("logs --server web", "error: there is no server web; there are: hello-1, hello-2"),
        ("config -s ../x", "error: there is no stacks/Pulumi.../x.yaml; there are: dev,"),
        ("statsu", "No such command 'statsu'"),
        ("maintenance perhaps", "Invalid value"),
    ],
)
def test_what_is_called_wrongly_ends_with_2_and_names_what_there_is(
    stack: FakeStack, command: str, message: str
) -> None:
    result = fleet(*command.split())
    assert message in result.output
    assert (result.exit_code, stack.machines.calls) == (2, [])


@pytest.fixture
def pulumi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Return a function that puts a `pulumi` on the PATH, which has a stack selected, and fails otherwise."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("FLEET_STACK", raising=False)

    def write(selected: str, error: str) -> None:
        file = tmp_path / "pulumi"
        shows = f"[ $2 = --show-name ] && echo {selected} && exit\n" if selected else ""
        file.write_text(f'#!/bin/sh\n{shows}echo "error: {error}" >&2; exit 1\n')
        file.chmod(0o755)

    return write


@pytest.mark.parametrize(
    ("selected", "error", "code", "message"),
    [
        (
            "",
            "no stack selected",
            2,
            "no stack is selected; `make local` makes one here, `pulumi up -s NAME` another\nWhere",
        ),
        ("dev", "no stack named", 2, "there is no stack dev yet; run `pulumi stack init dev`, then `pulumi up"),
        ("local", "no stack named", 2, "there is no stack local yet; run `make local`\n"),
        ("dev", "bad passphrase", 1, "bad passphrase"),
    ],
)
def test_a_stack_that_is_not_found_is_told_with_the_remedy(
    pulumi: Callable[[str, str], None], selected: str, error: str, code: int, message: str
) -> None:
    pulumi(selected, error)
    result = fleet("status")
    assert (result.output.startswith(f"error: {message}"), result.exit_code) == (True, code), result.output


@pytest.mark.usefixtures("pulumi")
@pytest.mark.parametrize("options", [(), ("--stack", "dev")])
def test_a_set_up_that_has_not_ended_is_told_with_the_command(
    monkeypatch: pytest.MonkeyPatch, options: Sequence[str]
) -> None:
    monkeypatch.setenv("FLEET_FROM", "/")
    message = "error: the Pulumi command line is not installed yet; run `make setup`\n"
    assert fleet("status", *options).output == message


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("{}", "stack prod has no fleet yet (or an older one); run `pulumi up -s prod`"),
        ('{"fleet": "04da6b54-80e4-46f7-96ec-b56ff0331ba9"}', "stack prod does not know how to reach its machines"),
    ],
)
def test_outputs_that_an_up_left_without_a_fleet_are_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, printed: str, message: str
) -> None:
    def pulumi(*arguments: str) -> str:
        return '{"deployment": {}}' if "export" in arguments else printed

    monkeypatch.setattr("commands.stack.pulumi", pulumi)
    result = fleet("status", "-s", "prod")
    assert (result.output.startswith(f"error: {message}"), result.exit_code) == (True, 1), result.output


@pytest.mark.parametrize(
    "left", [{}, {"fleet": "04da6b54-80e4-46f7-96ec-b56ff0331ba9"}, {"fleet": {"apps": {"earlier": {}}}}]
)
def test_a_fleet_is_found_in_the_state_after_a_first_release_that_failed(
    stack: FakeStack, monkeypatch: pytest.MonkeyPatch, left: dict[str, Any]
) -> None:
    description = {"type": DESCRIPTION, "outputs": {"fleet": {"plaintext": json.dumps(stack.output)}}}

    def pulumi(*arguments: str) -> str:
        resources = [{"type": "pulumi:pulumi:Stack"}, {"type": DESCRIPTION}, description]
        return json.dumps({"deployment": {"resources": resources}} if "export" in arguments else left)

    monkeypatch.setattr("commands.stack.pulumi", pulumi)
    stack.machines.answers["m-hello-1", "journalctl"] = "no module named x\n"
    for command in ("status", "doctor", "releases"):
        assert "error" not in fleet(command, "-s", "prod", "--app", "hello").output
    assert "hello-1 | no module named x" in fleet("logs", "-s", "prod", "--app", "hello").output


def test_a_fleet_is_found_where_the_last_up_failed_before_it_knew_the_url(stack: FakeStack) -> None:
    stack.output["url"] = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
    assert json.loads(fleet("status", "--json").output)["url"] == "(known after an `up` that succeeds)"


def test_the_stack_is_the_option_then_the_environment_then_the_selected_one_all_by_pulumi(
    pulumi: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pulumi("selected", "no stack named '$6' found")
    assert "there is no stack selected, nor a file" in fleet("status").output
    monkeypatch.setenv("FLEET_STACK", "exported")
    assert "there is no stack exported, nor a file" in fleet("status").output
    assert "there is no stack given, nor a file" in fleet("status", "-s", "given").output
    (tmp_path / "pulumi").unlink()
    message = "error: pulumi is not on the PATH; call `./fleet`, or `source .venv/bin/activate` first\n"
    assert fleet("releases").output == message


def test_the_help_names_what_a_person_writes_and_no_type_of_python() -> None:
    commands: Any = get_command(app)
    output = "".join(fleet(command, "--help").output for command in commands.commands)
    assert re.findall(r"<(?!systemd\|)[^>]*>", output) == []
    assert "\n  COMMAND  What to run" in output
    assert "--timeout SECONDS" in output


def test_an_error_is_broken_between_words_where_it_goes_to_a_terminal(
    stack: FakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stack
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((40, 24)))
    plain = fleet("rollback", "nope").output

    def wrap_for_terminal(lines: list[str], _stream: object) -> str:
        return wrap(lines, TerminalText())

    monkeypatch.setattr("commands.__main__.wrap", wrap_for_terminal)
    lines = fleet("rollback", "nope").output.splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(line.strip() for line in lines) == plain.strip()


def test_what_the_setup_says_is_broken_between_words_on_a_terminal() -> None:
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    command = 'source tools/console.sh; say "Building the Pulumi command line 3.2 (usually 4 minutes on two cores)"'
    subprocess.run(["bash", "-c", command], check=True, cwd=ROOT, stderr=terminal)
    os.close(terminal)
    lines = [line.rstrip() for line in os.read(master, 1000).decode().splitlines()]
    os.close(master)
    assert lines == ["Building the Pulumi command line 3.2", "(usually 4 minutes on two cores)"]


def test_without_a_virtualenv_the_command_says_how_to_get_one(tmp_path: Path) -> None:
    shutil.copy(ROOT / "fleet", tmp_path)
    result = subprocess.run([tmp_path / "fleet", "status"], check=False, capture_output=True, text=True)
    message = f"error: {tmp_path} has no virtualenv yet; run `make setup` there.\n"
    assert (result.returncode, result.stderr) == (1, message)


def test_every_command_says_what_it_is_for() -> None:
    listed = fleet("--help").output
    assert [line for line in listed.partition("Commands:")[2].splitlines() if line.endswith("...")] == []
    commands: Any = get_command(app)
    for command in commands.commands:
        assert f"\n  {command} " in listed
        assert fleet(command, "--help").exit_code == 0


def test_what_is_done_by_hand_is_kept_for_the_machine_that_takes_the_balancers_place(stack: FakeStack) -> None:
    stack.output["balancer"]["kept"] = "_balancer"
    stack.machines.answers["m-balancer", SITE] = ""

    def kept(*words: str) -> dict[str, Any]:
        assert fleet(*words).exit_code == 0
        return json.loads(stack.whole.read("_balancer/marks.json") or b"")

    assert kept("drain", "hello-2") == {"drained": {"10.0.0.2": "m-hello-2"}, "page": None}
    assert kept("maintenance", "on") == {"drained": {"10.0.0.2": "m-hello-2"}, "page": ""}
    assert kept("maintenance", "off") == {"drained": {"10.0.0.2": "m-hello-2"}, "page": None}
    stack.machines.answers["m-balancer", SITE] = (1, "error: no")
    assert fleet("admit", "hello-2").exit_code == 1
    assert json.loads(stack.whole.read("_balancer/marks.json") or b"")["drained"] == {"10.0.0.2": "m-hello-2"}
    stack.machines.answers["m-balancer", SITE] = ""
    assert kept("admit", "hello-2") == {"drained": {}, "page": None}
