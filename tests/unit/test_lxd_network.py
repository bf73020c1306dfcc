"""Security groups on a made-up LXD, and the ports of the host that lead into a fleet."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from typing import Any

import pytest

from platforms.lxd import address, label, network, subnet
from platforms.lxd.client import Client, LxdError
from platforms.lxd.network import Rule
from tests.unit.lxd_daemon import Daemon, Thing

OWNER, ROLE = "local-abc123", "app-hello"
NAME = label.network_name(OWNER, ROLE)
LABELS = {"user.wsgi-fleet.owner": OWNER, "user.wsgi-fleet.role": ROLE}
FROM_BALANCER = {
    "action": "allow",
    "state": "enabled",
    "protocol": "tcp",
    "destination_port": "8000",
    "source": "10.1.1.2-10.1.1.254",
}
RULES = [Rule(8000, "10.1.1.2-10.1.1.254")]


@pytest.fixture
def client(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Return a client on a host with one route and a small MTU, where LXD has one network already."""
    daemon.things["networks"] |= {
        "lxdbr0": {"name": "lxdbr0", "config": {"ipv4.address": "10.5.5.1/24"}},
        "eth0": {"name": "eth0", "config": {}},
        "off": {"name": "off", "config": {"ipv4.address": "none"}},
    }

    def free(taken: Iterable[IPv4Network]) -> IPv4Network:
        assert list(taken) == [IPv4Network("10.5.5.0/24"), IPv4Network("192.168.0.0/16")]
        return IPv4Network("10.7.7.0/24")

    def in_use() -> Iterator[IPv4Network]:
        yield IPv4Network("192.168.0.0/16")

    def uplink_mtu() -> int:
        return 1400

    for stand_in in (free, in_use, uplink_mtu):
        monkeypatch.setattr(subnet, stand_in.__name__, stand_in)
    return Client()


def test_a_group_is_a_bridge_that_refuses_all_but_its_rules(daemon: Daemon, client: Client) -> None:
    assert network.ensure(client, OWNER, ROLE, RULES) == (NAME, "10.7.7.2-10.7.7.254")
    assert daemon.things["network-acls"][NAME] == {
        "name": NAME,
        "description": "who may enter local-abc123 app-hello",
        "config": LABELS,
        "ingress": [FROM_BALANCER],
        "egress": [],
    }
    assert daemon.things["networks"][NAME] == {
        "name": NAME,
        "type": "bridge",
        "description": "local-abc123 app-hello",
        "config": {
            **LABELS,
            "ipv4.address": "10.7.7.1/24",
            "ipv4.nat": "true",
            "ipv6.address": "none",
            "bridge.mtu": "1400",
            "security.acls": NAME,
            "security.acls.default.ingress.action": "reject",
            "security.acls.default.egress.action": "allow",
        },
    }
    # The network names the ACL, which must be there before.
    assert daemon.calls == ["POST /1.0/network-acls", "POST /1.0/networks"]


def test_a_rule_for_everyone_names_no_source() -> None:
    (rule,) = network.acl_rules([Rule(80)])
    assert rule == {"action": "allow", "state": "enabled", "protocol": "tcp", "destination_port": "80"}


def test_a_group_that_is_there_is_left_alone_whatever_the_order_of_its_rules(daemon: Daemon, client: Client) -> None:
    rules = [Rule(80), Rule(443), Rule(80, "10.1.1.2-10.1.1.254")]
    made = network.ensure(client, OWNER, ROLE, rules)
    daemon.calls.clear()
    assert network.ensure(client, OWNER, ROLE, rules[::-1]) == made
    assert daemon.calls == []


def test_a_half_made_group_is_completed(daemon: Daemon, client: Client) -> None:
    daemon.refuse("POST /1.0/networks", 500, "killed")
    with pytest.raises(LxdError, match="killed"):
        network.ensure(client, OWNER, ROLE, RULES)
    assert network.addresses(client, NAME, OWNER) is None
    assert network.ensure(client, OWNER, ROLE, RULES) == (NAME, "10.7.7.2-10.7.7.254")
    assert daemon.calls == ["POST /1.0/network-acls", "POST /1.0/networks", "POST /1.0/networks"]


