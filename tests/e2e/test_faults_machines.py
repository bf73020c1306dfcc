"""Faults of whole machines and of what is between them, counted as in test_faults.py."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.stack import Stack, eventually, lxc, on
from tests.e2e.steady import Steady
from tests.e2e.test_faults import ask, each_server
from tests.e2e.test_faults import fault as fault  # noqa: PLC0414  fixtures are found by name
from tests.e2e.test_faults import fleet as fleet  # noqa: PLC0414

pytestmark = pytest.mark.long


def test_the_proxy_of_the_balancer_is_restarted(fleet: Stack, fault: Callable[..., None]) -> None:
    """How long nobody is served."""
    with Steady(fleet.url) as load:
        since = load.now_s
        on(fleet.balancer(), "systemctl", "restart", "nginx")
        time.sleep(2)
    fault(load.seen, since, get=80, post=40, quiet_s=1.5, slowest_s=3)


def test_uploads_of_1_mb_beside_quick_requests(fleet: Stack, fault: Callable[..., None]) -> None:
    """Twenty at a time for 20 s: no time-out counts from a request that ended long ago."""
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
    """Two faults at once."""
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
