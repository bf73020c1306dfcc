"""What is closed on machines of this host, to what runs on them and to who has an account here."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from harness.stack import Stack, lxc, on


def host_address(machine: str) -> str:
    """Return the host's own address on the network of a machine."""
    network = json.loads(lxc("query", f"/1.0/instances/{machine}").stdout)["devices"]["eth0"]["network"]
    return json.loads(lxc("query", f"/1.0/networks/{network}").stdout)["config"]["ipv4.address"].partition("/")[0]


def address_of(machine: str) -> str:
    return json.loads(lxc("query", f"/1.0/instances/{machine}").stdout)["devices"]["eth0"]["ipv4.address"]


def test_the_port_of_the_application_is_open_to_the_balancer_and_not_to_this_host(fleet: Stack) -> None:
    server = next(iter(fleet.servers().values()))
    there = (address_of(server), 8000)
    for own in ("", host_address(server), host_address(fleet.balancer())):
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection(there, timeout=2, source_address=(own, 0)).close()
    connect = f"import socket; socket.create_connection({there!r}, timeout=2)"
    on(fleet.balancer(), "python3", "-c", connect)


def test_a_server_sees_the_releases_of_its_own_application_alone(fleet: Stack) -> None:
    store = fleet.folder / ".state" / fleet.name / "store"
    (store / "other").mkdir(exist_ok=True)
    for machine in fleet.servers().values():
        assert on(machine, "ls", "/srv/store") == "probe\n"
        assert "pointer" in on(machine, "ls", "/srv/store/probe")


def test_what_the_project_keeps_is_closed_to_other_users_of_this_host(fleet: Stack) -> None:
    assert Path(fleet.folder, ".state", fleet.name).stat().st_mode & 0o777 == 0o700
