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
from platforms.lxd.network import AclRule
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
RULES = [AclRule(8000, "10.1.1.2-10.1.1.254")]


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

    monkeypatch.setattr(subnet, "free", free)
    monkeypatch.setattr(subnet, "in_use", lambda: [IPv4Network("192.168.0.0/16")])
    monkeypatch.setattr(subnet, "uplink_mtu", lambda: 1400)
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


def test_a_group_that_is_there_is_left_alone_whatever_the_order_of_its_rules(daemon: Daemon, client: Client) -> None:
    rules = [AclRule(80), AclRule(443), AclRule(80, "10.1.1.2-10.1.1.254")]
    made = network.ensure(client, OWNER, ROLE, rules)
    daemon.calls.clear()
    assert network.ensure(client, OWNER, ROLE, rules[::-1]) == made
    assert daemon.calls == []


def test_rules_are_changed_in_place_and_one_that_somebody_switched_off_is_not_in_force(
    daemon: Daemon, client: Client
) -> None:
    network.ensure(client, OWNER, ROLE, RULES)
    daemon.calls.clear()
    network.ensure(client, OWNER, ROLE, [AclRule(9000), *RULES])
    assert daemon.calls == [f"PUT /1.0/network-acls/{NAME}"]
    assert daemon.things["network-acls"][NAME]["ingress"] == [
        FROM_BALANCER,
        {"action": "allow", "state": "enabled", "protocol": "tcp", "destination_port": "9000"},
    ]
    daemon.things["network-acls"][NAME]["ingress"][0]["state"] = "disabled"
    assert network.rules(client, NAME) == [AclRule(9000)]


def test_a_half_made_group_is_completed(daemon: Daemon, client: Client) -> None:
    daemon.refuse("POST /1.0/networks", 500, "killed")
    with pytest.raises(LxdError, match="killed"):
        network.ensure(client, OWNER, ROLE, RULES)
    assert network.addresses(client, NAME, OWNER) is None
    assert network.ensure(client, OWNER, ROLE, RULES) == (NAME, "10.7.7.2-10.7.7.254")
    assert daemon.calls == ["POST /1.0/network-acls", "POST /1.0/networks", "POST /1.0/networks"]
    del daemon.things["network-acls"][NAME]
    assert network.addresses(client, NAME, OWNER) is None


@pytest.mark.parametrize("kind", ["networks", "network-acls"])
def test_what_is_not_labelled_as_the_owners_is_refused_and_left(daemon: Daemon, client: Client, kind: str) -> None:
    theirs: Thing = {"name": NAME, "config": {"user.wsgi-fleet.owner": "local-other"}}
    daemon.things[kind][NAME] = theirs
    message = f"LXD: {kind} {NAME} exists and is not labelled user.wsgi-fleet.owner={OWNER}; rename or remove it"
    for act in (lambda: network.ensure(client, OWNER, ROLE, []), lambda: network.remove(client, NAME, OWNER)):
        with pytest.raises(LxdError, match=message):
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


