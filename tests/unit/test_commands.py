"""The operator's command over a stack in memory: what it prints, what it does, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from commands.__main__ import app
from platforms import operator
from platforms.terminal import Terminal
from releases import lock, record
from releases.journal import Journal
from releases.status import ServerStatus
from tests.unit.fake_stack import GONE, NEW, OLD, FakeStack, facts, front, make

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("p50", "ms", "p99", "ms", "5xx")
SITE = "/usr/local/lib/wsgi-fleet/proxy_site.py"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    return make(monkeypatch)


def fleet(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def on_new(**changes: Any) -> ServerStatus:
    """Return the facts of a server whose slot green serves NEW."""
    slots = {"blue": {"state": "inactive", "release": OLD}, "green": {"state": "active", "release": NEW}}
    return facts(live=NEW, slots=slots, staged=[OLD, NEW], **changes)


def test_status_of_a_well_fleet_is_a_head_and_a_table_without_colour_and_ends_with_0(stack: FakeStack) -> None:
    del stack
    result = fleet("status")
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert lines[0].startswith(f"http://192.0.2.1  hello of stack prod, release {OLD} (abc1234) by ")
    assert lines[0].endswith(" s ago")
    assert lines[1:3] == ["no rollout is running; maintenance is off", ""]
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
    told = json.loads(result.output)
    assert (result.exit_code, told["well"], told["maintenance"], told["rollout"]) == (1, False, False, None)
    assert told["release"]["id"] == OLD
    assert told["balancer"] == {
        "problem": "",
        "window_s": 60.0,
        "requests_per_s": 1.0,
        "p50_ms": 12.5,
        "p99_ms": 80.0,
        "errors_5xx": 0,
    }
    first, second = told["servers"]
    assert 179 < first.pop("release_age_s") < 200
    assert first == {
        "name": "hello-1",
        "address": "10.0.0.1",
        "state": "serving",
        "cause": "",
        "remedy": "",
        "release": OLD,
        "slot": "blue",
        "workers_busy": 1,
        "workers_idle": 3,
        "threads_busy": 2,
        "threads": 16,
        "listen_queue": 0,
        "requests_per_s": 1.0,
        "p50_ms": 12.5,
        "p99_ms": 80.0,
        "errors_5xx": 0,
        "background": [],
        "ended": "",
    }
    assert (second["state"], second["cause"], second["release"]) == ("unreachable", "no route to host", None)


@pytest.mark.parametrize(
    ("traffic", "server", "code", "told"),
    [
        (front(drained=["10.0.0.2"], members=["10.0.0.1"]), facts(), 0, "hello-2 is drained: it was drained by hand; "),
        (front(members=["10.0.0.1"]), facts(), 1, "hello-2 is stopped: the balancer sends it no requests; "),
        (front(), on_new(), 1, f"hello-2 is behind: it serves {NEW}, the current release is {OLD}; `pulumi up`"),
        (front(state="failed"), facts(), 1, "the balancer: Nginx is failed; see `./fleet logs --server balancer`"),
        (GONE, facts(), 1, "the balancer: no route to host"),
        (TimeoutError(), facts(), 1, "the balancer: it did not answer in 20 s"),
        ((1, "Traceback\nerror: no log"), facts(), 1, "failed: error: no log"),
        ("{}", facts(), 1, "the balancer: it runs scripts of another version; run `pulumi up`"),
    ],
)
def test_status_says_why_a_machine_does_not_serve(
    stack: FakeStack, traffic: Any, server: ServerStatus, code: int, told: str
) -> None:
    stack.machines.traffic(traffic)
    stack.machines.status("hello-2", server)
    result = fleet("status")
    assert told in result.output
    assert result.exit_code == code


def test_status_tells_of_maintenance_and_of_a_rollout_that_lives(stack: FakeStack) -> None:
    stack.machines.traffic(front(maintenance=True))
    with lock.acquire(stack.store, f"release {NEW}", print):
        Journal(stack.store, release=NEW, app="hello").note("published")
        output = fleet("status").output
    assert re.search(rf"release {NEW} by {lock.whoami()} for \d+ s: staging on all servers;", output)
    assert "maintenance is ON" in output


def test_a_fleet_without_a_release_is_empty_and_says_what_brings_one(stack: FakeStack) -> None:
    stack.whole.files.clear()
    empty = facts(live=None, live_since_s=None, slots={}, gateway={}, health=None, staged=[])
    for name in ("hello-1", "hello-2"):
        stack.machines.status(name, empty)
    result = fleet("status")
    assert "hello of stack prod, no release yet" in result.output
    assert "hello-1 is empty: no release is here yet; `pulumi up` brings one" in result.output
    assert result.exit_code == 1


def test_releases_lists_the_newest_first_and_marks_what_serves_and_what_was_rejected(stack: FakeStack) -> None:
    quoted = ["Traceback (most recent call last):", "  File", "NameError: shop", "Failed to start"]
    why = "\n".join(["hello-2, stage: no import:", *(f"    {line}" for line in quoted), "release still serves"])
    stack.released(NEW, "failed", why=why)
    record.reject(stack.store, record.Rejection(NEW, "ann@build", "2026-11-24T20:00:00+00:00"))
    result = fleet("releases")
    rows = [line.split() for line in result.output.splitlines()]
    assert [row[0] for row in rows[:3]] == ["release", NEW, OLD]
    assert rows[1][4:] == ["abc1234", "failed", "9", "s", "rejected"]
    assert rows[2][4:] == ["abc1234", "done", "9", "s", "current"]
    assert rows[3][0] == NEW
    cause, error = result.output.splitlines()[3:5]
    assert cause.endswith(": hello-2, stage: no import:")
    assert error == "    NameError: shop"
    values = json.loads(fleet("releases", "--json", "-n", "1").output)
    assert [(each["release"], each["current"], each["rejected"], each["duration_s"]) for each in values] == [
        (NEW, False, True, 9.3)
    ]


def test_requests_that_ended_their_worker_are_told_and_the_server_is_well(stack: FakeStack) -> None:
    stack.machines.status("hello-1", facts(ended=["worker 12 ended while it worked on GET '/abort'"] * 3))
    told = "3 requests ended their worker in the last 10 min; the last: worker 12 ended while it worked on GET '/abort'"
    result = fleet("status")
    assert f"hello-1: {told}" in " ".join(result.output.split())
    assert result.exit_code == 0
    assert f"requests of hello-1: {told}" in " ".join(fleet("doctor").output.split())


def test_a_release_id_is_whole_in_a_narrow_terminal(stack: FakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.releases.console", lambda: Console(width=50))
    stack.released(NEW)
    assert [line.split()[0] for line in fleet("releases").output.splitlines()] == ["release", NEW, OLD]


def test_a_rollback_switches_every_server_and_rejects_what_served(stack: FakeStack) -> None:
    stack.released(NEW)
    for name in ("hello-1", "hello-2"):
        stack.machines.status(name, on_new())
    result = fleet("rollback", "--yes")
    assert result.output.endswith(f"release {OLD} serves; {NEW} is rejected (`./fleet allow {NEW}` takes that back)\n")
    assert result.exit_code == 0
    switches = [call for name in ("m-hello-1", "m-hello-2") for call in stack.machines.asked(name) if "switch" in call]
    assert switches == [f"/usr/local/lib/wsgi-fleet/release.py switch {OLD} {place}" for place in ("first", "other")]
    assert record.current(stack.store) == OLD
    refused = fleet("allow", "cc")
    there = f"rejected are {NEW} (`./fleet releases`)"
    assert refused.output == f"error: cc: no rejected release has this id; {there}\n"
    assert refused.exit_code == fleet("rollback", "cc", "--yes").exit_code == 2
    assert fleet("allow", NEW[:4]).exit_code == 0
    assert record.rejection(stack.store, NEW) is None
    assert "; none is rejected (" in fleet("allow", "cc").output


def test_a_rollback_that_fails_tells_and_keeps_no_secret_that_a_server_holds(stack: FakeStack) -> None:
    stack.released(NEW)
    for name in ("hello-1", "hello-2"):
        stack.machines.status(name, on_new())
        stack.machines.answers[f"m-{name}", "python3 -c"] = json.dumps(["hunter2"])
        switch = f"m-{name}", "/usr/local/lib/wsgi-fleet/release.py switch"
        stack.machines.answers[switch] = (1, "trying hunter2\nerror: no database at app:hunter2@db")
    result = fleet("rollback", "--yes")
    assert "trying [removed]" in result.output
    assert "no database at app:[removed]@db" in result.output
    assert "hunter2" not in result.output + "".join(map(str, stack.whole.files.values()))


def test_a_rollback_to_nothing_fails_with_what_there_is(stack: FakeStack) -> None:
    del stack
    result = fleet("rollback")
    assert result.output == (f"error: there is no release before {OLD} to go back to (`./fleet releases`)\n")
    assert result.exit_code == 1


def test_without_a_terminal_a_rollback_wants_yes(stack: FakeStack) -> None:
    stack.released(NEW)
    result = fleet("rollback")
    assert (result.output, result.exit_code) == (
        "error: there is no terminal to ask on; run it with --yes. Nothing was changed\n",
        2,
    )
    assert record.current(stack.store) == NEW


@pytest.mark.parametrize(("answer", "to", "code"), [("n\n", NEW, 1), ("y\n", OLD, 0)])
def test_on_a_terminal_a_rollback_asks_first(
    stack: FakeStack, monkeypatch: pytest.MonkeyPatch, answer: str, to: str, code: int
) -> None:
    stack.released(NEW)
    monkeypatch.setattr("commands.releases.is_terminal", lambda: True)
    result = fleet("rollback", stdin=answer.encode())
    assert f"hello of stack prod: from {NEW} back to {OLD} on 2 servers?" in result.output
    assert (record.current(stack.store), result.exit_code) == (to, code)


def test_exec_runs_as_the_release_on_the_first_server_and_ends_as_the_command_does(stack: FakeStack) -> None:
    stack.machines.answers["m-hello-1", "sh -c"] = (7, "one\ntwo\n")
    result = fleet("exec", "python", "-c", "print('a b')", "--help")
    assert (result.output, result.exit_code) == ("one\ntwo\n", 7)
    ((machine, words, stdin),) = stack.machines.calls
    assert (machine, words[:2], stdin) == ("m-hello-1", ["sh", "-c"], b"")
    for part in (
        "--property=User=app",
        "--property=EnvironmentFile=/srv/app/live/environment",
        "--property=WorkingDirectory=/srv/app/live/code",
        "--property=Environment=PATH=/srv/app/live/venv/bin:",
    ):
        assert part in words[2]


def test_what_exec_runs_reaches_the_machine_word_for_word(stack: FakeStack, tmp_path: Path) -> None:
    """Run the script here, with a systemd-run that runs the command after `--`, and check the arguments."""
    fleet("exec", "--server", "hello-2", "--", "printf", "%s|", "a b", "c'd", "$HOME", "--", "-x")
    ((machine, words, _),) = stack.machines.calls
    stub = tmp_path / "systemd-run"
    stub.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    stub.chmod(0o755)
    (tmp_path / "environment").touch()
    script = words[2].replace("/srv/app/live/environment ]", f"{tmp_path}/environment ]")
    output = subprocess.run(
        ["sh", "-c", script], check=True, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    ).stdout
    assert (machine, output) == ("m-hello-2", "a b|c'd|$HOME|--|-x|")
    script = words[2].replace("/srv/app/live/environment ]", f"{tmp_path}/nothing ]")
    none = subprocess.run(["sh", "-c", script], check=False, capture_output=True, text=True)
    assert (none.returncode, none.stdout) == (
        1,
        "error: no release serves on this server; `pulumi up` brings one\n",
    )


def test_exec_sends_standard_input_along_only_when_it_is_asked_to(stack: FakeStack) -> None:
    fleet("exec", "cat", stdin=b"ignored")
    fleet("exec", "--stdin", "cat", stdin=b"wanted")
    assert [stdin for _, _, stdin in stack.machines.calls] == [b"", b"wanted"]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["drain", "hello-2"], f"{SITE} drain 10.0.0.2"),
        (["admit", "hello-1"], f"{SITE} admit 10.0.0.1"),
        (["maintenance", "on"], f"{SITE} maintenance on"),
        (["maintenance", "off"], f"{SITE} maintenance off"),
    ],
)
def test_the_balancer_is_told_addresses_and_answers_with_names(
    stack: FakeStack, arguments: list[str], asked: str
) -> None:
    stack.machines.answers["m-balancer", SITE] = "draining 10.0.0.2\n10.0.0.2 is drained\n"
    result = fleet(*arguments)
    assert stack.machines.asked("m-balancer") == [asked]
    assert (result.output, result.exit_code) == ("draining hello-2\nhello-2 is drained\n", 0)


def test_what_the_balancer_refuses_is_told_once_and_by_name(stack: FakeStack) -> None:
    refusal = (
        "error: app_hello would have no server left (10.0.0.1): `./fleet maintenance on`; the site before it serves"
    )
    stack.machines.answers["m-balancer", SITE] = (1, f"working\n{refusal}\n")
    result = fleet("drain", "hello-1")
    expected = refusal.removeprefix("error: ").replace("10.0.0.1", "hello-1")
    assert (result.output, result.exit_code) == (f"working\nerror: the balancer: {expected}\n", 1)


def test_a_page_comes_from_where_the_user_is(stack: FakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html").write_text("<h1>soon</h1>")
    monkeypatch.setenv("FLEET_FROM", str(tmp_path))
    assert fleet("maintenance", "on", "--page", "page.html").exit_code == 0
    assert stack.machines.calls[-1] == ("m-balancer", [SITE, "maintenance", "on"], b"<h1>soon</h1>")


@pytest.mark.parametrize(
    ("size", "switch", "told"),
    [
        (0, "on", "is empty; write what clients shall read"),
        ((1 << 20) + 1, "on", "has 1048577 bytes, of 1048576 at most; link to what is large"),
        (-1, "on", "No such file or directory"),
        (5, "off", "--page goes with `on` only"),
    ],
)
def test_a_page_that_is_none_is_refused_before_anything_is_asked(
    stack: FakeStack, tmp_path: Path, size: int, switch: str, told: str
) -> None:
    page = tmp_path / "page.html"
    if size >= 0:
        page.write_bytes(b"x" * size)
    result = fleet("maintenance", switch, "--page", str(page))
    assert told in result.output
    assert (result.exit_code, stack.machines.calls) == (2, [])


def test_logs_stand_side_by_side_with_the_names_of_their_machines(stack: FakeStack) -> None:
    stack.machines.answers["m-hello-1", "journalctl"] = "one\n"
    stack.machines.answers["m-hello-2", "journalctl"] = GONE
    result = fleet("logs", "-n", "7")
    assert result.output == "hello-1 | one\nerror: hello-2 is unreachable: no route to host\n"
    assert result.exit_code == 1
    (asked,) = stack.machines.asked("m-hello-1")
    assert "--lines=7" in asked
    assert "--follow" not in asked
    for unit in ("app@blue.service", "app@green.service", "app-boot.service", "app-proof.service"):
        assert f"--unit={unit}" in asked


def test_the_balancers_logs_are_its_error_and_its_access_log(stack: FakeStack) -> None:
    stack.machines.answers["m-balancer", "tail -n 2 /var/log/wsgi-fleet/error.log"] = "bad\n"
    stack.machines.answers["m-balancer", "tail -n 2 /var/log/wsgi-fleet/access.log"] = "{}\n"
    result = fleet("logs", "--server", "balancer", "-n", "2")
    assert sorted(result.output.splitlines()) == ["balancer access | {}", "balancer error  | bad"]


@pytest.mark.parametrize(
    ("arguments", "target", "words"),
    [
        (["console"], "m-hello-1", ["sh", "-c"]),
        (["console", "--server", "hello-2"], "m-hello-2", ["sh", "-c"]),
        (["shell"], "m-hello-1", ["bash", "-l"]),
        (["shell", "--server", "balancer"], "m-balancer", ["bash", "-l"]),
    ],
)
@pytest.mark.usefixtures("stack")
def test_who_has_a_terminal_gets_one_on_the_machine_that_is_named(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], target: str, words: list[str]
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def terminal(_spec: object, machine: str, command: list[str]) -> Terminal:
        asked.append((machine, command[:2]))
        return Terminal(["/no/such/ssh"], {})

    monkeypatch.setattr(operator, "terminal", terminal)
    without = fleet(*arguments)
    assert (without.exit_code, asked) == (2, [])
    assert without.output.startswith("error: this needs a terminal; `./fleet exec -- ")
    monkeypatch.setattr("commands.servers._has_terminal", lambda: True)
    result = fleet(*arguments)
    assert asked == [(target, words)]
    # It would have become that program.
    assert result.output == "error: /no/such/ssh is not on the PATH; install OpenSSH's client\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["drain", "hello-3"], "error: there is no server hello-3; did you mean hello-2?"),
        (["logs", "--server", "web"], "error: there is no server web; there are: hello-1, hello-2"),
        (["status", "--app", "helo"], "error: there is no application helo; did you mean hello?"),
        (["statsu"], "No such command 'statsu'"),
        (["maintenance", "perhaps"], "Invalid value"),
    ],
)
def test_what_is_called_wrongly_ends_with_2_and_names_what_there_is(
    stack: FakeStack, arguments: list[str], told: str
) -> None:
    result = fleet(*arguments)
    assert told in result.output
    assert (result.exit_code, stack.machines.calls) == (2, [])


@pytest.fixture
def pulumi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that puts a `pulumi` of the given shell text on the PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("FLEET_STACK", raising=False)

    def write(script: str) -> None:
        file = tmp_path / "pulumi"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    return write


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ('echo "error: no stack selected" >&2; exit 1', 2, "no stack is selected (no stack selected); name one"),
        (
            "[ $2 = --show-name ] && echo dev && exit; echo 'error: does not have output property fleet' >&2; exit 1",
            1,
            "stack dev has no fleet yet (or an older one); run `pulumi up -s dev`",
        ),
        (
            "[ $2 = --show-name ] && echo dev && exit; echo \"error: no stack named 'dev' found\" >&2; exit 1",
            2,
            "there is no stack dev yet; run `pulumi stack init dev`, then `pulumi up -s dev`\n",
        ),
        (
            "[ $2 = --show-name ] && echo local && exit; echo \"error: no stack named 'local' found\" >&2; exit 1",
            2,
            "there is no stack local yet; run `make local`\n",
        ),
        ("[ $2 = --show-name ] && echo dev && exit; echo 'error: bad passphrase' >&2; exit 1", 1, "bad passphrase"),
    ],
)
def test_a_stack_that_is_not_found_is_told_with_the_remedy(
    pulumi: Callable[[str], None], script: str, code: int, told: str
) -> None:
    pulumi(script)
    result = fleet("status")
    assert result.output.startswith(f"error: {told}")
    assert result.exit_code == code


def test_without_pulumi_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = fleet("releases", "--stack", "dev")
    assert result.output == "error: pulumi is not on the PATH; call `./fleet`, or `source .venv/bin/activate` first\n"


def test_the_stack_is_the_option_then_the_environment_then_the_selected_one(
    pulumi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pulumi("[ $2 = --show-name ] && echo selected && exit; echo \"error: no stack named '$7' found\" >&2; exit 1")
    assert "there is no stack selected, nor a file" in fleet("status").output
    monkeypatch.setenv("FLEET_STACK", "exported")
    assert "there is no stack exported, nor a file" in fleet("status").output
    assert "there is no stack given, nor a file" in fleet("status", "-s", "given").output


def test_without_a_virtualenv_the_command_says_how_to_get_one(tmp_path: Path) -> None:
    copy = tmp_path / "fleet"
    copy.write_bytes((ROOT / "fleet").read_bytes())
    copy.chmod(0o755)
    result = subprocess.run([copy, "status"], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (
        1,
        f"error: {tmp_path} has no virtualenv yet; run `make setup` there.\n",
    )


def test_every_command_says_what_it_is_for() -> None:
    listed = fleet("--help").output
    for line in listed.partition("Commands:")[2].splitlines():
        assert not line.endswith("..."), line
    for command in (
        "status",
        "logs",
        "releases",
        "rollback",
        "allow",
        "exec",
        "console",
        "shell",
        "drain",
        "admit",
        "bundle",
    ):
        assert f"\n  {command} " in listed
        assert fleet(command, "--help").exit_code == 0
