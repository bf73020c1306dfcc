"""A fleet on real machines, from the first `up` on. Tests share the fleet and leave it as they found it."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from harness.evidence import assert_nothing_was_lost
from harness.load import Load, LoadOutcome
from harness.site import apply_site, desired_site, site_document
from harness.stack import ENVIRONMENT, SECRET, SETTINGS, Stack, eventually, lxc, on, proxy_complaints


def status(machine: str) -> dict[str, object]:
    return json.loads(on(machine, "/usr/local/lib/wsgi-fleet/app_status.py"))


def slot(machine: str) -> str:
    """Return the one slot that runs."""
    running = [
        name
        for name in ("blue", "green")
        if on(machine, "systemctl", "is-active", f"app@{name}", check=False) == "active\n"
    ]
    assert len(running) == 1, running
    return running[0]


def reachable(machine: str, address: str, port: int) -> bool:
    """Return whether a TCP connection from that machine opens."""
    script = f"import socket; socket.create_connection(('{address}', {port}), timeout=2)"
    return lxc("exec", machine, "-T", "--", "python3", "-c", script, check=False).returncode == 0


def address_of(machine: str) -> str:
    state = json.loads(lxc("query", f"/1.0/instances/{machine}/state").stdout)
    return next(each["address"] for each in state["network"]["eth0"]["addresses"] if each["family"] == "inet")


def test_every_server_answers_through_the_balancer(fleet: Stack) -> None:
    assert {server for server, _ in fleet.responding_servers()} == set(fleet.servers().values())


def test_a_second_up_changes_nothing(fleet: Stack) -> None:
    assert "unchanged" in fleet.up("--expect-no-changes")


def test_a_refresh_finds_nothing_to_tell(fleet: Stack) -> None:
    fleet.pulumi("refresh", "--yes", "--skip-preview", "-s", fleet.name, "--expect-no-changes")


def test_the_environment_reaches_the_application_to_the_letter(fleet: Stack) -> None:
    seen = fleet.get("/environment")
    assert seen.pop("T_SECRET") == SECRET
    assert len(seen.pop("T_MADE")) == 64
    assert seen == ENVIRONMENT


def test_the_settings_file_reaches_the_application_to_the_letter_and_nobody_else(fleet: Stack) -> None:
    assert fleet.get("/settings") == SETTINGS
    server = next(iter(fleet.servers().values()))
    file = f"/srv/app/releases/{fleet.get()['release']}/settings.py"
    assert on(server, "stat", "-c", "%a %U %G", file) == "640 root app\n"


def test_a_client_cannot_pretend_to_be_somebody_else(fleet: Stack) -> None:
    spoofed = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "gopher",
        "X-Real-IP": "6.6.6.6",
        "Proxy": "http://evil",
        "X-Request-ID": 'bad"id',
    }
    request = urllib.request.Request(f"{fleet.url}/headers", headers=spoofed)
    with urllib.request.urlopen(request, timeout=10) as response:
        seen, request_id = json.loads(response.read()), response.headers["X-Request-ID"]
    assert (seen["HTTP_X_FORWARDED_FOR"], seen["HTTP_X_REAL_IP"]) == ("127.0.0.1", "127.0.0.1")
    port = str(fleet.settings["lxd"]["port"])
    assert (seen["HTTP_X_FORWARDED_PROTO"], seen["HTTP_X_FORWARDED_PORT"], seen["SERVER_PORT"]) == ("http", port, port)
    assert seen["HTTP_HOST"] == seen["HTTP_X_FORWARDED_HOST"] == f"127.0.0.1:{port}"
    assert not seen.get("HTTP_PROXY")
    assert seen["HTTP_X_REQUEST_ID"] == request_id != 'bad"id'


def test_every_line_of_the_access_log_is_json_whatever_clients_send(fleet: Stack) -> None:
    request = urllib.request.Request(f"{fleet.url}/%22%0a{{", headers={"User-Agent": 'a"b\\c\x01'})
    urllib.request.urlopen(request, timeout=10).read()
    lines = on(fleet.balancer(), "cat", "/var/log/wsgi-fleet/access.log").splitlines()
    assert [line for line in lines if not isinstance(json.loads(line), dict)] == []
    assert any(json.loads(line)["agent"].startswith('a"b\\c') for line in lines)


def test_only_the_intended_ports_are_open(fleet: Stack) -> None:
    first, second = list(fleet.servers().values())[:2]
    balancer = fleet.balancer()
    app, peer, front = address_of(first), address_of(second), address_of(balancer)
    assert reachable(balancer, app, 8000)
    assert not reachable(balancer, app, 22)
    assert not reachable(first, peer, 8000)
    assert not reachable(first, peer, 22)
    assert not reachable(first, front, 22)
    for address, port in ((app, 8000), (app, 22), (front, 22)):
        script = f"import socket; socket.create_connection(('{address}', {port}), timeout=2)"
        assert subprocess.run(["python3", "-c", script], check=False, capture_output=True).returncode != 0
    # The control: what is refused from outside does listen.
    assert reachable(first, "127.0.0.1", 8000)
    assert reachable(first, "127.0.0.1", 22)


def test_what_was_rendered_is_well_to_those_who_read_it(fleet: Stack) -> None:
    server, balancer = next(iter(fleet.servers().values())), fleet.balancer()
    for machine in (server, balancer):
        assert "Valid" in on(machine, "cloud-init", "schema", "--system")
    assert proxy_complaints(balancer) == ""
    for unit in ("app@blue.service", "app-proof.service", "app.socket", "app-boot.service"):
        assert on(server, "systemd-analyze", "verify", unit) == ""
    on(server, "systemd-analyze", "security", "--threshold=20", "app@blue.service")


def test_every_machine_updates_itself_in_the_window_at_a_moment_of_its_own(fleet: Stack) -> None:
    offsets: set[int] = set()
    for machine in (*fleet.servers().values(), fleet.balancer()):
        assert on(machine, "systemctl", "is-active", "apt-daily.timer", "apt-daily-upgrade.timer") == "active\n" * 2
        ask = ("systemctl", "show", "-P", "NextElapseUSecRealtime", "--timestamp=utc", "apt-daily-upgrade.timer")
        begins = datetime.strptime(on(machine, *ask).strip(), "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
        offsets.add((begins.hour - 3) * 3600 + begins.minute * 60 + begins.second)
        # What it would do is known now; whether there is anything to do is the archive's affair.
        report = on(machine, "unattended-upgrade", "--dry-run", "--verbose")
        assert "origin=Debian,codename=trixie-security,label=Debian-Security" in report
        assert "label=Debian," not in report
    assert len(offsets) == 4
    assert 0 <= min(offsets) <= max(offsets) <= 110 * 60


def test_a_broken_site_is_refused_and_the_one_before_it_serves(fleet: Stack) -> None:
    balancer = fleet.balancer()
    before = on(balancer, "cat", "/etc/nginx/wsgi-fleet/site.conf")
    for broken in ("server { listen 80; nonsense; }", "server { listen 80 default_server; return 502; }"):
        result = apply_site(balancer, site_document(broken, probe="/"), check=False)
        assert result.returncode == 1
        assert "the site before it still serves" in result.stderr
        assert on(balancer, "cat", "/etc/nginx/wsgi-fleet/site.conf") == before
        assert fleet.get()["server"]


def test_new_code_is_served_without_replacing_a_machine_and_without_losing_a_request(
    fleet: Stack, table: Callable[[LoadOutcome], None]
) -> None:
    fleet.release_version("one")
    machines = fleet.servers()
    with Load(fleet.url) as load:
        fleet.release_version("two")
        load.wait_for(50)
    table(load.outcome)
    assert load.outcome.failed_fresh == [], load.outcome
    assert load.outcome.failed_kept == [], load.outcome
    assert set(load.outcome.versions) == {"one", "two"}
    assert fleet.servers() == machines
    assert fleet.responding_servers() == {(machine, "two") for machine in machines.values()}


def test_a_slow_server_gets_fewer_requests_where_round_robin_would_give_it_a_third(fleet: Stack) -> None:
    slow, balancer = next(iter(fleet.servers().values())), fleet.balancer()
    site = desired_site(balancer)

    def ask(_number: int) -> str:
        return fleet.get()["server"]

    def share() -> int:
        with ThreadPoolExecutor(12) as clients:
            responses = Counter(clients.map(ask, range(300)))
        assert set(responses) == set(fleet.servers().values())
        return responses[slow]

    on(slow, "sh", "-c", "echo 0.3 > /var/lib/app/slow")
    try:
        counted = share()
        # The control: the same without the line that is tested.
        apply_site(balancer, desired_site(balancer, "    least_conn;\n", ""))
        in_turn = share()
    finally:
        on(slow, "rm", "/var/lib/app/slow")
        apply_site(balancer, site)
    assert 90 <= in_turn <= 110
    assert counted < 60


def test_an_application_that_raises_is_answered_500_and_no_server_is_taken_out_for_it(
    fleet: Stack, table: Callable[[LoadOutcome], None]
) -> None:
    def ask(_number: int) -> int:
        try:
            urllib.request.urlopen(f"{fleet.url}/raise", timeout=30).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        return 200

    with Load(fleet.url) as load:
        with ThreadPoolExecutor(8) as clients:
            responses = Counter(clients.map(ask, range(300)))
        load.wait_for(50)
    table(load.outcome)
    assert responses == {500: 300}
    assert_nothing_was_lost(fleet, load.outcome)
    assert set(load.outcome.servers) == set(fleet.servers().values())
    log = [json.loads(line) for line in on(fleet.balancer(), "cat", "/var/log/nginx/access.log").splitlines()]
    # Each was asked of one server, and of all of them.
    raised = Counter(line["upstream"] for line in log if line["uri"] == "/raise")
    assert set(raised) == {f"{address_of(machine)}:8000" for machine in fleet.servers().values()}
    server = next(iter(fleet.servers().values()))
    assert "RuntimeError: on purpose" in on(server, "journalctl", "-o", "cat", "-u", f"app@{slot(server)}")


@pytest.mark.parametrize("how", ["a plain restart", pytest.param("no listening socket", marks=pytest.mark.long)])
def test_the_load_does_see_what_is_lost(fleet: Stack, how: str, table: Callable[[LoadOutcome], None]) -> None:
    """Check that lost requests are counted, as the negative control of every test that counts requests."""
    machines = fleet.servers().values()
    # At each moment some that may not be sent twice are with a server, however long this takes on a busy machine.
    with Load(fleet.url, slow_s=(5.0,)) as load:
        for machine in machines:
            if how == "a plain restart":
                # As units restart that do not drain: what is in flight is cut.
                on(machine, "systemctl", "kill", "--signal=SIGKILL", f"app@{slot(machine)}")
            else:
                on(machine, "systemctl", "stop", "app.socket", "app@blue", "app@green")
        load.wait_for(50)
    for machine in machines:
        on(machine, "systemctl", "reset-failed")
        # It points slot blue at the release, as at boot.
        on(machine, "systemctl", "restart", "app-boot")
        on(machine, "systemctl", "start", "app@blue")
    eventually(lambda: len(fleet.responding_servers()) == 3, message="all servers answer again")
    table(load.outcome)
    assert any("POST" in line for line in load.outcome.failed_fresh), load.outcome


@pytest.mark.long
def test_scaling_out_and_in_loses_no_request_on_fresh_connections(
    fleet: Stack, table: Callable[[LoadOutcome], None]
) -> None:
    before = fleet.servers()
    with Load(fleet.url) as load:
        fleet.app["fleet"] = {"servers": 4}
        fleet.up()
        grown = fleet.servers()
        fleet.app["fleet"] = {"servers": 2}
        fleet.up()
        shrunk = fleet.servers()
        load.wait_for(50)
    fleet.app["fleet"] = {"servers": 3}
    fleet.up()
    table(load.outcome)
    assert load.outcome.failed_fresh == [], load.outcome
    assert set(load.outcome.servers) == set(grown.values())
    assert set(grown.values()) > set(before.values()) > set(shrunk.values())
    assert {server for server, _ in fleet.responding_servers()} == set(fleet.servers().values())


@pytest.mark.long
def test_replacing_every_server_loses_no_request_on_fresh_connections(
    fleet: Stack, table: Callable[[LoadOutcome], None]
) -> None:
    before = set(fleet.servers().values())
    with Load(fleet.url) as load:
        fleet.app["fleet"] = {"servers": 3, "size": {"memory_mib": 640}}
        fleet.up()
        load.wait_for(50)
    after = set(fleet.servers().values())
    table(load.outcome)
    assert load.outcome.failed_fresh == [], load.outcome
    assert before.isdisjoint(after)
    assert {server for server, _ in fleet.responding_servers()} == after
    assert set(fleet.machines("app").values()) == after


@pytest.mark.long
def test_a_machine_deleted_by_hand_comes_back(fleet: Stack) -> None:
    role, machine = next(iter(fleet.servers().items()))
    lxc("delete", "--force", machine)
    fleet.up("--refresh")
    back = fleet.servers()
    assert back[role] != machine
    assert {server for server, _ in fleet.responding_servers()} == set(back.values())


@pytest.mark.long
def test_a_machine_stopped_by_hand_is_started_again(fleet: Stack) -> None:
    machine = next(iter(fleet.servers().values()))
    lxc("stop", "--force", machine)
    fleet.up("--refresh")
    assert machine in fleet.servers().values()
    eventually(
        lambda: machine in {server for server, _ in fleet.responding_servers()}, message=f"{machine} answers again"
    )


@pytest.mark.long
@pytest.mark.parametrize("live", ["blue", pytest.param("green", marks=pytest.mark.long)])
def test_every_machine_serves_the_current_release_after_a_restart_whichever_slot_was_live(
    fleet: Stack, live: str
) -> None:
    first = next(iter(fleet.servers().values()))
    for version in (f"{live}-a", f"{live}-b"):
        fleet.release_version(version)
        if slot(first) == live:
            break
    machines = [*fleet.servers().values(), fleet.balancer()]
    assert slot(first) == live
    lxc("restart", "--force", *machines)
    expected = {(machine, version) for machine in machines[:-1]}
    eventually(lambda: fleet.responding_servers() == expected, message=f"{expected} answer")


# A whole `up` starts machines that are stopped.
WITHOUT_STARTING = ("--target", "**::probe-rollout")


@pytest.mark.long
def test_a_server_that_was_away_during_a_release_comes_back_on_the_new_one(fleet: Stack) -> None:
    fleet.release_version("before")
    fleet.app["rollout"] = {"allow_unreachable": 1}
    away = list(fleet.servers().values())[1]
    lxc("stop", "--force", away)
    try:
        fleet.set_version("while-away")
        fleet.up(*WITHOUT_STARTING)
    finally:
        lxc("start", away)
        fleet.app["rollout"] = {}
    expected = {(machine, "while-away") for machine in fleet.servers().values()}
    eventually(lambda: fleet.responding_servers() == expected, message=f"{expected} answer")


@pytest.mark.long
def test_a_release_with_a_server_away_is_refused_before_any_switch_unless_that_is_allowed(fleet: Stack) -> None:
    fleet.release_version("kept")
    roles = fleet.servers()
    role, away = list(roles.items())[2]
    lxc("stop", "--force", away)
    try:
        fleet.set_version("refused")
        with pytest.raises(AssertionError, match=f"{role}, reach: unreachable"):
            fleet.up(*WITHOUT_STARTING)
        assert {version for _, version in fleet.responding_servers()} == {"kept"}
    finally:
        lxc("start", away)
        fleet.release_version("kept")
    expected = {(machine, "kept") for machine in roles.values()}
    eventually(lambda: fleet.responding_servers() == expected, message=f"{expected} answer")


@pytest.mark.long
def test_the_balancer_can_be_replaced(fleet: Stack) -> None:
    before = fleet.balancer()
    fleet.settings["balancer"] = {"size": {"memory_mib": 640}}
    fleet.up()
    assert fleet.balancer() != before
    assert fleet.get()["server"] in fleet.servers().values()


def test_without_members_the_balancer_says_503(fleet: Stack) -> None:
    balancer = fleet.balancer()
    site = desired_site(balancer)
    empty = (fleet.folder / "templates" / "nginx" / "no-site.conf").read_text()
    apply_site(balancer, site_document(empty))
    try:
        with pytest.raises(urllib.error.HTTPError) as error:
            fleet.get()
        error.value.close()
        assert (error.value.code, error.value.headers["Retry-After"]) == (503, "5")
    finally:
        apply_site(balancer, site)
    assert fleet.get()["server"]
