"""A machine on LXD: an unprivileged system container, from nothing to an address, and back to nothing."""

from __future__ import annotations

import ipaddress
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platforms.lxd import arp, label, store
from platforms.lxd.client import Client, LxdError, NotFound, Unavailable, url

ADDRESS_TIMEOUT_S = 60.0
# Asking LXD how a machine is costs a tenth of a second of CPU, which machines that boot need themselves.
LOOK_EVERY_S = 5.0
# As long as a stop by another process may take (see _remove_once).
REMOVE_TIMEOUT_S = 30.0
NIC = "eth0"
STORE_PATH = "/srv/store"
RUNNING = "Running"
# Addresses that this process has given to machines which LXD may not show yet: the machines of a stack are made side by
# side, and LXD creates two with one address, of which then none, or only one, answers there.
_claimed_addresses: set[str] = set()
_claim_lock = threading.Lock()
# Pool drivers that hold a root disk to its size without a filesystem of its own.
SIZED_DRIVERS = frozenset({"btrfs", "zfs", "lvm", "ceph"})


@dataclass(frozen=True)
class Spec:
    """What a machine is made from. store: folder of the host that it reads below /srv/store, "" for none.

    That is the folder of one application: another's code, settings and environment are not its business.
    """

    stack: str
    owner: str
    role: str
    image: str
    user_data: str
    network: str
    isolated: bool
    pool: str
    cpus: int
    memory_mib: int
    disk_gib: int
    store: str


def create(client: Client, spec: Spec) -> tuple[str, str]:
    """Create and start a machine; return its name and its IPv4 address, which it keeps.

    Machines of the same owner and role that a killed run left half-made are removed first. Raises LxdError.
    """
    for left in machines_of(client, spec.owner, spec.role):
        if left["config"].get(label.CONFIRMED) != "true":
            remove(client, left["name"])
    if spec.store:
        # LXD mounts what is there; the first release comes after the machine.
        store.create(Path(spec.store))
    name = label.machine_name(spec.stack, spec.role)
    address = _make(client, name, spec)
    try:
        start(client, name)
    except LxdError:
        # The next run would remove it as well; this one saw it fail and leaves nothing behind.
        remove(client, name)
        raise
    return name, address


def start(client: Client, name: str) -> None:
    """Start a machine that does not run and wait for its network. Raises LxdError with what is known of the failure."""
    instance = client.get(url("instances", name))
    address = str(instance["devices"][NIC]["ipv4.address"])
    if instance["status"] != RUNNING:
        action = {"action": "start", "timeout": int(ADDRESS_TIMEOUT_S)}
        client.request("PUT", url("instances", name, "state"), action)
    start_s = time.monotonic()
    looked = start_s
    while not arp.is_resolved(address):
        now = time.monotonic()
        if now - looked > LOOK_EVERY_S:
            looked = now
            found = status(client, name)
            if found != RUNNING:
                raise LxdError(_boot_failure(client, name, found))
        if now - start_s > ADDRESS_TIMEOUT_S:
            raise LxdError(_no_address(client, name))
        time.sleep(0.1)


def status(client: Client, name: str) -> str | None:
    """Return the status of a machine ("Running", "Stopped", ...), or None when there is no such machine."""
    try:
        return str(client.get(url("instances", name))["status"])
    except NotFound:
        return None


def machines_of(client: Client, owner: str, role: str | None = None) -> list[dict[str, Any]]:
    """Return the owner's machines (of that role) as LXD describes them."""
    everything: list[dict[str, Any]] = client.get(url("instances", recursion="1"))
    return [instance for instance in everything if label.is_labelled(instance, owner, role)]


def confirm(client: Client, name: str) -> None:
    """Mark a machine as recorded by the engine: no create will take it for half-made any more."""
    if client.get(url("instances", name))["config"].get(label.CONFIRMED) != "true":
        client.request("PATCH", url("instances", name), {"config": {label.CONFIRMED: "true"}})


def remove(client: Client, name: str) -> None:
    """Stop a machine at once and delete it. Succeeds when it is gone, also when another run removes it meanwhile."""
    until = time.monotonic() + REMOVE_TIMEOUT_S
    while True:
        try:
            _remove_once(client, name)
        except Unavailable:
            raise
        except LxdError:
            # LXD refuses a machine that is under another operation, such as the deletion of a run that was killed.
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def _remove_once(client: Client, name: str) -> None:
    stop = {"action": "stop", "force": True, "timeout": 30}
    try:
        if status(client, name) not in (None, "Stopped"):
            client.request("PUT", url("instances", name, "state"), stop)
    except NotFound:
        return
    except Unavailable:
        raise
    except LxdError:
        # Somebody else stopped it first, or it is half-made; the deletion tells.
        pass
    try:
        client.request("DELETE", url("instances", name))
    except NotFound:
        return


