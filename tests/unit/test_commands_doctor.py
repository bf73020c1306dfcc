"""The doctor: each thing that is wrong is found, told with its remedy, and nothing that is healthy is called wrong."""

from __future__ import annotations

import json
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from commands import doctor
from commands.__main__ import app
from commands.report import Report
from commands.restarting import find_cause
from platforms.diagnosis import Finding
from platforms.lxd.diagnosis import inotify
from releases.status import AgentHealth, BalancerStatus, MachineStatus
from tests.unit.fake_stack import GONE, NEW, OLD, FakeStack, facts, front, host_status, make, on_new

MIB = 1 << 20


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    """Create a stack on a healthy machine."""
    monkeypatch.setattr(doctor, "check_operator", lambda _stack: iter([Finding("this machine")]))  # pyright: ignore
    return make(monkeypatch)


def run_doctor() -> tuple[list[str], int]:
    """Return what the doctor finds wrong, each with its remedy in one line, and the exit code."""
    result = CliRunner().invoke(app, ["doctor"])
    text = result.output.replace("\n       ", " -> ")
    return [line.removeprefix("wrong  ") for line in text.splitlines() if line.startswith("wrong")], result.exit_code


def certificate_ending(days: int, *, renewed: bool = False) -> BalancerStatus:
    """Return a balancer whose certificate ends in so many days."""
    seconds = days * 86_400 + 3600
    return front(certificate={"expires_in_s": seconds, "is_renewed_here": renewed})


@pytest.mark.parametrize("balancer", [front(), certificate_ending(14), certificate_ending(25, renewed=True)])
def test_of_a_well_stack_nothing_is_wrong(stack: FakeStack, balancer: BalancerStatus) -> None:
    stack.machines.traffic(balancer)
    assert run_doctor() == ([], 0)
    output = CliRunner().invoke(app, ["doctor"]).output
    assert ("ok     certificate\n" in output) == (balancer.certificate is not None)
    assert output.endswith("\nnothing is wrong\n")


def test_a_prometheus_that_does_not_respond_is_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def respond(status: int) -> list[Finding]:
            def serve() -> None:
                connection, _ = listening.accept()
                with connection:
                    assert connection.recv(4096).startswith(b"GET /-/ready ")
                    connection.sendall(f"HTTP/1.0 {status} X\r\n\r\n".encode())

            with ThreadPoolExecutor(1) as pool:
                pool.submit(serve)
                return [*doctor.check_prometheus(url)]

        assert respond(200) == [Finding("monitoring")]
        (starting,) = respond(503)
        assert "503" in starting.problem
    (away,) = doctor.check_prometheus(url)
    assert away.problem.startswith(f"Prometheus at {url} does not respond: ")
    assert "`pulumi up` starts it" in away.remedy
    assert [*doctor.check_prometheus("")] == []


DISK = "disk of hello-2: {} -> Free some there, or raise size.disk"
RENEW = "Put the renewed one under balancer.tls and run"
DRAINED = front(drained=["10.0.0.2"], active=["10.0.0.1"])
SOCKET = host_status(failed_units=["app.socket"])
UNITS = host_status(failed_units=["cron.service", "app@green.service", "app-proof.service"])
RENEWED = "certificate: it expires in 24 days -> `journalctl -u certbot` on the balancer"


@pytest.mark.parametrize(
    ("balancer", "message"),
    [
        (front(maintenance=True), "maintenance: it is on: clients get 503 -> When the work is done: "),
        (DRAINED, "drained servers: hello-2 takes no requests -> "),
        (certificate_ending(13), f"certificate: it expires in 13 days -> {RENEW}"),
        (certificate_ending(1), f"certificate: it expires in 1 day -> {RENEW}"),
        (certificate_ending(-1), f"certificate: it has expired -> {RENEW}"),
        (certificate_ending(24, renewed=True), RENEWED),
        (front(state="failed"), "balancer: Nginx is failed; see `./fleet logs --server balancer` -> "),
    ],
)
def test_what_is_wrong_with_the_balancer_is_told_with_its_remedy(stack: FakeStack, balancer: Any, message: str) -> None:
    stack.machines.traffic(balancer)
    (wrong,), code = run_doctor()
    assert (wrong[: len(message)], code) == (message, 1)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (GONE, "hello-2: unreachable: no route to host -> `pulumi up --refresh` starts or replaces it"),
        (facts(queue=None), "hello-2: failed: nothing listens on its port -> restart the machine (`./fleet shell"),
        (on_new(), f"hello-2: outdated: it serves {NEW}, the current release is {OLD} -> "),
        (facts(machine=host_status(disk_free_bytes=100 * MIB)), DISK.format("100 MiB of 8192 MiB are free")),
        (facts(machine=host_status(disk_error="EDQUOT")), DISK.format("nothing can be written there: EDQUOT")),
        (
            facts(socket="failed", machine=SOCKET),
            "hello-2: failed: app.socket is failed: the slot cannot be started anew",
        ),
        (facts(machine=UNITS), "units of hello-2: cron.service failed -> `journalctl -u cron.service` on it says why;"),
        (facts(machine=host_status(clock_s=-60)), "clocks: "),
    ],
)
def test_what_is_wrong_with_a_server_is_told_with_its_remedy(stack: FakeStack, server: Any, message: str) -> None:
    stack.machines.status("hello-2", server)
    (wrong,), code = run_doctor()
    assert (wrong[: len(message)], code) == (message, 1)