def test_rules_are_changed_in_place_and_read_back(daemon: Daemon, client: Client) -> None:
    network.ensure(client, OWNER, ROLE, RULES)
    daemon.calls.clear()
    network.ensure(client, OWNER, ROLE, [Rule(9000), *RULES])
    assert daemon.calls == [f"PUT /1.0/network-acls/{NAME}"]
    assert network.rules(client, NAME) == [Rule(8000, "10.1.1.2-10.1.1.254"), Rule(9000)]


def test_a_rule_that_somebody_switched_off_is_not_in_force(daemon: Daemon, client: Client) -> None:
    network.ensure(client, OWNER, ROLE, RULES)
    daemon.things["network-acls"][NAME]["ingress"][0]["state"] = "disabled"
    assert network.rules(client, NAME) == []


@pytest.mark.parametrize("kind", ["networks", "network-acls"])
def test_what_is_not_labelled_as_the_owners_is_refused_and_left(daemon: Daemon, client: Client, kind: str) -> None:
    theirs: Thing = {"name": NAME, "config": {"user.wsgi-fleet.owner": "local-other"}}
    daemon.things[kind][NAME] = theirs
    told = f"LXD: {kind} {NAME} exists and is not labelled user.wsgi-fleet.owner={OWNER}; rename or remove it"
    for act in (lambda: network.ensure(client, OWNER, ROLE, []), lambda: network.remove(client, NAME, OWNER)):
        with pytest.raises(LxdError, match=told):
            act()
    assert daemon.things[kind][NAME] is theirs


