"""The balancer takes servers out that do not respond, and sends them requests again once they do."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.load import Load
from harness.stack import Stack, eventually, lxc, on

# They look into the balancer's files and network from outside.
pytestmark = [pytest.mark.long, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
IN_TIME_S = 5.0
# What a loop of questions adds to what it measures.
SLACK_S = 0.7
# A second Apache tries the site out first.
APACHES_S = 2.0
CLIENTS = 4
# How often a server is taken out and back where that is counted.
CHANGES = 10
SLOTS = "for slot in blue green; do systemctl kill --signal={} app@$slot; done"
STATE = "/etc/wsgi-fleet/site.json"


@dataclass
class Clients:
    """`with Clients(url) as clients:` asks without a pause; each request may take 4 s. slow_s: of the application."""

    url: str
    slow_s: float = 0.0
    number: int = CLIENTS
    # (when it was begun, seconds, who answered or what went wrong)
    done: list[tuple[float, float, str]] = field(default_factory=list[tuple[float, float, str]])
    stopped: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def __enter__(self) -> Clients:
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.number)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def _ask(self) -> None:
        while not self.stopped.is_set():
            start_s = time.monotonic()
            try:
                with urllib.request.urlopen(f"{self.url}/?s={self.slow_s}", timeout=4) as response:
                    who = json.loads(response.read())["server"]
            except (OSError, ValueError) as error:
                who = f"error: {error}"
            self.done.append((start_s, time.monotonic() - start_s, who))
            time.sleep(0.01)

    def since(self, moment: float) -> list[tuple[float, float, str]]:
        return [each for each in self.done if each[0] >= moment]


@pytest.fixture(scope="module")
def pair(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create two servers."""
    stack = make_module_stack("pair", fleet={"servers": 2})
    stack.up()
    return stack


@pytest.fixture
def well(pair: Stack) -> Generator[Stack]:
    """Return the pair with no server out, and with no memory of former servers."""
    # What it remembers of servers that came and went would make the next test wait for longer.
    on(pair.balancer(), "systemctl", "restart", "wsgi-fleet-health")
    eventually(lambda: out(pair) == [], timeout_s=20, message="all take requests")
    yield pair
    eventually(lambda: out(pair) == [], timeout_s=90, message="all take requests again")


def out(stack: Stack) -> list[str]:
    """Return the names of the servers that get no requests because of their health."""
    name = {address(machine): machine for machine in stack.servers().values()}
    return sorted(name[each] for each in excluded_addresses(stack) if each in name)


def excluded_addresses(stack: Stack) -> list[str]:
    """Return the addresses that are out. Read them from outside: LXD takes a second for that on a busy host."""
    file = Path(f"/proc/{first_process(stack)}/root{STATE}")
    return sorted(json.loads(file.read_text())["unhealthy"])


def first_process(stack: Stack) -> int:
    """Return the process id of the balancer's first process, as the host sees it."""
    # Names come again in another module, folders do not.
    if stack.folder not in _processes:
        _processes[stack.folder] = json.loads(lxc("query", f"/1.0/instances/{stack.balancer()}/state").stdout)["pid"]
    return _processes[stack.folder]


_addresses: dict[str, str] = {}
_processes: dict[Path, int] = {}


def address(machine: str) -> str:
    if machine not in _addresses:
        state = json.loads(lxc("query", f"/1.0/instances/{machine}/state").stdout)
        (found,) = [each["address"] for each in state["network"]["eth0"]["addresses"] if each["family"] == "inet"]
        _addresses[machine] = found
    return _addresses[machine]


def wait_until(stack: Stack, expected: list[str], timeout_s: float = 30) -> float:
    """Return the seconds until these servers, and no others, get no requests."""
    balancer, required = stack.balancer(), sorted(address(machine) for machine in expected)
    start_s = time.monotonic()
    while excluded_addresses(stack) != required:
        assert time.monotonic() - start_s < timeout_s, on(balancer, "journalctl", "-u", "wsgi-fleet-health", "-n", "20")
        time.sleep(0.05)
    return time.monotonic() - start_s