def test_a_stack_without_a_fleet_is_wrong_and_the_rest_is_still_looked_at(
    stack: FakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stack

    def pulumi(*arguments: str) -> str:
        if arguments[1] == "--show-name":
            return "prod\n"
        return '{"deployment": {}}' if "export" in arguments else "{}"

    monkeypatch.setattr("commands.stack.pulumi", pulumi)
    wrong, code = run_doctor()
    assert wrong == ["stack prod: stack prod has no fleet yet (or an older one) -> Run `pulumi up -s prod`."]
    assert code == 1


def report(clock_s: float, began_s: float, ended_s: float) -> Report[MachineStatus]:
    return Report(MachineStatus(machine=host_status(clock_s=clock_s)), "", began_s, ended_s)


times = st.floats(0, 5)


@given(st.lists(st.tuples(times, times, st.floats(-1, 1)), min_size=1, max_size=5))
def test_clocks_within_two_seconds_are_never_called_apart_however_slowly_machines_answer(
    responses: list[tuple[float, float, float]],
) -> None:
    reports = {
        f"a-{number}": report(1000 + before + error, 1000, 1000 + before + after)
        for number, (before, after, error) in enumerate(responses)
    }
    assert doctor.compare_clocks(reports) == Finding("clocks")


def test_clocks_that_are_surely_apart_are_told_with_who_is_ahead() -> None:
    found = doctor.compare_clocks(
        {"a": report(1000, 999, 1001), "b": report(1010, 999, 1001), "c": Report(None, "x", 0, 0)}
    )
    assert found.problem == "b is 8.0 s or more ahead of a"


def write_lock(folder: Path, process: int, host: str, stack: str = "prod") -> str:
    file = folder / ".pulumi" / "locks" / "organization" / "wsgi-fleet" / stack / "x.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"pid": process, "username": "ann", "hostname": host}))
    return f"file://{folder}"


def test_a_lock_of_a_pulumi_that_was_killed_is_told_with_the_command_that_takes_it_away(tmp_path: Path) -> None:
    backend = write_lock(tmp_path / "killed", 2**22 + 1, socket.gethostname())
    found = doctor.check_lock("prod", backend, "wsgi-fleet")
    assert found.problem == f"process {2**22 + 1}, which held it, is gone"
    assert found.remedy.startswith("Take it away: `pulumi cancel -s prod`")
    found = doctor.check_lock("prod", backend, "wsgi-fleet", ["release 0138b0ee8e01"])
    assert found.problem.endswith("is gone; what it began is still at work: release 0138b0ee8e01")
    assert found.remedy.startswith("Wait until `./fleet status -s prod` shows no rollout. Then take it away: `pulumi ")
    local = write_lock(tmp_path / "local", 2**22 + 1, socket.gethostname(), "local")
    message = "`make local` and `make local-down` do it by themselves."
    assert doctor.check_lock("local", local, "wsgi-fleet").remedy.endswith(message)
    # Another program may have the process id by now.
    assert doctor.check_lock("prod", write_lock(tmp_path, os.getpid(), socket.gethostname()), "wsgi-fleet").problem


@pytest.mark.parametrize("stack_name", ["prod", "other"])
def test_a_lock_that_somebody_may_hold_is_left_alone(tmp_path: Path, stack_name: str) -> None:
    backend = write_lock(tmp_path, 2**22 + 1, "another-host")
    assert doctor.check_lock(stack_name, backend, "wsgi-fleet") == Finding("lock of the stack")
    assert doctor.check_lock(stack_name, "s3://state", "wsgi-fleet") == Finding("lock of the stack")


def test_disks_of_this_machine_are_looked_at_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {"one": tmp_path, "the same": tmp_path, "none": tmp_path / "nothing"}
    assert list(doctor.check_disk(paths)) == [Finding("disk of one")]
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=700 * MIB))  # pyright: ignore
    (found,) = doctor.check_disk(paths)
    assert found.problem == f"700 MiB are free below {tmp_path}"


