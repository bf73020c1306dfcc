"""Machines on a made-up LXD: what is asked for, and what is left when something fails on the way."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import pytest

from platforms.lxd import arp, label, machine
from platforms.lxd.client import Client, LxdError, Unavailable
from platforms.lxd.machine import Spec
from tests.unit.lxd_daemon import Daemon, Refused, Thing

SPEC = Spec(
    stack="local",
    owner="local-abc123",
    role="hello-1",
    image="wsgi-fleet-1",
    user_data="#cloud-config\n",
    network="wf0",
    isolated=True,
    pool="pool",
    cpus=2,
    memory_mib=512,
    disk_gib=8,
    store="/project/store/hello",
)
STATE = r"PUT /1.0/instances/local-hello-1-\w+/state"


@pytest.fixture
def client(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Return a client of a daemon with an image, a network and a pool. A machine responds as soon as it runs."""
    daemon.things["images/aliases"]["wsgi-fleet-1"] = {"name": "wsgi-fleet-1", "target": "f1"}
    daemon.things["networks"]["wf0"] = {"name": "wf0", "config": {"ipv4.address": "10.7.7.1/24"}}
    daemon.things["storage-pools"]["pool"] = {"name": "pool", "driver": "dir"}

    def answers(address: str) -> bool:
        return address in daemon.addresses()

    monkeypatch.setattr(arp, "is_resolved", answers)
    return Client()


def instance(name: str, *, role: str = "hello-1", confirmed: bool = True, status: str = "Running") -> Thing:
    config = label.labels(SPEC.owner, role) | ({label.CONFIRMED: "true"} if confirmed else {})
    nic = {"type": "nic", "network": "wf0", "ipv4.address": "10.7.7.250"}
    return {"name": name, "status": status, "config": config, "devices": {"eth0": nic}}


def never(address: str) -> bool:
    del address
    return False


def body(spec: Spec, *, sized: bool) -> Thing:
    return machine.body("local-hello-1-1", spec, fingerprint="f1", address="10.7.7.9", sized=sized)


def test_a_machine_has_labels_limits_a_fixed_address_and_the_store_read_only() -> None:
    assert body(SPEC, sized=False) == {
        "name": "local-hello-1-1",
        "type": "container",
        "description": "hello-1 of local-abc123",
        "profiles": [],
        "source": {"type": "image", "fingerprint": "f1"},
        "config": {
            "user.wsgi-fleet.owner": "local-abc123",
            "user.wsgi-fleet.role": "hello-1",
            "cloud-init.user-data": "#cloud-config\n",
            "limits.cpu": "2",
            "limits.memory": "512MiB",
        },
        "devices": {
            "root": {"type": "disk", "path": "/", "pool": "pool"},
            "eth0": {
                "type": "nic",
                "name": "eth0",
                "network": "wf0",
                "ipv4.address": "10.7.7.9",
                "security.port_isolation": "true",
            },
            "store": {"type": "disk", "source": "/project/store/hello", "path": "/srv/store/hello", "readonly": "true"},
        },
    }


def test_a_machine_without_store_and_isolation_has_neither() -> None:
    devices = body(replace(SPEC, store="", isolated=False), sized=False)["devices"]
    assert sorted(devices) == ["eth0", "root"]
    assert "security.port_isolation" not in devices["eth0"]


@pytest.mark.parametrize(("driver", "size"), [("btrfs", "8GiB"), ("zfs", "8GiB"), ("lvm", "8GiB"), ("dir", None)])
def test_a_machine_runs_with_its_address_and_with_a_disk_of_the_size_that_the_pool_can_hold_it_to(
    daemon: Daemon, client: Client, driver: str, size: str | None
) -> None:
    daemon.things["storage-pools"]["pool"]["driver"] = driver
    name, address = machine.create(client, SPEC)
    made = daemon.things["instances"][name]
    assert (made["status"], made["source"]["fingerprint"]) == ("Running", "f1")
    assert (made["devices"]["eth0"]["ipv4.address"], made["devices"]["root"].get("size")) == (address, size)
    assert daemon.calls == ["POST /1.0/instances", f"PUT /1.0/instances/{name}/state"]


def test_only_half_made_machines_of_the_same_owner_and_role_are_removed_before(daemon: Daemon, client: Client) -> None:
    theirs = instance("theirs", confirmed=False)
    theirs["config"][label.OWNER] = "other-abc123"
    there: list[Thing] = [
        instance("half", confirmed=False),
        instance("half-stopped", confirmed=False, status="Stopped"),
        instance("serving"),
        instance("other-role", role="hello-2", confirmed=False),
        theirs,
        {"name": "unlabelled", "status": "Running", "config": None, "devices": {}},
    ]
    daemon.things["instances"] = {each["name"]: each for each in there}
    name, _ = machine.create(client, SPEC)
    assert set(daemon.things["instances"]) == {"serving", "other-role", "theirs", "unlabelled", name}


def test_a_machine_that_does_not_start_is_removed_and_the_reason_told(daemon: Daemon, client: Client) -> None:
    daemon.refuse(STATE, 400, "no such cgroup")
    with pytest.raises(LxdError, match="no such cgroup"):
        machine.create(client, SPEC)
    assert daemon.things["instances"] == {}


