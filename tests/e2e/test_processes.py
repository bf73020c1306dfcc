"""Balancing on the level of processes: an Nginx on each server, processes of systemd and of supervisord behind it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.evidence import assert_nothing_was_lost, failures_logged
from harness.load import Load, LoadOutcome
from harness.stack import Stack, eventually, lxc, on
from tests.e2e.test_gateways import ask, assert_the_balancer_alone_is_believed

pytestmark = pytest.mark.long

# Seconds of slow requests: enough to be in flight, and no wait for whoever drains them.
SLOW_S = (0.2, 0.5, 0.2, 1.0)
NUMBERS = ("00", "01", "02")
SYSTEMD: dict[str, Any] = {
    "gateway": {"kind": "uwsgi", "processes": 3, "threads": 2},
    "fleet": {"servers": 2, "local_proxy": True},
}
SUPERVISORD: dict[str, Any] = {
    "gateway": {"kind": "tornado", "processes": 3, "threads": 4},
    "fleet": {"servers": 1, "local_proxy": True, "process_manager": "supervisord"},
}
APP = "def app(environ: Environ, start_response: StartResponse) -> list[bytes]:\n"
# Well where it is proven, which has no port.
NO_IMPORT = ('VERSION = "', 'if "WSGI_FLEET_PORT" in os.environ:\n    import nothing_of_that_name\nVERSION = "')
ILL_ON_ONE_PORT = (
    APP,
    APP + '    if os.environ.get("WSGI_FLEET_PORT", "").endswith("02"):\n        raise ValueError(6)\n',
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SYSTEMD, id="systemd, uWSGI"),
        pytest.param(SUPERVISORD, id="supervisord, Tornado", marks=pytest.mark.long),
    ],
)
def fleet(request: pytest.FixtureRequest, make_module_stack: Callable[..., Stack]) -> Stack:
    """Create a fleet of each process manager. A test leaves its servers healthy, with one release of unchanged code."""
    stack = make_module_stack("processes", rollout={"start_timeout_s": 20}, **request.param)
    stack.up()
    return stack


@pytest.fixture
def edit(fleet: Stack) -> Generator[Callable[[str, str], None]]:
    """Yield a function that replaces old by new text in the application. Restore its code afterwards."""
    file = fleet.folder / "tests" / "e2e" / "app" / "probe.py"
    before = file.read_text()
    yield fleet.edit
    file.write_text(before)


def answers(stack: Stack, requests: int = 120, path: str = "/") -> Counter[tuple[str, str]]:
    """Count responses by (server, last digits of the port), with eight clients at a time."""
    with ThreadPoolExecutor(8) as clients:
        responses = list(clients.map(stack.get, [path] * requests))
    return Counter((each["server"], each["port"][-2:]) for each in responses)


def everyone(stack: Stack) -> set[tuple[str, str]]:
    return {(server, number) for server in stack.servers().values() for number in NUMBERS}


def slot_of(machine: str) -> str:
    """Return the slot that a machine's Nginx configuration names."""
    return on(machine, "readlink", "/etc/nginx/nginx.conf").strip().removesuffix(".conf").rpartition("-")[2]


def kill(machine: str, number: int) -> None:
    """Kill a gateway with all its processes."""
    # In brackets: this command line is none that it looks for.
    on(machine, "pkill", "-9", "-f", f"[/]run/app-{slot_of(machine)}-{number}/http.sock")


def test_least_connections_are_counted_for_processes_and_every_one_gets_some(fleet: Stack) -> None:
    assert set(answers(fleet)) == everyone(fleet)
    assert fleet.get("/found")["slot"] in ("blue", "green")
    seen = answers(fleet, 240, "/?s=0.4&at=01")
    slow = sum(count for (_, number), count in seen.items() if number == "01")
    others = (seen.total() - slow) / 2
    assert set(seen) == everyone(fleet)
    assert slow < others / 2, seen