def signal_gateway(machine: str, name: str) -> None:
    on(machine, "sh", "-c", SLOTS.format(name), check=False)


def test_a_server_that_hangs_is_out_in_time_and_back_in_time(well: Stack) -> None:
    hung, other = well.servers().values()
    with Clients(well.url) as clients:
        time.sleep(1)
        signal_gateway(hung, "STOP")
        try:
            left_s = wait_until(well, [hung])
            gone = time.monotonic()
            time.sleep(3)
            status = json.loads(well.fleet("status", "--json").stdout)
        finally:
            woken = time.monotonic()
            signal_gateway(hung, "CONT")
        back_s = wait_until(well, [])
        back = time.monotonic()
        time.sleep(2)
    assert left_s < IN_TIME_S + SLACK_S
    assert back_s < IN_TIME_S + SLACK_S
    asked = [each for each in clients.since(gone + 0.5) if each[0] < woken]
    assert len(asked) > 50
    assert {who for _, _, who in asked} == {other}
    assert max(seconds for _, seconds, _ in asked) < 2
    assert {who for _, _, who in clients.since(back)} == {hung, other}
    states = {each["name"]: (each["state"], each["cause"]) for each in status["servers"]}
    state, cause = states[next(name for name, machine in well.servers().items() if machine == hung)]
    assert (state, "GET / was not 200 for 3.5 s" in cause) == ("unhealthy", True), states


def test_where_all_servers_hang_all_are_asked(well: Stack) -> None:
    servers = list(well.servers().values())
    for machine in servers:
        signal_gateway(machine, "STOP")
    time.sleep(9)
    try:
        assert out(well) == []
        facts = json.loads(on(well.balancer(), "/usr/local/lib/wsgi-fleet/balancer_status.py"))
        assert [each["healthy"] for each in facts["health"]["servers"].values()] == [False, False]
    finally:
        for machine in servers:
            signal_gateway(machine, "CONT")
    eventually(lambda: len(well.responding_servers(20)) == 2, timeout_s=15, message="both answer")


@pytest.mark.parametrize("how", ["paused", "stopped", "cut off", "lossy"])
@pytest.mark.long
def test_a_server_that_is_dead_frozen_or_badly_reached_is_out_in_time(well: Stack, how: str) -> None:
    ill, other = well.servers().values()
    there = address(ill)
    begin = {
        "paused": lambda: lxc("pause", ill),
        "stopped": lambda: lxc("stop", "--force", ill),
        "cut off": lambda: drop(well, there, ""),
        "lossy": lambda: drop(well, there, "numgen random mod 100 < 30"),
    }[how]
    end = {"paused": lambda: lxc("start", ill), "stopped": lambda: lxc("start", ill)}.get(how, lambda: undrop(well))
    with Clients(well.url) as clients:
        time.sleep(1)
        start_s = time.monotonic()
        begin()
        try:
            left_s = wait_until(well, [ill])
            gone = time.monotonic()
            time.sleep(2)
            words = on(well.balancer(), "cat", "/run/wsgi-fleet/health.json")
        finally:
            end()
        began_again = time.monotonic()
        if how == "stopped":
            eventually(lambda: '"active"' in on(ill, "/usr/local/lib/wsgi-fleet/app_status.py"), message="it runs")
            began_again = time.monotonic()
        wait_until(well, [], timeout_s=60)
        back_s = time.monotonic() - began_again
    print(f"{how}: out after {left_s:.1f} s of {gone - start_s:.1f} s, back after {back_s:.1f} s")
    assert left_s < {"lossy": 12.0}.get(how, IN_TIME_S + SLACK_S)
    assert ("packets are lost" in words) == (how == "lossy"), words
    assert {who for at, _, who in clients.since(gone + 0.5) if at < began_again} == {other}
    assert back_s < (10 if how in ("stopped", "lossy") else IN_TIME_S + SLACK_S)


def drop(stack: Stack, there: str, which: str) -> None:
    """Have the balancer lose packets to and from an address. which: an expression of nft, "" for all."""
    rules = "".join(
        f"add chain ip test {name} {{ type filter hook {name} priority 0; }}\n"
        f"add rule ip test {name} ip {way} {there} {which} drop\n"
        for name, way in (("input", "saddr"), ("output", "daddr"))
    )
    nft(stack, "-f", "-", stdin=f"add table ip test\n{rules}")


