"""The operator's command on a real fleet: what it tells is so, and what it does loses no request."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import load
from harness.load import Load, LoadOutcome
from harness.stack import SECRET, Stack, eventually, lxc, on
from tests.receiver import receiving

# Requests of a test's own that every server is to have answered one of, and how long each takes.
SLOW, SLOW_S = 12, 1.5


def fleet_says(stack: Stack, *arguments: str, stdin: str = "") -> str:
    """Return what the command prints; it must end with 0."""
    result = stack.fleet(*arguments, stdin=stdin)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def status(stack: Stack) -> dict[str, Any]:
    return json.loads(stack.fleet("status", "--json").stdout)


def states(stack: Stack) -> dict[str, str]:
    return {server["name"]: server["state"] for server in status(stack)["servers"]}


def answer(url: str, body: bytes | None = None) -> tuple[int, str, str | None]:
    """Return status, body and Retry-After of a GET, or of a POST with a body."""
    try:
        with urllib.request.urlopen(url, data=body, timeout=30) as response:
            return response.status, response.read().decode(), response.headers["Retry-After"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers["Retry-After"]


@contextlib.contextmanager
def always_admitted(stack: Stack) -> Generator[None]:
    """Admit all servers of the shared fleet at the end, whatever happens within."""
    try:
        yield
    finally:
        for name in stack.servers():
            stack.fleet("admit", name)


def test_status_tells_what_every_server_does(fleet: Stack) -> None:
    fleet.up()
    with Load(fleet.url) as clients_of_all_kinds:
        clients_of_all_kinds.wait_for(100)
        # Some that are in flight together, so that `least_conn` gives each server its share.
        with ThreadPoolExecutor(SLOW) as clients:
            assert [code for code, *_ in clients.map(answer, [f"{fleet.url}/?s={SLOW_S}"] * SLOW)] == [200] * SLOW
        report = status(fleet)
    assert report["healthy"] is True, report
    assert (report["stack"], report["app"], report["url"], report["maintenance"]) == (
        fleet.name,
        "probe",
        fleet.url,
        False,
    )
    assert report["release"]["id"] == fleet.output("releases")["probe"]
    assert "@" in report["release"]["who"]
    assert [server["name"] for server in report["servers"]] == list(fleet.servers())
    for server in report["servers"]:
        assert (server["state"], server["release"]) == ("serving", report["release"]["id"])
        assert server["workers_busy"] + server["workers_idle"] > 0
        assert server["requests_per_s"] > 0
        assert server["listen_queue"] >= 0
        # More than one request in a hundred takes as long as the quickest slow ones of the load, or longer.
        assert server["p50_ms"] <= server["p99_ms"] >= min(load.SLOW_S) * 1000
    assert sum(server["threads_busy"] for server in report["servers"]) > 0
    assert report["balancer"]["requests_per_s"] > 0
    text = fleet.fleet("status")
    assert text.returncode == 0
    assert text.stdout.splitlines()[0].startswith(f"{fleet.url}  probe of stack {fleet.name}, release ")


def test_a_server_whose_slot_was_stopped_is_told_with_the_remedy(fleet: Stack) -> None:
    name, machine = next(iter(fleet.servers().items()))
    on(machine, "systemctl", "stop", "app.socket", "app@blue", "app@green")
    try:
        result = fleet.fleet("status")
        assert f"{name} is stopped: no slot runs; restart the machine" in result.stdout
        assert result.returncode == 1
        assert fleet.fleet("doctor").returncode == 1
    finally:
        lxc("restart", "--force", machine)
    eventually(lambda: states(fleet)[name] == "serving", message=f"{name} serves again")
    eventually(lambda: len(fleet.responding_servers()) == len(fleet.servers()), message="all servers answer again")


def test_logs_of_every_server_stand_side_by_side(fleet: Stack) -> None:
    names = {line.split(" | ")[0].strip() for line in fleet_says(fleet, "logs", "-n", "5").splitlines()}
    assert names == set(fleet.servers())
    fleet.get("/?log-me")
    assert "/?log-me" in fleet_says(fleet, "logs", "--server", "balancer", "-n", "50")


def test_logs_are_followed_until_they_are_interrupted(fleet: Stack) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "commands", "logs", "--server", "balancer", "-f", "-n", "0"],
        cwd=fleet.folder, env=fleet.environment() | {"FLEET_STACK": fleet.name}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    ended = threading.Event()

    def ask() -> None:
        # Nothing tells when the log is followed.
        while not ended.wait(0.3):
            fleet.get("/?followed")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask)
        try:
            assert process.stdout
            line = next(line for line in process.stdout if "/?followed" in line)
            assert line.startswith("balancer access | {")
        finally:
            ended.set()
            process.terminate()
            process.communicate(timeout=30)


def test_exec_runs_in_the_release_and_sees_its_secrets(fleet: Stack) -> None:
    script = "import os, probe, sys; print(os.environ['T_SECRET'], probe.VERSION, os.getuid() > 0, sys.prefix)"
    report = fleet_says(fleet, "exec", "--", "python", "-c", script)
    assert report.startswith(f"{SECRET} {fleet.get()['version']} True ")
    assert "/srv/app/" in report
    second = list(fleet.servers())[1]
    host = fleet_says(fleet, "exec", "--server", second, "--", "sh", "-c", "echo $WSGI_FLEET_SERVER")
    assert host.strip() == fleet.servers()[second]
    words = ["$HOME", "${HOME}", "$$", "%n", "a  b", "'", '"']
    assert fleet_says(fleet, "exec", "--", "printf", "%s|", *words).rstrip("\n") == "|".join([*words, ""])
    assert fleet.fleet("exec", "--", "sh", "-c", "exit 7").returncode == 7
    assert fleet_says(fleet, "exec", "-i", "--", "cat", stdin="one\ntwo\n") == "one\ntwo\n"


@pytest.mark.long
def test_draining_and_admitting_loses_no_request_on_fresh_connections(
    fleet: Stack, table: Callable[[LoadOutcome], None]
) -> None:
    name, machine = next(iter(fleet.servers().items()))
    with always_admitted(fleet):
        with Load(fleet.url) as load:
            assert "is drained" in fleet_says(fleet, "drain", name)
            before = load.outcome.servers[machine]
            load.wait_for(200)
            assert load.outcome.servers[machine] == before, "a drained server got requests"
            assert states(fleet)[name] == "drained"
            assert fleet.fleet("status").returncode == 0
            fleet_says(fleet, "admit", name)
            load.wait_for(200)
        table(load.outcome)
        assert load.outcome.servers[machine] > before
        assert load.outcome.failed_fresh == [], load.outcome
    assert states(fleet)[name] == "serving"


@pytest.mark.long
def test_a_drained_server_stays_so_over_an_up_that_changes_the_members(fleet: Stack) -> None:
    name, machine = next(iter(fleet.servers().items()))
    with always_admitted(fleet):
        fleet_says(fleet, "drain", name)
        # Another test may have given it a size, and another size would replace it.
        before = fleet.settings.get("balancer", {})
        fleet.settings["balancer"] = {**before, "max_body_mib": 11}
        fleet.up()
        assert machine not in {server for server, _ in fleet.responding_servers()}
        assert states(fleet)[name] == "drained"
        fleet.settings["balancer"] = before
        fleet.up()
    assert machine in {server for server, _ in fleet.responding_servers()}


@pytest.mark.long
def test_the_last_member_is_not_drained(fleet: Stack) -> None:
    *others, last = fleet.servers()
    with always_admitted(fleet):
        for name in others:
            fleet_says(fleet, "drain", name)
        refused = fleet.fleet("drain", last)
        assert refused.returncode == 1
        assert "would have no server left" in refused.stderr
        assert "./fleet maintenance on" in refused.stderr
        assert {server for server, _ in fleet.responding_servers(10)} == {fleet.servers()[last]}
    assert set(states(fleet).values()) == {"serving"}


def test_maintenance_answers_with_a_page_at_once_except_on_the_health_path(fleet: Stack, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<h1>back at noon</h1>")
    reloads = on(fleet.balancer(), "pgrep", "-f", "[n]ginx: worker")
    try:
        fleet_says(fleet, "maintenance", "on")
        code, body, retry = answer(f"{fleet.url}/environment")
        assert (code, "Down for maintenance" in body, retry) == (503, True, "60")
        assert answer(f"{fleet.url}/headers", body=b"x")[0] == 503
        # This fleet's health path is "/".
        assert answer(f"{fleet.url}/")[0] == 200
        assert answer(f"{fleet.url}/.error/503.html")[0] == 404
        fleet_says(fleet, "maintenance", "on", "--page", str(page))
        assert answer(f"{fleet.url}/environment")[:2] == (503, "<h1>back at noon</h1>")
        assert status(fleet)["maintenance"] is True
        doctor = fleet.fleet("doctor")
        assert "wrong  maintenance: it is on" in doctor.stdout
        assert doctor.returncode == 1
    finally:
        fleet_says(fleet, "maintenance", "off")
    assert answer(f"{fleet.url}/environment")[0] == 200
    assert on(fleet.balancer(), "pgrep", "-f", "[n]ginx: worker") == reloads


@pytest.mark.long
def test_releases_and_the_way_back_and_forth(fleet: Stack, table: Callable[[LoadOutcome], None]) -> None:
    fleet.release_version("before-rollback")
    first = fleet.output("releases")["probe"]
    fleet.release_version("after-rollback")
    second = fleet.output("releases")["probe"]
    with Load(fleet.url) as load:
        assert f"release {first} serves" in fleet_says(fleet, "rollback", "--yes")
        load.wait_for(50)
    table(load.outcome)
    assert load.outcome.failed_fresh == [], load.outcome
    assert {version for _, version in fleet.responding_servers()} == {"before-rollback"}
    report = json.loads(fleet_says(fleet, "releases", "--json"))
    assert [(each["release"], each["rollback"], each["current"], each["rejected"]) for each in report[:3]] == [
        (first, True, True, False),
        (second, False, False, True),
        (first, False, False, False),
    ]
    assert f"release {second} was rejected by" in fleet.up(fails=True)
    fleet_says(fleet, "allow", second)
    fleet.up()
    assert {version for _, version in fleet.responding_servers()} == {"after-rollback"}


@pytest.mark.long
def test_hooks_stop_a_release_and_notify_of_those_that_were_made(fleet: Stack, tmp_path: Path) -> None:
    before = fleet.get()["version"]
    with receiving() as receiver:
        event = tmp_path / "event.json"
        fleet.app["hooks"] = {"before_release": {"command": f"cat > {event}; test ! -e {tmp_path}/no"}}
        for name in ("after_release", "rolled_back"):
            fleet.set_config_secret(f"apps.probe.hooks.{name}.webhook", receiver.url)
        try:
            (tmp_path / "no").touch()
            fleet.set_version("with-hooks")
            output = fleet.up(fails=True)
            assert "hooks.before_release: " in output
            assert (fleet.get()["version"], receiver.bodies) == (before, [])
            (tmp_path / "no").unlink()
            output = fleet.up()
            assert fleet.get()["version"] == "with-hooks"
            assert json.loads(event.read_text())["stack"] == fleet.name
            assert "went back" not in fleet_says(fleet, "rollback", "--yes")
        finally:
            del fleet.app["hooks"]
    released, back = receiver.bodies
    assert [(each["event"], each["app"]) for each in (released, back)] == [
        ("after_release", "probe"), ("rolled_back", "probe"),
    ]  # fmt: skip
    assert released["release"] == back["before"]
    for text in (output, fleet.export(), json.dumps(receiver.bodies)):
        assert "opensesame" not in text
    fleet.release_version("after-hooks")


def test_a_bundle_holds_what_helps_and_no_secret(fleet: Stack, tmp_path: Path) -> None:
    made = fleet.get("/environment")["T_MADE"]
    machine = next(iter(fleet.servers().values()))
    key = on(machine, "cat", "/etc/wsgi-fleet/key").strip()
    # As an application leaks it: into its own log, which other tests look through, so it goes again.
    script = "import os; print('leak', os.environ['T_SECRET'], os.environ['T_MADE'], flush=True)"
    environment = "--property=EnvironmentFile=/srv/app/live/environment"
    leak = ("systemd-run", "--quiet", "--wait", "--unit=app-schedule-leak", environment, "python3", "-c", script)
    try:
        on(machine, *leak)
        on(machine, "journalctl", "--sync")
        fleet_says(fleet, "bundle", "--output", str(tmp_path / "b.tar.gz"))
    finally:
        on(machine, "journalctl", "--rotate")
        on(machine, "journalctl", "--vacuum-time=1s")
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        files = {
            member.name.partition("/")[2]: file.read().decode()
            for member in archive
            if (file := archive.extractfile(member))
        }
    for name in fleet.servers():
        assert "app@blue.service" in files[f"{name}/units.txt"]
    leaking = next(iter(fleet.servers()))
    assert "leak [removed] [removed]" in files[f"{leaking}/journal.txt"]
    assert "upstream app_probe {" in files["balancer/proxy.txt"]
    assert json.loads(files["status.json"])["stack"] == fleet.name
    whole = "\n".join(files.values())
    for secret in (SECRET, "hunter2", made, key):
        assert secret not in whole


def test_the_doctor_finds_nothing_wrong_with_a_well_fleet(fleet: Stack) -> None:
    assert fleet_says(fleet, "doctor").endswith("\nnothing is wrong\n")


@pytest.mark.long
def test_the_doctor_names_a_machine_that_is_stopped(fleet: Stack) -> None:
    name, machine = list(fleet.servers().items())[1]
    lxc("stop", "--force", machine)
    try:
        result = fleet.fleet("doctor")
        assert f"wrong  {name}: unreachable: {machine} is stopped" in result.stdout
        assert "`pulumi up`" in result.stdout
        assert result.returncode == 1
        assert states(fleet)[name] == "unreachable"
    finally:
        lxc("start", machine)
    eventually(lambda: states(fleet)[name] == "serving", message=f"{name} serves again")