def test_no_subnet_to_choose_is_an_error_with_a_remedy(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(taken: Iterable[IPv4Network]) -> IPv4Network:
        raise LookupError("all taken" if taken else "")

    monkeypatch.setattr(subnet, "free", free)
    with pytest.raises(LxdError, match="no subnet for a new network: all taken; remove networks that nothing uses"):
        network.ensure(client, OWNER, ROLE, RULES)


def test_a_group_is_removed_with_what_a_killed_run_left_in_it_and_again(daemon: Daemon, client: Client) -> None:
    network.ensure(client, OWNER, ROLE, RULES)
    before = set(daemon.things["networks"]) - {NAME}
    daemon.things["instances"] = {
        "left": instance("left", network=NAME),
        "elsewhere": instance("elsewhere", network="lxdbr0"),
    }
    for _ in range(2):
        network.remove(client, NAME, OWNER)
    assert set(daemon.things["networks"]) == before
    assert daemon.things["network-acls"] == {}
    assert list(daemon.things["instances"]) == ["elsewhere"]


def instance(name: str, *, owner: str = OWNER, network: str = "wf0", **devices: Thing) -> Thing:
    nic = {"type": "nic", "network": network, "ipv4.address": "10.7.7.9"}
    return {"name": name, "status": "Running", "config": label.labels(owner, name), "devices": {"eth0": nic, **devices}}


def proxy(port: int, to: int = 80) -> dict[str, str]:
    return {"type": "proxy", "listen": f"tcp:127.0.0.1:{port}", "connect": f"tcp:127.0.0.1:{to}", "bind": "host"}


@pytest.fixture
def port() -> Iterator[int]:
    """Yield a port that a program of the host listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def devices(daemon: Daemon) -> dict[str, Any]:
    return {name: each["devices"].get("public") for name, each in daemon.things["instances"].items()}


def test_the_port_leads_to_the_new_balancer_and_no_longer_to_the_old(daemon: Daemon, client: Client, port: int) -> None:
    daemon.things["instances"] = {
        "old": instance("old", public=proxy(port)),
        "new": instance("new"),
        "other": instance("other", owner="prod-abc123", public=proxy(9)),
    }
    address.publish(client, OWNER, "new", port)
    assert devices(daemon) == {"old": None, "new": proxy(port), "other": proxy(9)}
    assert daemon.things["instances"]["new"]["devices"]["eth0"]["network"] == "wf0"
    assert daemon.calls == ["PUT /1.0/instances/old", "PATCH /1.0/instances/new"]
    assert address.is_published(client, "new", port)
    assert not address.is_published(client, "old", port)
    assert not address.is_published(client, "gone", port)


def test_publishing_what_is_published_changes_nothing(daemon: Daemon, client: Client, port: int) -> None:
    daemon.things["instances"]["a"] = instance("a", public=proxy(port))
    assert address.publish(client, OWNER, "a", port) == 0
    assert daemon.calls == []


def published(daemon: Daemon, name: str) -> dict[str, Any]:
    return {key: each for key, each in daemon.things["instances"][name]["devices"].items() if key != "eth0"}


def test_https_gets_a_port_of_its_own_and_the_open_one_stays_open(daemon: Daemon, client: Client, port: int) -> None:
    daemon.things["instances"]["a"] = instance("a", public=proxy(port))
    assert address.publish(client, OWNER, "a", port, 9443) == 0
    assert published(daemon, "a") == {"public": proxy(port), "public-tls": proxy(9443, 443)}
    assert daemon.calls == ["PATCH /1.0/instances/a"]
    assert address.is_published(client, "a", port, 9443)
    assert not address.is_published(client, "a", port)
    daemon.calls.clear()
    assert address.publish(client, OWNER, "a", port, 9443) == 0
    assert daemon.calls == []


def test_without_https_its_port_is_closed_and_the_other_stays_open(daemon: Daemon, client: Client, port: int) -> None:
    both: dict[str, Any] = {"public": proxy(port), "public-tls": proxy(9443, 443)}
    daemon.things["instances"]["a"] = instance("a", **both)
    assert address.publish(client, OWNER, "a", port) == 0
    assert published(daemon, "a") == {"public": proxy(port)}


def test_both_ports_lead_to_the_new_balancer_and_none_to_the_old(daemon: Daemon, client: Client, port: int) -> None:
    both: dict[str, Any] = {"public": proxy(port), "public-tls": proxy(9443, 443)}
    daemon.things["instances"] = {"old": instance("old", **both), "new": instance("new")}
    address.publish(client, OWNER, "new", port, 9443)
    assert (published(daemon, "old"), published(daemon, "new")) == ({}, both)
    assert address.unpublish(client, "new")
    assert published(daemon, "new") == {}


def test_a_taken_port_of_https_is_told_with_its_own_setting(daemon: Daemon, client: Client, port: int) -> None:
    daemon.things["instances"]["a"] = instance("a")
    daemon.refuse("PATCH .*", 400, "Failed to listen on 127.0.0.1:9443: bind: address already in use")
    with pytest.raises(LxdError, match=r"port 9443 of .*wsgi-fleet:lxd.tls_port PORT"):
        address.publish(client, OWNER, "a", port, 9443)
    told = address.conflict(client, OWNER, port, address.TLS_DEVICE)
    assert told is not None
    assert "wsgi-fleet:lxd.tls_port PORT" in told


def test_only_a_port_that_was_open_has_a_gap(daemon: Daemon, client: Client) -> None:
    closed = 9

    def takes_a_while(_body: Any) -> None:
        time.sleep(0.01)

    daemon.things["instances"] = {name: instance(name) for name in ("a", "b")}
    daemon.before("PATCH .*", takes_a_while, takes_a_while)
    assert address.publish(client, OWNER, "a", closed) == 0
    assert address.publish(client, OWNER, "b", closed) >= 10


def test_a_taken_port_is_told_with_who_has_it_and_what_to_do(daemon: Daemon, client: Client, port: int) -> None:
    daemon.things["instances"]["a"] = instance("a")
    daemon.refuse("PATCH .*", 400, f"Failed to listen on 127.0.0.1:{port}: bind: address already in use")
    with pytest.raises(LxdError) as error:
        address.publish(client, OWNER, "a", port)
    assert str(error.value) == (
        f"port {port} of 127.0.0.1 is taken by another program (`ss -tanp 'sport = :{port}'` names it); "
        "end that, or choose another port: `pulumi config set --path wsgi-fleet:lxd.port PORT`"
    )


def test_a_port_is_in_the_way_of_all_but_its_holder(daemon: Daemon, client: Client, port: int) -> None:
    assert address.conflict(client, OWNER, port) == address.port_conflict(port)
    daemon.things["instances"]["a"] = instance("a", public=proxy(port))
    assert address.conflict(client, OWNER, port) is None


def test_a_port_that_nobody_has_is_no_obstacle(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
    assert address.conflict(client, OWNER, free) is None


def test_a_port_is_withdrawn_once(daemon: Daemon, client: Client) -> None:
    daemon.things["instances"]["a"] = instance("a", public=proxy(9))
    assert [address.unpublish(client, "a") for _ in range(2)] == [True, False]
    assert address.unpublish(client, "gone") is False
    assert devices(daemon) == {"a": None}
