"""A security group on LXD: a bridge network of its own and the ACL that controls access to it.

An ACL does not filter inside one bridge (LXD 5.0.2), hence one bridge for each group; within a group,
`security.port_isolation` on the machines' interfaces does.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from platforms.lxd import label, machine, subnet
from platforms.lxd.client import Client, LxdError, NotFound, url

_choice_lock = threading.Lock()


@dataclass(frozen=True)
class AclRule:
    """Clients with one of the addresses (as LXD writes a range; "" for everyone) may connect to the TCP port."""

    port: int
    addresses: str = ""


def ensure(client: Client, owner: str, role: str, rules: Sequence[AclRule]) -> tuple[str, str]:
    """Create the group with exactly these rules, complete it (a killed run left half of it) or change it in place.

    Returns the network's name and the addresses that its machines have.
    """
    name = label.network_name(owner, role)
    ingress = acl_rules(rules)

    def set_rules(acl: dict[str, Any]) -> bool:
        changed = acl.get("ingress") != ingress
        acl["ingress"] = ingress
        return changed

    acl = _find_owned(client, "network-acls", name, owner)
    if acl is None:
        body = {"name": name, "description": f"who may enter {owner} {role}", "config": label.labels(owner, role)}
        client.request("POST", url("network-acls"), {**body, "ingress": ingress, "egress": []})
    else:
        client.edit(url("network-acls", name), set_rules)
    network = _find_owned(client, "networks", name, owner)
    if network is None:
        # Two groups at a time must not choose one subnet.
        with _choice_lock:
            config = _network_config(name, owner, role, _free_subnet(client))
            body = {"name": name, "type": "bridge", "description": f"{owner} {role}"}
            client.request("POST", url("networks"), {**body, "config": config})
        network = client.get(url("networks", name))
    return name, _machine_range(network)


def addresses(client: Client, name: str, owner: str) -> str | None:
    """Return the addresses that machines of the group have, or None when its network or its ACL is gone."""
    network = _find_owned(client, "networks", name, owner)
    if network is None or _find_owned(client, "network-acls", name, owner) is None:
        return None
    return _machine_range(network)


def _machine_range(network: dict[str, Any]) -> str:
    """Return the range of addresses of a network but the host's own.

    Any user of the host may send from that one.
    """
    hosts = list(ipaddress.ip_interface(network["config"]["ipv4.address"]).network.hosts())
    return f"{hosts[1]}-{hosts[-1]}"


def rules(client: Client, name: str) -> list[AclRule]:
    """Return the rules that are in force."""
    acl = client.get(url("network-acls", name))
    found = [rule for rule in acl["ingress"] if rule.get("state") == "enabled" and rule.get("action") == "allow"]
    return sorted(
        # What somebody added by hand and no rule of ours can be (a range) is port 0: it differs, so `up` puts it right.
        (AclRule(_port(rule.get("destination_port", "")), rule.get("source", "")) for rule in found),
        key=lambda rule: (rule.port, rule.addresses),
    )


def _port(text: str) -> int:
    return int(text) if text.isdigit() else 0


def remove(client: Client, name: str, owner: str) -> None:
    """Remove the group, and first what a killed run left in it. Succeeds where nothing is left."""
    for instance in machine.machines_of(client, owner):
        if any(device.get("network") == name for device in instance["devices"].values()):
            machine.remove(client, instance["name"])
    for kind in ("networks", "network-acls"):
        if _find_owned(client, kind, name, owner) is not None:
            try:
                client.request("DELETE", url(kind, name))
            except NotFound:
                continue


def acl_rules(rules: Sequence[AclRule]) -> list[dict[str, str]]:
    """Return rules as LXD writes them, in an order of their own so that equal sets are equal lists."""
    made: list[dict[str, str]] = []
    for rule in sorted(rules, key=lambda rule: (rule.port, rule.addresses)):
        entry = {"action": "allow", "state": "enabled", "protocol": "tcp", "destination_port": str(rule.port)}
        made.append({**entry, "source": rule.addresses} if rule.addresses else entry)
    return made


def _free_subnet(client: Client) -> IPv4Network:
    """Return a subnet that neither the host nor another LXD network uses, running or not."""
    networks: list[dict[str, Any]] = client.get(url("networks", recursion="1"))
    addresses = [network["config"].get("ipv4.address", "") for network in networks]
    theirs = [ipaddress.IPv4Interface(address).network for address in addresses if "/" in address]
    try:
        return subnet.free([*theirs, *subnet.in_use()])
    except LookupError as error:
        raise LxdError(f"LXD: no subnet for a new network: {error}; remove networks that nothing uses") from error


def _network_config(name: str, owner: str, role: str, chosen: IPv4Network) -> dict[str, str]:
    return {
        **label.labels(owner, role),
        "ipv4.address": f"{chosen[1]}/{chosen.prefixlen}",
        "ipv4.nat": "true",
        "ipv6.address": "none",
        "bridge.mtu": str(subnet.uplink_mtu()),
        "security.acls": name,
        "security.acls.default.ingress.action": "reject",
        "security.acls.default.egress.action": "allow",
    }


def _find_owned(client: Client, kind: str, name: str, owner: str) -> dict[str, Any] | None:
    """Return the network or ACL of that name, None where there is none. Raises LxdError when it has another owner."""
    try:
        found: dict[str, Any] = client.get(url(kind, name))
    except NotFound:
        return None
    if not label.is_labelled(found, owner):
        raise LxdError(f"LXD: {kind} {name} exists and is not labelled {label.OWNER}={owner}; rename or remove it")
    return found
