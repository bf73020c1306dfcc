"""Faults of the balancer's machine and of the host's LXD daemon, counted as in test_faults.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from harness.stack import ROOT, Stack, eventually, lxc, on
from tests.e2e.steady import Steady
from tests.e2e.test_faults import ask, unit
from tests.e2e.test_faults import fault as fault  # noqa: PLC0414  fixtures are found by name
from tests.e2e.test_faults import fleet as fleet  # noqa: PLC0414

pytestmark = pytest.mark.long


def test_the_machine_of_the_balancer_restarts(fleet: Stack, fault: Callable[..., None]) -> None:
    """Check that clients are served as soon as the balancer's proxy runs and its network is there."""
    with Steady(fleet.url, rate=40) as load:
        since = load.now_s
        lxc("restart", "--force", fleet.balancer())
        time.sleep(4)
        eventually(lambda: ask(fleet, "/", timeout_s=2)[0] == 200, timeout_s=60, message="it serves again")
        time.sleep(2)
    fault(load.seen, since, get=200, post=100, quiet_s=4, slowest_s=6)


@pytest.fixture
def _full(fleet: Stack) -> Generator[None]:
    """Fill the disk of the balancer; free it afterwards."""
    on(fleet.balancer(), "sh", "-c", "dd if=/dev/zero of=/var/filler bs=1M count=99999", check=False)
    yield
    on(fleet.balancer(), "rm", "-f", "/var/filler")


@pytest.mark.usefixtures("_full")
def test_the_disk_of_the_balancer_is_full(fleet: Stack, fault: Callable[..., None]) -> None:
    """Check that what needs no disk is served, a response that does not fit is cut, and doctor says why."""
    with Steady(fleet.url, rate=30) as load:
        since = load.now_s
        larges = [ask(fleet, "/large?n=80") for _ in range(9)]
        time.sleep(1)
        finding = fleet.fleet("doctor").stdout
    for status, body in larges:
        assert (status, len(body)) in {(200, 80 * 65536), (0, 0), (502, len(body)), (500, len(body))}
    assert "disk" in finding, finding
    fault(load.seen, since, slowest_s=3)


def restart_lxd() -> None:
    """Kill LXD's daemon, and start it as the host does."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "kill", "--signal=KILL", "lxd.service"], check=True)
        return
    # Not by its name: processes that forward ports for it are called so, too, and outlive it.
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(Path(os.environ.get("LXD_DIR", "/var/lib/lxd")) / "unix.socket"))
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    subprocess.run([ROOT / "tools" / "lxd-up"], check=True, timeout=60)


def test_the_daemon_of_lxd_is_killed_and_started_again(fleet: Stack, fault: Callable[..., None]) -> None:
    """Check that machines go on without the daemon, and so do commands once it is back."""
    with Steady(fleet.url, rate=20) as load:
        since = load.now_s
        restart_lxd()
        eventually(lambda: lxc("query", "/1.0", check=False).returncode == 0, timeout_s=60, message="LXD answers")
        assert "Traceback" not in fleet.up()
        assert json.loads(fleet.fleet("status", "--json").stdout)
    # LXD sets the firewall of its networks up anew. A connection that is in use right then may get no more packets.
    fault(load.seen, since, get=4, post=4, quiet_s=15, slowest_s=12)


def test_the_balancer_restarts_while_a_server_is_dead(fleet: Stack, fault: Callable[..., None]) -> None:
    """Cover two faults at once: when the balancer is back, it knows nothing of the servers."""
    server = list(fleet.servers().values())[1]
    with Steady(fleet.url, rate=20) as load:
        since = load.now_s
        lxc("stop", "--force", server)
        try:
            lxc("restart", "--force", fleet.balancer())
            eventually(lambda: ask(fleet, "/", timeout_s=3)[0] == 200, timeout_s=60, message="it serves again")
            time.sleep(6)
            assert all(ask(fleet, "/", timeout_s=3)[0] == 200 for _ in range(30))
        finally:
            lxc("start", server)
        eventually(
            lambda: server in {ask(fleet, "/", timeout_s=2)[1].split()[0].decode() for _ in range(9)},
            timeout_s=60, message="it is asked again",
        )  # fmt: skip
    fault(load.seen, since, get=200, post=100, quiet_s=20, slowest_s=12)


SITES = {"nginx": "/etc/nginx/wsgi-fleet/site.conf", "apache2": "/etc/apache2/wsgi-fleet/site.conf"}


def test_the_proxy_is_killed_while_its_configuration_is_damaged(fleet: Stack, fault: Callable[..., None]) -> None:
    """Cover two faults at once: doctor names the balancer, and a whole site serves again."""
    balancer, name = fleet.balancer(), unit(fleet)
    file = SITES[name]
    on(balancer, "cp", "-a", file, f"{file}.kept")
    with Steady(fleet.url, rate=20) as load:
        since = load.now_s
        on(balancer, "sh", "-c", f"echo garbage >> {file}; kill -9 $(systemctl show -P MainPID {name})")
        time.sleep(2)
        assert ask(fleet, "/", timeout_s=2)[0] == 0
        output = fleet.fleet("doctor").stdout
        assert "balancer" in output
        on(balancer, "mv", f"{file}.kept", file)
        eventually(lambda: ask(fleet, "/", timeout_s=2)[0] == 200, timeout_s=30, message="it serves again")
        time.sleep(1)
    fault(load.seen, since, get=900, post=400, quiet_s=40, slowest_s=10)
