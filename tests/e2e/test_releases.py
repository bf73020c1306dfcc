"""Releases under load: what is lost (nothing), and where the fleet ends."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.evidence import assert_nothing_was_lost, has_reached, releases_that_answer
from harness.load import Load, Outcome
from harness.stack import Stack, eventually, lxc, on


@pytest.fixture(scope="module")
def fleet(release_fleet: Stack) -> Stack:
    """Return release_fleet in the place of the fleet that other files share."""
    return release_fleet


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('VERSION = "1"', 'VERSION = "code"'),
        pytest.param('VERSION = "1"', 'time.sleep(3)\nVERSION = "import of 3 s"', marks=pytest.mark.long),
        ("# Nothing", "itsdangerous==2.2.0\n# Nothing"),
    ],
    ids=["new code", "an import of 3 s", "new requirements"],
)
def test_a_release_loses_no_request(
    fleet: Stack, good: Callable[[str, str], None], table: Callable[[Outcome], None], old: str, new: str
) -> None:
    before = fleet.get()["release"]
    with Load(fleet.url) as load:
        good(old, new)
        fleet.up()
        load.wait_for(50)
    table(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert fleet.get()["release"] != before
    assert len(releases_that_answer(fleet)) == 1


def test_a_release_of_new_settings_loses_no_request(fleet: Stack, table: Callable[[Outcome], None]) -> None:
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


def test_a_rollback_loses_no_request_and_the_next_up_refuses_what_was_left(
    fleet: Stack, table: Callable[[Outcome], None]
) -> None:
    wanted = {"variable": "SETTINGS_FILE", "values": {"WANTED": True}}
    fleet.app["settings_file"] = wanted
    fleet.release_version("wanted")
    fleet.app["settings_file"] = {"variable": "SETTINGS_FILE", "values": {"WANTED": False}}
    fleet.release_version("unwanted")
    assert fleet.get("/settings") == {"WANTED": False}
    with Load(fleet.url) as load:
        went_back = fleet.fleet("rollback", "--yes")
        assert went_back.returncode == 0, went_back.stdout + went_back.stderr
        load.wait_for(50)
    table(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert releases_that_answer(fleet) == {"wanted"}
    assert fleet.get("/settings") == wanted["values"]
    output = fleet.up(fails=True)
    assert "was rejected by" in output
    assert "./fleet allow" in output
    assert releases_that_answer(fleet) == {"wanted"}
    # The same code and settings as what serves: state and fleet agree again, and nothing is left to do.
    fleet.app["settings_file"] = wanted
    fleet.release_version("wanted")
    fleet.up("--expect-no-changes")
    fleet.release_version("newer")
    assert releases_that_answer(fleet) == {"newer"}


@pytest.mark.long
def test_a_release_while_a_server_is_down_loses_no_request(fleet: Stack, table: Callable[[Outcome], None]) -> None:
    fleet.app["rollout"] = {"start_timeout_s": 20, "allow_unreachable": 1}
    away = list(fleet.servers().values())[1]
    lxc("stop", "--force", away)
    try:
        with Load(fleet.url) as load:
            fleet.release_version("while one is down")
            load.wait_for(50)
    finally:
        lxc("start", away)
        fleet.app["rollout"] = {"start_timeout_s": 20}
    table(load.outcome)
    eventually(lambda: away in {server for server, _ in fleet.who_answers()}, message=f"{away} answers again")
    assert_nothing_was_lost(fleet, load.outcome)
    assert releases_that_answer(fleet) == {"while one is down"}


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
    told = " ".join(refused.stderr.split())
    assert re.search(r"\S+@\S+ is at work on this application since \d{4}-\d\d-\d\dT\S+ ", told), told
    assert process.returncode == 0, output
    assert releases_that_answer(fleet) == {"second"}


def test_the_release_task_runs_once_with_the_applications_environment(fleet: Stack) -> None:
    fleet.app["rollout"] = {"release_task": 'echo "$WSGI_FLEET_RELEASE" >> "$STATE_DIRECTORY/task"'}
    output = fleet.release_version("with a task")
    machines = list(fleet.servers().values())
    ran = [on(machine, "cat", "/var/lib/app/task", check=False) for machine in machines]
    assert ran[0] == fleet.get()["release"] + "\n", output
    assert ["No such file" in text for text in ran[1:]] == [True, True]
    fleet.app["rollout"] = {"start_timeout_s": 20}
    fleet.up()


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


def _said(machine: str, name: str) -> str:
    text = on(machine, "cat", f"/var/lib/app/{name}", check=False)
    return "" if "No such file" in text else text.strip()


def _running(machine: str) -> list[str]:
    listed = on(machine, "systemctl", "list-units", "--plain", "--no-legend", "app-worker-*", "app-schedule-*.timer")
    return sorted(line.split()[0] for line in listed.splitlines())
