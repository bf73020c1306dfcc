"""Releases under load: what is lost (nothing), and where the fleet ends."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest

from harness.evidence import assert_nothing_was_lost, has_reached, responding_releases
from harness.load import Load, LoadOutcome
from harness.stack import Stack, eventually, lxc, on


@pytest.fixture(scope="module")
def fleet(release_fleet: Stack) -> Stack:
    """Return release_fleet in the place of the fleet that other files share."""
    return release_fleet


def test_a_rollback_loses_no_request_and_the_next_up_refuses_what_was_left(
    fleet: Stack, table: Callable[[LoadOutcome], None]
) -> None:
    # What serves is what the code says: another test may have left another release.
    fleet.up()
    expected = fleet.get()["version"]
    fleet.app["environment"] = {"T_WANTED": "no"}
    fleet.release_version("unwanted")
    assert fleet.get("/environment") == {"T_WANTED": "no"}
    with Load(fleet.url) as load:
        went_back = fleet.fleet("rollback", "--yes")
        assert went_back.returncode == 0, went_back.stdout + went_back.stderr
        load.wait_for(50)
    table(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert responding_releases(fleet) == {expected}
    assert fleet.get("/environment") == {}
    output = fleet.up(fails=True)
    assert "was rejected by" in output
    assert "./fleet allow" in output
    assert responding_releases(fleet) == {expected}
    # The same code and settings as what serves: state and fleet agree again, and nothing is left to do.
    del fleet.app["environment"]
    fleet.release_version(expected)
    fleet.up("--expect-no-changes")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('VERSION = "', 'VERSION = "code ', marks=pytest.mark.long),
        pytest.param('VERSION = "', 'time.sleep(3)\nVERSION = "import of 3 s ', marks=pytest.mark.long),
        ("# Nothing", "itsdangerous==2.2.0\n# Nothing"),
    ],
    ids=["new code", "an import of 3 s", "new requirements"],
)
def test_a_release_loses_no_request(
    fleet: Stack, good: Callable[[str, str], None], table: Callable[[LoadOutcome], None], old: str, new: str
) -> None:
    before = fleet.get()["release"]
    with Load(fleet.url) as load:
        good(old, new)
        fleet.up()
        load.wait_for(50)
    table(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert fleet.get()["release"] != before
    assert len(responding_releases(fleet)) == 1


@pytest.mark.long
def test_a_release_of_new_settings_loses_no_request(fleet: Stack, table: Callable[[LoadOutcome], None]) -> None:
    with Load(fleet.url) as load:
        fleet.app["environment"] = {"T_NEW": "yes"}
        fleet.app["settings_file"] = {"variable": "SETTINGS_FILE", "values": {"NEW": [1, "yes", True]}}
        fleet.app["gateway"] = {"threads": 3}
        fleet.up()
        load.wait_for(50)
    table(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert fleet.get("/environment") == {"T_NEW": "yes"}
    assert fleet.get("/settings") == {"NEW": [1, "yes", True]}


@pytest.mark.long
def test_a_release_of_300_mb_loses_no_request_on_servers_of_512_mib(
    fleet: Stack, table: Callable[[LoadOutcome], None]
) -> None:
    data = fleet.folder / "tests/e2e/app/data.bin"
    with data.open("wb") as file:
        for _ in range(300):
            file.write(os.urandom(1_000_000))
    try:
        with Load(fleet.url) as load:
            fleet.release_version("large")
            load.wait_for(50)
    finally:
        data.unlink()
    table(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert responding_releases(fleet) == {"large"}
    (machine, *_) = fleet.servers().values()
    assert lxc("config", "get", machine, "limits.memory").stdout == "512MiB\n"
    assert on(machine, "stat", "-c", "%s", "/srv/app/live/code/data.bin") == "300000000\n"


@pytest.mark.long
def test_a_release_while_a_server_is_down_loses_no_request(fleet: Stack, table: Callable[[LoadOutcome], None]) -> None:
    fleet.app["rollout"] = {"start_timeout_s": 20, "allow_unreachable": 1}
    away = list(fleet.servers().values())[1]
    lxc("stop", "--force", away)
    try:
        with Load(fleet.url) as load:
            fleet.release_version("while one is down")
            load.wait_for(50)
    finally:
        # Usually the `up` has started it: it may have been down until then.
        lxc("start", away, check=False)
        fleet.app["rollout"] = {"start_timeout_s": 20}
    table(load.outcome)
    eventually(lambda: away in {server for server, _ in fleet.responding_servers()}, message=f"{away} answers again")
    assert_nothing_was_lost(fleet, load.outcome)
    assert responding_releases(fleet) == {"while one is down"}


PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "shop"
version = "1"
[tool.setuptools.packages.find]
where = ["src"]
"""
FACTORY = """
import more
import probe

def make(name):
    probe.VERSION = f"{name} one {more.VALUE}"
    return probe.app
"""