def undrop(stack: Stack) -> None:
    nft(stack, "delete", "table", "ip", "test")


def nft(stack: Stack, *arguments: str, stdin: str = "") -> None:
    """Run the host's own nft in the balancer's network."""
    command = ["nsenter", f"--target={first_process(stack)}", "--net", "nft", *arguments]
    subprocess.run(command, check=True, input=stdin, text=True, timeout=30)


@pytest.mark.long
def test_busy_servers_are_no_ill_ones(well: Stack) -> None:
    # Each of the two has two processes of eight threads; three times as many clients wait for one another.
    with Clients(well.url, slow_s=0.5, number=96):
        for _ in range(30):
            assert out(well) == []
            time.sleep(0.5)


@pytest.mark.long
def test_an_agent_that_is_killed_comes_back_and_goes_on_from_there(well: Stack) -> None:
    hung, _ = well.servers().values()
    signal_gateway(hung, "STOP")
    try:
        wait_until(well, [hung])
        on(well.balancer(), "systemctl", "kill", "--signal=KILL", "wsgi-fleet-health")
        for _ in range(20):
            assert out(well) == [hung]
            time.sleep(0.3)
        assert on(well.balancer(), "systemctl", "is-active", "wsgi-fleet-health").strip() == "active"
    finally:
        signal_gateway(hung, "CONT")
    assert wait_until(well, []) < IN_TIME_S + SLACK_S


@pytest.mark.long
def test_a_server_that_was_drained_stays_so_whatever_its_health(well: Stack) -> None:
    (name, drained), (_, other) = well.servers().items()
    assert well.fleet("drain", name).returncode == 0
    try:
        for signal in ("STOP", "CONT"):
            signal_gateway(drained, signal)
            time.sleep(6)
            assert {server for server, _ in well.responding_servers(20)} == {other}
        # The one that is left is asked however it is.
        signal_gateway(other, "STOP")
        time.sleep(6)
        assert out(well) == []
    finally:
        signal_gateway(drained, "CONT")
        signal_gateway(other, "CONT")
        assert well.fleet("admit", name).returncode == 0
    eventually(lambda: len(well.responding_servers(20)) == 2, timeout_s=15, message="both answer")


@pytest.mark.long
def test_taking_a_server_out_and_back_loses_nothing_on_fresh_connections(well: Stack) -> None:
    one, _ = well.servers().values()
    balancer, site = well.balancer(), "/usr/local/lib/wsgi-fleet/proxy_site.py"
    # It would change the site back.
    on(balancer, "systemctl", "stop", "wsgi-fleet-health")
    try:
        with Load(well.url, slow_s=(0.2, 0.5)) as load:
            for _ in range(CHANGES):
                for unhealthy in ([address(one)], []):
                    on(balancer, site, "unhealthy", *unhealthy)
                    load.wait_for(60)
    finally:
        on(balancer, "systemctl", "start", "wsgi-fleet-health")
    outcome = load.outcome
    print(f"{2 * CHANGES} reloads: {outcome}")
    assert outcome.failed_fresh == [], outcome
    # Nginx 1.22 closes idle connections when it reloads, and a request may cross that.
    assert len(outcome.failed_kept) <= 2 * CHANGES, outcome


@pytest.mark.long
def test_apache_sends_no_requests_to_a_server_that_hangs(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack("httpd", fleet={"servers": 2})
    stack.proxy = "apache"
    stack.up()
    hung, other = stack.servers().values()
    signal_gateway(hung, "STOP")
    try:
        assert wait_until(stack, [hung]) < IN_TIME_S + SLACK_S + APACHES_S
        assert {server for server, _ in stack.responding_servers(20)} == {other}
    finally:
        signal_gateway(hung, "CONT")
    assert wait_until(stack, []) < IN_TIME_S + SLACK_S + APACHES_S
    assert len(stack.responding_servers(20)) == 2
    stack.destroy()
