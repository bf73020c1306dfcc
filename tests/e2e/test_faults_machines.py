"""Faults of whole machines, of what is between them, and of the release store, counted as in test_faults.py."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.stack import Stack, eventually, lxc, on
from tests.e2e.steady import Steady
from tests.e2e.test_drift import assert_told_and_mended, store_of
from tests.e2e.test_faults import address, ask, each_server
from tests.e2e.test_faults import fault as fault  # noqa: PLC0414  fixtures are found by name
from tests.e2e.test_faults import fleet as fleet  # noqa: PLC0414
from tests.e2e.test_health import drop, excluded_addresses, undrop

pytestmark = pytest.mark.long


def test_the_proxy_of_the_balancer_is_restarted(fleet: Stack, fault: Callable[..., None]) -> None:
    """Measure how long no client is served."""
    with Steady(fleet.url) as load:
        since = load.now_s
        on(fleet.balancer(), "systemctl", "restart", "nginx")
        time.sleep(2)
    fault(load.seen, since, get=80, post=40, quiet_s=1.5, slowest_s=3)


def test_uploads_of_1_mb_beside_quick_requests(fleet: Stack, fault: Callable[..., None]) -> None:
    """Upload with 20 clients for 20 s, and check that no time-out counts from a request that ended long ago."""
    end = time.monotonic() + 20

    def upload(_number: int) -> list[int]:
        seen: list[int] = []
        while time.monotonic() < end:
            request = urllib.request.Request(fleet.url, data=b"u" * 1_000_000, method="POST")
            with urllib.request.urlopen(request, timeout=30) as response:
                seen.append(response.status)
        return seen

    with Steady(fleet.url, rate=30) as load, ThreadPoolExecutor(20) as pool:
        since = load.now_s
        statuses = [status for each in pool.map(upload, range(20)) for status in each]
    assert len(statuses) > 100
    assert set(statuses) == {200}
    fault(load.seen, since)


def test_a_server_restarts(fleet: Stack, fault: Callable[..., None]) -> None:
    server = list(fleet.servers().values())[2]
    with Steady(fleet.url, rate=30) as load:
        since = load.now_s
        lxc("restart", "--force", server)
        eventually(
            lambda: server in {ask(fleet, "/", timeout_s=2)[1].split()[0].decode() for _ in range(9)},
            timeout_s=90, message="it serves again",
        )  # fmt: skip
    fault(load.seen, since, get=20, post=20, quiet_s=60, slowest_s=11)


def test_a_worker_crashes_while_another_server_hangs(fleet: Stack, fault: Callable[..., None]) -> None:
    """Cover two faults at once."""
    server = list(fleet.servers().values())[1]
    with Steady(fleet.url, rate=30) as load:
        since = load.now_s
        on(server, "sh", "-c", "pkill -STOP -f [g]ateway_uwsgi.py")
        try:
            for _ in range(10):
                assert ask(fleet, "/abort")[0] in {502, 504}
                time.sleep(1)
        finally:
            on(server, "sh", "-c", "pkill -CONT -f [g]ateway_uwsgi.py")
    fault(load.seen, since, get=20, post=20, quiet_s=20, slowest_s=31)


DAMAGES = {
    "a truncated pointer": ("pointer", b"3f"),
    "no archive": ("releases/*/code.tar.gz", None),
    "a lock that is garbage": ("lock", b"\x00garbage"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_the_store_has(fleet: Stack, fault: Callable[..., None], what: str) -> None:
    pattern, content = DAMAGES[what]
    store = store_of(fleet)
    with Steady(fleet.url, rate=20) as load:
        since = load.now_s
        assert_told_and_mended(fleet, next(store.glob(pattern), store / pattern), content)
    fault(load.seen, since, slowest_s=3)


def test_a_server_dies_while_a_release_is_damaged(fleet: Stack, fault: Callable[..., None]) -> None:
    """Check that both faults are reported, with the same remedy."""
    role, server = next(iter(fleet.servers().items()))
    archive = next(store_of(fleet).glob("releases/*/code.tar.gz"))
    good = archive.read_bytes()
    with Steady(fleet.url, rate=20) as load:
        since = load.now_s
        archive.write_bytes(good[:99])
        lxc("stop", "--force", server)
        report, output = fleet.fleet("doctor").stdout, fleet.up()
        assert f"{role}: unreachable: {server} is stopped; `pulumi up` starts it" in report, report
        for text in (report, output):
            assert f"{archive.relative_to(store_of(fleet))} in the store is damaged" in text, text
            assert "Traceback" not in text
    assert archive.read_bytes() == good
    assert set(fleet.servers().values()) == {ask(fleet, "/")[1].split()[0].decode() for _ in range(30)}
    fault(load.seen, since, get=5, post=10, quiet_s=20)


def test_a_server_loses_30_percent_of_its_packets(fleet: Stack, fault: Callable[..., None]) -> None:
    """Lose packets each way by nft: not every kernel has netem ("Specified qdisc kind is unknown")."""
    there = address(fleet, list(fleet.servers().values())[1])
    # Who was out lately must be healthy for longer.
    on(fleet.balancer(), "systemctl", "restart", "wsgi-fleet-health")
    with Steady(fleet.url, rate=30) as load:
        since = load.now_s
        drop(fleet, there, "numgen random mod 100 < 30")
        try:
            eventually(lambda: there in excluded_addresses(fleet), timeout_s=8, message="it is out")
            assert all(ask(fleet, "/", timeout_s=2)[0] == 200 for _ in range(30))
        finally:
            undrop(fleet)
        eventually(lambda: there not in excluded_addresses(fleet), timeout_s=6, message="it is back")
        time.sleep(1)
    fault(load.seen, since, get=3, post=6, quiet_s=14, slowest_s=12)


def test_a_view_logs_80_000_lines_at_once(fleet: Stack, fault: Callable[..., None]) -> None:
    """Check that the journal has each of the lines."""
    with Steady(fleet.url) as load:
        since = load.now_s
        status, body = ask(fleet, "/log?n=80000")
        time.sleep(1)
    assert status == 200
    command = ("journalctl", "-u", "app@blue", "-u", "app@green", "--output=cat", "--quiet", "--grep=^flood of ")
    expected = [f"flood of 80000: {number}" for number in range(80000)]
    eventually(
        lambda: on(body.split()[0].decode(), *command, check=False).splitlines() == expected,
        timeout_s=30, message="the journal has each line",
    )  # fmt: skip
    fault(load.seen, since, slowest_s=5)


def test_all_machines_restart_at_once(fleet: Stack, fault: Callable[..., None]) -> None:
    with Steady(fleet.url, rate=20) as load:
        since = load.now_s
        each_server(fleet, "systemctl", "reboot")
        on(fleet.balancer(), "systemctl", "reboot", check=False)
        time.sleep(5)
        eventually(lambda: ask(fleet, "/", timeout_s=5)[0] == 200, timeout_s=100, message="it serves again")
        time.sleep(8)
    # Meanwhile nobody can be served.
    fault(load.seen, since, get=2000, post=1000, quiet_s=110, slowest_s=31)