@pytest.mark.long
@pytest.mark.parametrize("line", [".", "-e ."])
def test_code_that_is_installed_is_installed_anew_when_it_changes(
    fleet: Stack, good: Callable[[str, str], None], line: str
) -> None:
    source = fleet.folder / "tests" / "e2e" / "app"
    good("# Nothing", "\ufeff-r base.txt\r\n# Nothing")
    files = {"pyproject.toml": PYPROJECT, "base.txt": line, "src/shop/__init__.py": FACTORY, "lib/more.py": "VALUE = 1"}
    for name, text in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    before = dict(fleet.app)
    fleet.app.update(module='shop:make("made")', python_path=["lib"])
    try:
        fleet.up()
        assert responding_releases(fleet) == {"made one 1"}
        (source / "src/shop/__init__.py").write_text(FACTORY.replace("one", "two"))
        fleet.up()
        assert responding_releases(fleet) == {"made two 1"}
    finally:
        fleet.app.clear()
        fleet.app.update(before)
        for name in files:
            (source / name).unlink()


@pytest.mark.long
def test_of_two_rollouts_at_once_the_second_is_told_who_is_at_work_and_changes_nothing(fleet: Stack) -> None:
    fleet.release_version("first")
    fleet.app["rollout"] = {"start_timeout_s": 20, "bake_s": 10}
    journals = set((fleet.folder / ".state").rglob("journal/*.jsonl"))
    fleet.set_version("second")
    process = fleet.start_up()
    eventually(lambda: has_reached(fleet, journals, "switched"), message="the rollout watches its canary")
    refused = fleet.fleet("rollback", "--yes")
    output, _ = process.communicate(timeout=120)
    fleet.app["rollout"] = {"start_timeout_s": 20}
    assert refused.returncode != 0, refused.stdout
    report = " ".join(refused.stderr.split())
    assert re.search(r"\S+@\S+ is at work on this application since \d{4}-\d\d-\d\dT\S+ ", report), report
    assert process.returncode == 0, output
    assert responding_releases(fleet) == {"second"}


# It fails where somebody but Bash puts variables for `${HOME}`.
TASK = """[ '${HOME}' = "\\${HOME}" ] && echo "$WSGI_FLEET_RELEASE" >> "$STATE_DIRECTORY/task\""""


@pytest.mark.long
def test_the_release_task_runs_once_with_the_applications_environment(fleet: Stack) -> None:
    fleet.app["rollout"] = {"release_task": TASK}
    output = fleet.release_version("with a task")
    machines = list(fleet.servers().values())
    ran = [on(machine, "cat", "/var/lib/app/task", check=False) for machine in machines]
    assert ran[0] == fleet.get()["release"] + "\n", output
    assert ["No such file" in text for text in ran[1:]] == [True, True]
    fleet.app["rollout"] = {"start_timeout_s": 20}
    fleet.up()


@pytest.mark.long
def test_workers_and_schedules_run_with_the_release_that_serves(fleet: Stack) -> None:
    loop = 'while :; do echo "$WSGI_FLEET_RELEASE" > "$STATE_DIRECTORY/{}"; sleep 0.2; done'
    fleet.app["workers"] = {
        "everywhere": {"command": loop.format("everywhere"), "count": 2},
        "once": {"command": loop.format("once"), "servers": "first"},
    }
    fleet.app["schedules"] = {
        "tick": {"command": 'echo "$WSGI_FLEET_RELEASE" > "$STATE_DIRECTORY/tick"', "calendar": "*:*:*"}
    }
    fleet.release_version("with workers")
    machines = list(fleet.servers().values())
    for version in ("with workers", "with workers again"):
        fleet.release_version(version)
        release = fleet.get()["release"]
        for name, where in (("everywhere", machines), ("once", machines[:1]), ("tick", machines[:1])):
            for machine in where:
                eventually(lambda m=machine, n=name, r=release: _said(m, n) == r, message=f"{name} is {version}")
    assert [_said(machine, "once") for machine in machines[1:]] == ["", ""]
    assert _running(machines[1]) == ["app-worker-everywhere@1.service", "app-worker-everywhere@2.service"]
    del fleet.app["workers"], fleet.app["schedules"]
    fleet.release_version("without workers")
    eventually(lambda: all(_running(machine) == [] for machine in machines), message="no worker runs")