@pytest.mark.parametrize(
    ("console", "message"),
    [
        ("".join(f"line {number}\n" for number in range(20)),
         r"^machine a stopped while it booted \(Stopped\); its console:\nline 5\n(line \d+\n){13}line 19$"),
        ("Failed to create control group inotify object: Too many open files\nExiting PID 1...\n",
         r"^machine a did not boot: the inotify instances .* Run `make setup`, which raises"),
    ],
)  # fmt: skip
def test_a_machine_that_stops_while_it_boots_is_told_with_the_end_of_its_console_or_the_remedy(
    daemon: Daemon, client: Client, monkeypatch: pytest.MonkeyPatch, console: str, message: str
) -> None:
    monkeypatch.setattr(machine, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(arp, "is_resolved", never)
    daemon.things["instances"]["a"] = instance("a", status="Stopped")
    daemon.consoles["a"] = console

    def stops(_body: Any) -> None:
        daemon.things["instances"]["a"]["status"] = "Stopped"

    daemon.before("GET /1.0/instances/a", lambda _body: None, stops)
    with pytest.raises(LxdError, match=message):
        machine.start(client, "a")


def test_a_machine_without_an_address_is_told_with_what_is_known_of_its_network(
    daemon: Daemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ADDRESS_TIMEOUT_S", 0.0)
    monkeypatch.setattr(arp, "is_resolved", never)
    daemon.things["instances"]["a"] = instance("a")
    with pytest.raises(LxdError, match=r"network wf0 is up with leases for a\.(?s:.*)\(no console log\)$"):
        machine.start(client, "a")


def test_a_machine_that_runs_is_not_started_again(daemon: Daemon, client: Client) -> None:
    daemon.things["instances"]["a"] = instance("a")
    machine.start(client, "a")
    assert daemon.calls == []


def test_an_address_that_was_taken_meanwhile_is_left_to_who_took_it(daemon: Daemon, client: Client) -> None:
    taken: list[str] = []

    def somebody_else(content: Thing) -> None:
        taken.append(content["devices"]["eth0"]["ipv4.address"])
        other = instance(f"other-{len(taken)}")
        other["devices"]["eth0"]["ipv4.address"] = taken[-1]
        daemon.things["instances"][other["name"]] = other

    daemon.before("POST /1.0/instances", somebody_else, somebody_else)
    _, address = machine.create(client, SPEC)
    assert len({*taken, address}) == 3


def test_machines_made_side_by_side_get_addresses_of_their_own_before_lxd_shows_them(
    daemon: Daemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.raw["/1.0/networks/wf0/leases"] = b'{"type": "sync", "metadata": []}'

    def lowest(free: list[str]) -> str:
        return free[0]

    monkeypatch.setattr(secrets, "choice", lowest)
    addresses = [machine.create(client, replace(SPEC, role=f"hello-{number}"))[1] for number in (1, 2, 3)]
    assert len(set(addresses)) == 3


def test_five_taken_addresses_in_a_row_are_an_error(daemon: Daemon, client: Client) -> None:
    daemon.refuse("POST /1.0/instances", 400, 'IP address "10.7.7.9" already defined on another NIC', times=9)
    with pytest.raises(LxdError, match="five addresses of wf0 in a row were taken by others"):
        machine.create(client, SPEC)
    assert daemon.calls == ["POST /1.0/instances"] * 5


def test_an_image_that_is_gone_is_told_with_what_makes_it(daemon: Daemon, client: Client) -> None:
    del daemon.things["images/aliases"]["wsgi-fleet-1"]
    with pytest.raises(LxdError, match="image wsgi-fleet-1 of hello-1 is missing in LXD; `pulumi up`"):
        machine.create(client, SPEC)


def test_a_free_address_is_neither_an_end_of_the_subnet_nor_its_gateway_nor_used() -> None:
    assert machine.free_address("10.7.7.1/29", {"10.7.7.2", "10.7.7.3", "10.7.7.4", "10.7.7.5"}) == "10.7.7.6"
    with pytest.raises(LxdError, match=r"no address is free in 10.7.7.1/30"):
        machine.free_address("10.7.7.1/30", {"10.7.7.2"})


def test_a_machine_that_somebody_else_stops_or_deletes_meanwhile_is_removed_all_the_same(
    daemon: Daemon, client: Client
) -> None:
    daemon.things["instances"] = {name: instance(name) for name in ("stopped", "deleted")}

    def stops(_body: Any) -> None:
        daemon.things["instances"]["stopped"]["status"] = "Stopped"
        raise Refused(400, "The instance is already stopped")

    daemon.before("PUT /1.0/instances/stopped/state", stops)
    daemon.before("PUT /1.0/instances/deleted/state", lambda _body: daemon.things["instances"].pop("deleted"))
    for name in ("stopped", "deleted"):
        machine.remove(client, name)
    assert daemon.things["instances"] == {}


def test_a_machine_under_another_operation_is_removed_when_that_ends(daemon: Daemon, client: Client) -> None:
    daemon.things["instances"]["a"] = instance("a")
    daemon.refuse("DELETE /1.0/instances/a", 400, "Instance is busy", times=2)
    machine.remove(client, "a")
    assert daemon.things["instances"] == {}


def test_a_daemon_that_dies_while_a_machine_is_removed_is_no_removed_machine(
    daemon: Daemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_args: Any) -> None:
        raise Unavailable("LXD does not respond")

    daemon.things["instances"]["a"] = instance("a")
    monkeypatch.setattr(machine, "status", dies)
    with pytest.raises(Unavailable):
        machine.remove(client, "a")
    assert list(daemon.things["instances"]) == ["a"]