def test_a_missing_tool_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = [(each.subject, each.problem) for each in doctor.check_tools()]
    assert lines == [(name, "it is not on the PATH") for name in ("pulumi", "pulumi-language-python")]


@pytest.mark.parametrize(("limit", "problem"), [("1024", ""), ("128", "enough for some 12 machines")])
def test_a_limit_that_few_machines_use_up_is_told(tmp_path: Path, limit: str, problem: str) -> None:
    (tmp_path / "limit").write_text(f"{limit}\n")
    found = inotify(tmp_path / "limit")
    assert problem in found.problem
    assert bool(found.remedy) == bool(found.problem) == bool(problem)


def test_without_lxd_the_doctor_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platforms.lxd.client.SOCKETS", (str(tmp_path / "unix.socket"),))
    monkeypatch.delenv("LXD_DIR", raising=False)
    (found,) = doctor.operator.check_host("lxd", {}, stack="local", project=tmp_path)
    assert (found.subject, found.remedy) == ("LXD", "Run `make setup`; it says what it does.")
    assert found.problem.startswith("LXD is not there: no socket at ")


def test_the_way_to_machines_is_looked_at_before_they_are(stack: FakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.machines.status("hello-2", GONE)

    def check_connection(spec: dict[str, Any]) -> list[Finding]:
        return [Finding("port 22", f"{spec['jump_address']} is silent", "Open it.")]

    monkeypatch.setattr(doctor.operator, "check_connection", check_connection)
    (first, second), code = run_doctor()
    assert first == "port 22: 192.0.2.1 is silent -> Open it."
    assert (second.partition(":")[0], code) == ("hello-2", 1)


@pytest.mark.parametrize(
    ("health", "problem"),
    [
        (AgentHealth(age_s=4.0, servers={}, problem=""), ""),
        (AgentHealth(age_s=95.0, servers={}, problem=""), "the last check was 95 s ago"),
        (None, "no health check has run yet"),
    ],
)
def test_a_balancer_on_which_nobody_asks_for_health_is_told(health: AgentHealth | None, problem: str) -> None:
    found = doctor.check_health_agent(health)
    assert (found.subject, found.problem) == ("health of servers", problem)
    assert ("`journalctl -u wsgi-fleet-health`" in found.remedy) == bool(problem)


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("app@blue.service", "hello-2: restarting: app@blue"),
        ("app-worker-mail@1.service", "workers of hello-2: app-worker-mail@1"),
    ],
)
def test_what_is_started_again_and_again_of_late_is_told_with_its_last_lines(
    stack: FakeStack, unit: str, message: str
) -> None:
    stack.machines.status("hello-2", facts(restarts={unit: 3}))
    ask = "journalctl --no-pager --quiet"
    stack.machines.answers["m-hello-2", f"{ask} --output=cat --lines=60 _SYSTEMD_UNIT={unit}"] = "no database\n\nbye\n"
    assert run_doctor() == ([], 0)
    starts = "\n".join(
        f"{1795850000 + number}.5 x: Scheduled restart job, restart counter is at 4." for number in range(3)
    )
    stack.machines.answers["m-hello-2", f"{ask} --output=short-unix --since=-120s _PID=1 UNIT={unit}"] = starts
    (wrong,), code = run_doctor()
    assert wrong.startswith(
        f"{message} keeps ending: 3 times since 07:13:20 UTC; its last lines: no database | bye -> "
    )
    assert code == 1


def test_a_damaged_file_of_the_store_is_told_with_its_remedy(stack: FakeStack) -> None:
    stack.damage = "pointer in the store is damaged"
    assert run_doctor() == ([f"store of hello: {stack.damage} -> `pulumi up` puts it right."], 1)
    result = CliRunner().invoke(app, ["status"])
    assert f"the store of hello: {stack.damage}; `pulumi up` puts it right\n" in result.output
    assert result.exit_code == 1


def test_of_a_traceback_the_exception_is_told_whatever_a_gateway_says_after_it() -> None:
    traceback = ["Traceback (most recent call last):", '  File "a.py"', "    import b"]
    assert find_cause(["x", *traceback, "KeyError: 1", "no app loaded", "bye"]) == ["KeyError: 1"]
    for lines in (["x", "no app loaded", "bye"], ["x", *traceback[:2]], []):
        assert find_cause(lines) == lines