def body(name: str, spec: Spec, *, fingerprint: str, address: str, sized: bool) -> dict[str, Any]:
    """Return the machine as LXD's API takes it."""
    root = {"type": "disk", "path": "/", "pool": spec.pool}
    nic = {"type": "nic", "name": NIC, "network": spec.network, "ipv4.address": address}
    devices: dict[str, dict[str, str]] = {
        "root": {**root, "size": f"{spec.disk_gib}GiB"} if sized else root,
        NIC: {**nic, "security.port_isolation": "true"} if spec.isolated else nic,
    }
    if spec.store:
        path = f"{STORE_PATH}/{Path(spec.store).name}"
        devices["store"] = {"type": "disk", "source": spec.store, "path": path, "readonly": "true"}
    return {
        "name": name,
        "type": "container",
        "description": f"{spec.role} of {spec.owner}",
        "profiles": [],
        "source": {"type": "image", "fingerprint": fingerprint},
        "config": {
            **label.labels(spec.owner, spec.role),
            "cloud-init.user-data": spec.user_data,
            "limits.cpu": str(spec.cpus),
            "limits.memory": f"{spec.memory_mib}MiB",
        },
        "devices": devices,
    }


def free_address(subnet: str, used: set[str]) -> str:
    """Return a random address of the subnet that is free. Raises LxdError.

    It is neither one of its ends nor its gateway (the first) nor one of used.
    """
    network = ipaddress.ip_network(subnet, strict=False)
    free = [str(host) for host in list(network.hosts())[1:] if str(host) not in used]
    if not free:
        raise LxdError(f"no address is free in {subnet}; remove machines, or spread them over more groups")
    return secrets.choice(free)


def _make(client: Client, name: str, spec: Spec) -> str:
    """Create the container, with an address of its own from the start, and return that address.

    It is fixed before the first boot and not pinned after it, so that no moment exists in which a restart changes it.
    """
    try:
        fingerprint = str(client.get(url("images", "aliases", spec.image))["target"])
    except NotFound as error:
        raise LxdError(f"image {spec.image} of {spec.role} is missing in LXD; `pulumi up` creates it again") from error
    subnet = str(client.get(url("networks", spec.network))["config"]["ipv4.address"])
    sized = client.get(url("storage-pools", spec.pool))["driver"] in SIZED_DRIVERS
    for _ in range(5):
        # Leases are read under the lock too: what they do not show yet is among the claimed ones.
        with _claim_lock:
            leases = {lease["address"] for lease in client.get(url("networks", spec.network, "leases"))}
            address = free_address(subnet, leases | _claimed_addresses)
            _claimed_addresses.add(address)
        try:
            client.request(
                "POST", url("instances"), body(name, spec, fingerprint=fingerprint, address=address, sized=sized)
            )
        except LxdError as error:
            # Another machine took it since the leases were read.
            if "IP address" in str(error) and "already" in str(error):
                continue
            raise
        return address
    raise LxdError(f"machine {name}: five addresses of {spec.network} in a row were taken by others; run it again")


def console(client: Client, name: str, lines: int = 15) -> str:
    """Return the end of a machine's console, as far as LXD kept it."""
    try:
        text = client.text(url("instances", name, "console"))
    except LxdError:
        return "(no console log)"
    return "\n".join(text.splitlines()[-lines:]) or "(empty)"


def _boot_failure(client: Client, name: str, found: str | None) -> str:
    """Return the text of the error for a machine that ended while it booted."""
    last = console(client, name)
    if "Too many open files" in last:
        return (
            f"machine {name} did not boot: the inotify instances of this host are used up "
            "(fs.inotify.max_user_instances, about eight a machine). Run `make setup`, which raises the limit, and "
            "then the same command again."
        )
    return f"machine {name} stopped while it booted ({found}); its console:\n{last}"


def _no_address(client: Client, name: str) -> str:
    """Return the text of the error for a machine that runs and has no address."""
    instance = client.get(url("instances", name))
    network = instance["devices"][NIC]["network"]
    try:
        state = client.get(url("networks", network, "state"))
        leases = [lease["hostname"] for lease in client.get(url("networks", network, "leases"))]
        bridge = f"network {network} is {state['state']} with leases for {', '.join(leases) or 'nobody'}"
    except LxdError as error:
        bridge = str(error)
    return (
        f"machine {name} runs but had no IPv4 address on {NIC} after {ADDRESS_TIMEOUT_S:.0f} s: {bridge}. "
        "A firewall on the host may drop DHCP (UDP 67) on that bridge, or its dnsmasq has died: restart LXD. "
        f"Its console ends:\n{console(client, name)}"
    )
