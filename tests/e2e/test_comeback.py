"""What ends on an app server comes back by itself, whatever it was and however often, and a person is told."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness.stack import Stack, eventually, lxc, on

START = 'VERSION = "1"'
pytestmark = pytest.mark.long
# Seconds until it serves again, once nothing is in its way: the longest pause, and its own start.
BACK_S = 13


@pytest.fixture(scope="module")
def single(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create one server, which does not start while /var/lib/app/away is there. A test leaves it serving."""
    stack = make_module_stack(
        "single", fleet={"servers": 1, "size": {"disk_gib": 2}}, rollout={"start_timeout_s": 20, "stage_timeout_s": 120}
    )
    guard = "assert not Path(os.environ['STATE_DIRECTORY'], 'away').exists(), 'the database is away'\n"
    stack.edit(START, guard + START)
    stack.up()
    return stack


def machine_of(stack: Stack) -> str:
    return next(iter(stack.servers().values()))


def serving_unit(machine: str) -> str:
    """Return app@blue or app@green: the one that is active or activating."""
    states = {slot: on(machine, "systemctl", "is-active", f"app@{slot}", check=False) for slot in ("blue", "green")}
    return next(f"app@{slot}" for slot, state in states.items() if state.strip() in ("active", "activating"))


def is_served(stack: Stack) -> bool:
    try:
        return bool(stack.get()["server"])
    except OSError:
        # Refused, 502, or no answer: a socket of systemd takes connections while its service waits.
        return False


def back_in_s(stack: Stack) -> float:
    start_s = time.monotonic()
    eventually(lambda: is_served(stack), timeout_s=60, message="it serves again")
    return time.monotonic() - start_s


def test_a_socket_that_ended_is_mended_by_the_next_release(single: Stack) -> None:
    machine = machine_of(single)
    unit = serving_unit(machine)
    # The slot serves on from the socket that it inherited, and could not be started anew.
    on(machine, "systemctl", "stop", "--job-mode=ignore-dependencies", "app.socket")
    if unit == "app@blue":
        refused = lxc("exec", machine, "--", "systemctl", "start", "app.socket", check=False)
        assert refused.returncode != 0
    assert is_served(single)
    assert "app.socket is inactive: the slot cannot be started anew" in single.fleet("status").stdout
    output = single.release_version("after the socket")
    assert "app.socket had ended" in output, output
    assert single.get()["version"] == "after the socket"
    assert on(machine, "systemctl", "is-active", "app.socket") == "active\n"
    single.release_version("once more")


def test_a_gateway_that_is_killed_eight_times_comes_back_and_status_tells(single: Stack) -> None:
    machine = machine_of(single)
    for _ in range(8):
        on(machine, "systemctl", "kill", "--signal=KILL", serving_unit(machine), check=False)
        time.sleep(1.5)
    # Not served yet: it waits for longer each time.
    report = single.fleet("status")
    assert back_in_s(single) < BACK_S
    assert "is restarting: app@" in report.stdout, report.stdout
    assert "keeps ending: " in report.stdout
    assert report.returncode == 1
    doctor = single.fleet("doctor").stdout
    assert "probe-1: restarting: app@" in doctor, doctor


def test_a_server_whose_database_was_away_for_40_s_is_back_seconds_after_it(single: Stack) -> None:
    machine = machine_of(single)
    on(machine, "touch", "/var/lib/app/away")
    try:
        on(machine, "systemctl", "kill", "--signal=KILL", serving_unit(machine))
        time.sleep(40)
        report = single.fleet("status").stdout
    finally:
        on(machine, "rm", "/var/lib/app/away")
    assert "the database is away" in report, report
    assert back_in_s(single) < BACK_S


def test_a_full_disk_is_told_and_the_server_comes_back_when_there_is_room(single: Stack) -> None:
    machine = machine_of(single)
    on(machine, "sh", "-c", "cat /dev/zero > /srv/app/filler; sync", check=False)
    try:
        assert "disk of probe-1: nothing can be written there: " in single.fleet("doctor").stdout
        for _ in range(6):
            on(machine, "systemctl", "kill", "--signal=KILL", serving_unit(machine), check=False)
            time.sleep(1)
    finally:
        on(machine, "rm", "-f", "/srv/app/filler")
    assert back_in_s(single) < BACK_S
    single.release_version("after the disk")
    assert single.get()["version"] == "after the disk"


def test_workers_that_end_at_once_are_told_by_up_status_and_doctor(single: Stack) -> None:
    single.app["workers"] = {"mail": {"command": "echo no queue; exit 3"}}
    output = single.up()
    assert "worker mail@1 has ended" in output, output
    assert "no queue" in output
    time.sleep(6)
    status, doctor = single.fleet("status"), single.fleet("doctor")
    assert "probe-1: app-worker-mail@1 keeps ending" in status.stdout, status.stdout
    assert status.returncode == 1
    assert "workers of probe-1: app-worker-mail@1 keeps ending" in doctor.stdout, doctor.stdout
    del single.app["workers"]
    single.up()
    assert single.fleet("status").returncode == 0


def test_no_line_of_a_burst_is_dropped(single: Stack) -> None:
    machine = machine_of(single)
    lines = 80_000
    single.app["workers"] = {"talk": {"command": f"seq -f 'burst %.0f' 1 {lines}; sleep 3600"}}
    single.up()
    count = ("sh", "-c", "journalctl -u app-worker-talk@1 -o cat --no-pager | grep -c '^burst '")
    eventually(lambda: int(on(machine, *count)) == lines, timeout_s=60, message=f"{lines} lines are in the journal")
    assert "Suppressed" not in on(machine, "journalctl", "-u", "systemd-journald", "--no-pager", "-o", "cat")
    del single.app["workers"]
    single.up()