def devices_of_machines(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Return machine -> its devices but for the interface."""
    every = daemon.things["instances"].items()
    return {name: {key: each for key, each in thing["devices"].items() if key != "eth0"} for name, thing in every}


@pytest.mark.parametrize("tls_port", [None, 9443])
def test_ports_lead_to_the_new_balancer_and_no_longer_to_the_old(
    daemon: Daemon, client: Client, port: int, tls_port: int | None
) -> None:
    expected: dict[str, Any] = {"public": proxy(port)} | ({"public-tls": proxy(tls_port, 443)} if tls_port else {})
    other: dict[str, Any] = {"public": proxy(9)}
    daemon.things["instances"] = {
        "old": instance("old", **expected),
        "new": instance("new"),
        "other": instance("other", owner="prod-abc123", **other),
    }
    address.publish(client, OWNER, "new", port, tls_port)
    assert devices_of_machines(daemon) == {"old": {}, "new": expected, "other": other}
    assert daemon.calls == ["PUT /1.0/instances/old", "PATCH /1.0/instances/new"]
    assert [name for name in ("old", "new", "gone") if address.is_published(client, name, port, tls_port)] == ["new"]
    assert not address.is_published(client, "new", port, None if tls_port else 9443)
    assert [address.unpublish(client, name) for name in ("new", "new", "gone")] == [True, False, False]
    assert devices_of_machines(daemon) == {"old": {}, "new": {}, "other": other}


def test_a_port_that_nobody_used_before_has_no_gap(daemon: Daemon, client: Client, port: int) -> None:
    daemon.things["instances"] = {"old": instance("old", public=proxy(9)), "new": instance("new")}
    assert address.publish(client, OWNER, "new", port) == 0
    assert devices_of_machines(daemon) == {"old": {}, "new": {"public": proxy(port)}}


@pytest.mark.parametrize(
    ("was", "is_", "calls"),
    [(False, False, []), (True, True, []), (False, True, ["PATCH"]), (True, False, ["PUT", "PATCH"])],
)
def test_a_port_that_leads_there_stays_open_while_that_of_https_comes_or_goes(
    daemon: Daemon, port: int, *, was: bool, is_: bool, calls: list[str]
) -> None:
    with_tls: dict[str, Any] = {"public-tls": proxy(9443, 443)}
    daemon.things["instances"]["a"] = instance("a", public=proxy(port), **(with_tls if was else {}))
    assert address.publish(Client(), OWNER, "a", port, 9443 if is_ else None) == 0
    assert devices_of_machines(daemon) == {"a": {"public": proxy(port)} | (with_tls if is_ else {})}
    assert daemon.calls == [f"{method} /1.0/instances/a" for method in calls]


@pytest.mark.parametrize("setting", ["port", "tls_port", "monitoring_port"])
def test_a_taken_port_is_told_with_who_has_it_and_what_to_do(
    daemon: Daemon, client: Client, port: int, setting: str
) -> None:
    choose = (
        f"choose another port: `pulumi config set -s {OWNER.rpartition('-')[0]} --path wsgi-fleet:lxd.{setting} PORT`"
    )
    message = (
        f"port {port} of 127.0.0.1 is taken by another program (`ss -tanp 'sport = :{port}'` names it); end that, or "
        f"{choose}"
    )
    device = next(each for each, name in address.SETTINGS.items() if name == setting)
    assert address.conflict(client, OWNER, port, device) == message
    daemon.things["instances"]["a"] = instance("a")
    daemon.refuse("PATCH .*", 400, f"Failed to listen on 127.0.0.1:{port}: bind: address already in use")
    publish = address.publish_monitoring if setting == "monitoring_port" else address.publish
    with pytest.raises(LxdError) as error:
        publish(client, OWNER, "a", *((9, port) if setting == "tls_port" else (port,)))
    assert str(error.value) == message
    of_other = instance("b", public=proxy(port))
    daemon.things["instances"]["b"] = of_other | {"config": {"user.wsgi-fleet.owner": "shop-one-0a1b2c"}}
    message = f"port {port} of 127.0.0.1 is taken by the fleet of stack shop-one; {choose}"
    assert address.conflict(client, OWNER, port, device) == message
    # It is in the way of all but its holder.
    daemon.things["instances"]["a"] = instance("a", public=proxy(port))
    assert address.conflict(client, OWNER, port, device) is None


def test_only_a_port_that_was_open_has_a_gap(daemon: Daemon, client: Client) -> None:
    closed = 9

    def takes_a_while(_body: Any) -> None:
        time.sleep(0.01)

    daemon.things["instances"] = {name: instance(name) for name in ("a", "b")}
    daemon.before("PATCH .*", takes_a_while, takes_a_while)
    assert address.publish(client, OWNER, "a", closed) == 0
    assert address.publish(client, OWNER, "b", closed) >= 10