def test_a_release_loses_no_request(fleet: Stack, table: Callable[[LoadOutcome], None]) -> None:
    machines = fleet.servers()
    with Load(fleet.url, slow_s=SLOW_S) as load:
        fleet.release_version("2")
        load.wait_for(50)
    table(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert failures_logged(fleet) == []
    assert len(load.outcome.versions) == 2
    assert fleet.servers() == machines
    assert fleet.responding_servers() == {(machine, "2") for machine in machines.values()}
    assert set(answers(fleet)) == everyone(fleet)


def test_the_status_is_of_all_processes_of_a_server(fleet: Stack) -> None:
    result = fleet.fleet("status", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    for server in json.loads(result.stdout)["servers"]:
        assert (server["state"], server["listen_queue"]) == ("serving", 0), server
        workers = (server["workers_busy"], server["workers_idle"], server["threads"])
        assert workers == ((0, 3, 6) if fleet.app["gateway"]["kind"] == "uwsgi" else (None, None, None))


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (NO_IMPORT, "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        (ILL_ON_ONE_PORT, "ValueError: 6"),
    ],
    ids=["does not import", "ill in one process"],
)
def test_a_release_that_is_bad_in_a_process_answers_nobody(
    fleet: Stack,
    edit: Callable[[str, str], None],
    table: Callable[[LoadOutcome], None],
    change: tuple[str, str],
    message: str,
) -> None:
    serves = fleet.get()["release"]
    with Load(fleet.url, slow_s=SLOW_S) as load:
        edit(*change)
        output = fleet.up(fails=True)
        load.wait_for(50)
    table(load.outcome)
    assert "probe-1, switch:" in output
    assert message in output, output
    assert_nothing_was_lost(fleet, load.outcome)
    assert len(load.outcome.versions) == 1
    assert {fleet.get()["release"] for _ in range(30)} == {serves}
    assert fleet.fleet("status").returncode == 0


def test_a_killed_process_loses_what_it_had_and_comes_back(fleet: Stack, table: Callable[[LoadOutcome], None]) -> None:
    with Load(fleet.url, slow_s=SLOW_S) as load:
        for machine in fleet.servers().values():
            kill(machine, 1)
        load.wait_for(200)
    table(load.outcome)
    failed = load.outcome.failed_fresh + load.outcome.failed_kept
    # GET is asked of another process. A POST may have run; one process takes a third of those of sixteen clients.
    assert [line for line in failed if "POST" not in line] == [], load.outcome
    assert len(failed) <= 6, load.outcome
    eventually(lambda: set(answers(fleet)) == everyone(fleet), timeout_s=30, message="every process answers again")


def test_what_a_client_pretends_goes_no_further_and_the_rest_arrives(fleet: Stack) -> None:
    spoofed = {
        "Host": "Shop.example.org:8080",
        "X-Forwarded-For": "6.6.6.6",
        "X_Forwarded_For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example.org",
        "X-Forwarded-Port": "1",
        "X-Forwarded-Prefix": "/evil",
        "X-Remote-User": "root",
        "X-Real-IP": "6.6.6.6",
        "Proxy": "http://evil",
        "X-Request-ID": 'bad"id',
    }
    status, seen, request_id = ask(fleet, "/private/..//headers?a=%2F", spoofed)
    assert status == 200
    assert_the_balancer_alone_is_believed(seen, request_id)
    assert {"HTTP_X_REMOTE_USER", "HTTP_X_FORWARDED_PREFIX"} & set(seen) == set()
    assert (seen["REMOTE_ADDR"], seen.get("SCRIPT_NAME", ""), seen.get("REMOTE_USER", "")) == ("127.0.0.1", "", "")
    big = {"Host": "a", "Cookie": "c" * 14_000}
    assert ask(fleet, "/headers?" + "q" * 8_000, big)[1]["HTTP_COOKIE"] == "c" * 14_000
    status, seen, _ = ask(fleet, "/%0d%0aX-Evil:%201/%2525/%2e%2e?", {"Host": "a"})
    assert (status, seen["path"]) == (200, "/\r\nX-Evil: 1/")


@pytest.mark.long
def test_a_prefix_and_a_user_arrive_as_they_do_without_an_nginx_on_the_server(fleet: Stack) -> None:
    release = fleet.get()["release"]
    fleet.app["path"] = "/shop"
    fleet.settings["balancer"] = {"proxy": {"request_headers": {"set": {"X-Edge": "one of mine"}}}}
    try:
        fleet.up()
        status, seen, _ = ask(fleet, "/shop/headers", {"Host": "a"})
        assert (status, seen["SCRIPT_NAME"], seen["PATH_INFO"]) == (200, "/shop", "/headers")
        assert seen["HTTP_X_EDGE"] == "one of mine"
        assert fleet.get("/shop/")["release"] == release
    finally:
        del fleet.app["path"], fleet.settings["balancer"]
        fleet.up()
    # What the balancer sends of somebody whom it let in, and of a client that came by HTTPS.
    server = next(iter(fleet.servers().values()))
    options = ("-H", "X-Remote-User: ann", "-H", "X-Forwarded-Proto: https", "-H", "X-Real-IP: 192.0.2.7")
    text = on(server, "curl", "-s", *options, "http://127.0.0.1:8000/headers")
    seen = json.loads(text)
    assert (seen["REMOTE_USER"], seen["wsgi.url_scheme"], seen["REMOTE_ADDR"]) == ("ann", "https", "192.0.2.7")


@pytest.mark.long
def test_a_server_whose_processes_all_ended_is_passed_over(fleet: Stack) -> None:
    first = fleet.servers()["probe-1"]
    units = on(first, "systemctl", "list-units", "--plain", "--no-legend", "app@*").split("\n")
    on(first, "systemctl", "stop", *(line.split()[0] for line in units if line.strip()))
    status = on(first, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:8000/")
    assert status == "503"
    if len(fleet.servers()) > 1:
        assert first not in {server for server, _ in fleet.responding_servers()}
    status = fleet.fleet("status")
    assert status.returncode == 1
    assert "probe-1 is stopped" in status.stdout, status.stdout
    lxc("restart", "--force", first)
    eventually(lambda: set(answers(fleet)) == everyone(fleet), message="the server is back")


@pytest.mark.long
def test_a_server_comes_back_on_its_release_after_a_restart_and_goes_back_under_load(
    fleet: Stack, table: Callable[[LoadOutcome], None]
) -> None:
    before = fleet.get()["release"]
    fleet.release_version("3")
    machines = fleet.servers()
    assert {slot_of(machine) for machine in machines.values()} <= {"blue", "green"}
    lxc("restart", "--force", *machines.values())
    eventually(lambda: set(answers(fleet)) == everyone(fleet), message="every process answers again")
    assert fleet.responding_servers() == {(machine, "3") for machine in machines.values()}
    with Load(fleet.url, slow_s=SLOW_S) as load:
        back = fleet.fleet("rollback", before, "--yes")
        load.wait_for(50)
    table(load.outcome)
    assert back.returncode == 0, back.stdout + back.stderr
    assert_nothing_was_lost(fleet, load.outcome)
    assert {fleet.get()["release"] for _ in range(30)} == {before}
    assert set(answers(fleet)) == everyone(fleet)


@pytest.mark.long
def test_what_was_rendered_is_well_to_those_who_read_it(fleet: Stack) -> None:
    server = next(iter(fleet.servers().values()))
    assert "[warn]" not in on(server, "nginx", "-t")
    name = f"app@{slot_of(server)}" + ("" if fleet.app["fleet"].get("process_manager") else "-0")
    assert on(server, "systemd-analyze", "verify", f"{name}.service") == ""
    on(server, "systemd-analyze", "security", "--threshold=20", f"{name}.service")
    # What an application says stands under its process.
    assert ask(fleet, "/raise", {"Host": "a"})[0] == 500
    lines = fleet.fleet("logs", "--lines", "400").stdout
    assert re.search(r"\b(blue|green)-[012]\b", lines), lines
    assert "RuntimeError: on purpose" in lines


@pytest.mark.long
def test_another_number_of_processes_comes_with_new_servers(fleet: Stack) -> None:
    old, release = set(fleet.servers().values()), fleet.get()["release"]
    fleet.app["gateway"] = fleet.app["gateway"] | {"processes": 2}
    fleet.up()
    new = set(fleet.servers().values())
    assert old.isdisjoint(new)
    assert {number for _, number in answers(fleet)} == {"00", "01"}
    back = fleet.fleet("rollback", release, "--yes")
    manager = fleet.app["fleet"].get("process_manager", "systemd")
    report = " ".join((back.stdout + back.stderr).split())
    assert back.returncode != 0
    assert f"{release} is made for servers with {manager} 3, and this one has {manager} 2" in report, report
    assert {server for server, _ in answers(fleet)} == new