@pytest.mark.long
def test_every_process_of_a_release_finds_the_same_environment_limits_and_sandbox(fleet: Stack) -> None:
    pem = "-----BEGIN KEY-----\r\n" + "a+/=%$\"'`\\\n" * 2500 + "-----END KEY-----\n"
    fleet.app["environment"] = {"T_PEM": pem, "PATH": "/opt/bin:/usr/bin:/bin"}
    fleet.app["build"] = "python found.py build"
    fleet.app["rollout"] = {"release_task": "cd . && python found.py task"}
    fleet.app["workers"] = {"found": {"command": "python found.py worker; exec sleep 600"}}
    fleet.app["schedules"] = {"found": {"command": "python found.py schedule", "calendar": "*:*:* America/New_York"}}
    fleet.release_version("what it finds")
    first = next(iter(fleet.servers().values()))
    # `./fleet console` runs by the same function as exec.
    places = ("build", "task", "worker", "schedule")
    places_found = {
        name: eventually(lambda n=name: json.loads(_said(first, n) or "0"), message=f"{name} wrote what it found")
        for name in places
    }
    by_exec = fleet.fleet("exec", "--", "python", "found.py")
    places_found["exec"] = json.loads(by_exec.stdout)
    server = places_found["exec"]["environment"]["WSGI_FLEET_SERVER"]
    asked = (fleet.get("/found") for _ in range(200))
    slot = next(each for each in asked if each["found"]["environment"]["WSGI_FLEET_SERVER"] == server)
    release = slot["found"]["environment"]["WSGI_FLEET_RELEASE"]
    assert slot["slot"] in ("blue", "green")
    assert places_found == dict.fromkeys(places_found, slot["found"])
    seen = slot["found"]["environment"]
    assert (seen["T_PEM"], seen["HOME"], seen["LANG"], seen["PYTHONUNBUFFERED"]) == (
        pem, "/var/lib/app", "C.UTF-8", "1",
    )  # fmt: skip
    assert seen["PATH"] == f"/srv/app/releases/{release}/venv/bin:/opt/bin:/usr/bin:/bin"
    assert slot["found"]["python"] == f"/srv/app/releases/{release}/venv/bin/python"
    assert slot["found"]["sandbox"] == {"CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    for name in ("environment", "build", "workers", "schedules"):
        del fleet.app[name]
    fleet.app["rollout"] = {"start_timeout_s": 20}
    fleet.up()


@pytest.mark.long
def test_a_worker_gets_sigterm_itself_at_a_release_and_when_its_machine_is_stopped(fleet: Stack) -> None:
    commands = {
        "plain": "python stopping.py plain",
        "list": "cd .. && cd code; A=1 python stopping.py list",
        "loop": "while :; do python stopping.py loop; done",
        "pipe": "python stopping.py pipe | cat",
        "script": 'exec bash -c "python stopping.py script; true"',
    }
    fleet.app["workers"] = {name: {"command": command, "servers": "first"} for name, command in commands.items()}
    fleet.release_version("with workers that stop")
    first = next(iter(fleet.servers().values()))
    releases = [fleet.get()["release"]]

    def wait_until_all_work() -> None:
        # Each is a program with a process of its own.
        count = ("sh", "-c", "grep -las '^python' /proc/[0-9]*/cmdline | wc -l")
        eventually(lambda: on(first, *count, check=False).strip() == str(2 * len(commands)), message="workers work")

    wait_until_all_work()
    fleet.release_version("with workers that stop again")
    releases.append(fleet.get()["release"])
    wait_until_all_work()
    lxc("stop", first)
    lxc("start", first)
    wait_until_all_work()
    assert sorted(_said(first, "stopped").splitlines()) == sorted(
        f"{release} {name}" for release in releases for name in commands
    )
    del fleet.app["workers"]
    fleet.release_version("without workers that stop")


def _said(machine: str, name: str) -> str:
    text = on(machine, "cat", f"/var/lib/app/{name}", check=False)
    return "" if "No such file" in text else text.strip()


def _running(machine: str) -> list[str]:
    listed = on(machine, "systemctl", "list-units", "--plain", "--no-legend", "app-worker-*", "app-schedule-*.timer")
    return sorted(line.split()[0] for line in listed.splitlines())
