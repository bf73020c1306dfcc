"""The public address of a local fleet: loopback ports of the host, led into the balancer by `proxy` devices."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from platforms.lxd import label, machine
from platforms.lxd.client import Client, LxdError, NotFound, url

HOST = "127.0.0.1"
DEVICE, TLS_DEVICE, MONITORING_DEVICE = "public", "public-tls", "monitoring"
# Device -> port of the machine that it leads to, and the setting under `lxd` that names the host's.
TARGETS = {DEVICE: 80, TLS_DEVICE: 443, MONITORING_DEVICE: 9090}
SETTINGS = {DEVICE: "port", TLS_DEVICE: "tls_port", MONITORING_DEVICE: "monitoring_port"}
# The devices of the balancer, and of the machine with Prometheus: those of one machine move together.
OF_BALANCER, OF_MONITORING = (DEVICE, TLS_DEVICE), (MONITORING_DEVICE,)


def publish(client: Client, owner: str, name: str, port: int, tls_port: int | None = None) -> int:
    """Forward HOST:port to port 80 of the machine (and HOST:tls_port to 443), instead of any other machine.

    Requests in flight are cut: LXD ends the process that forwards them. Returns the gap in milliseconds during which
    the port was closed: two devices cannot share one port. Raises LxdError if another program uses a port.
    """
    return _forward(client, owner, name, _devices(port, tls_port), OF_BALANCER)


def publish_monitoring(client: Client, owner: str, name: str, port: int) -> None:
    """Forward HOST:port to Prometheus on the machine, instead of any other machine. Raises as publish does."""
    _forward(client, owner, name, _devices_of({MONITORING_DEVICE: port}), OF_MONITORING)


def _forward(
    client: Client, owner: str, name: str, desired: dict[str, dict[str, str]], devices_of: Sequence[str]
) -> int:
    """Give the machine the desired ones of some devices, and take these from all others. Return the gap in ms."""
    every = {each["name"]: _proxy_devices(each, devices_of) for each in machine.machines_of(client, owner)}
    current = {holder: devices for holder, devices in every.items() if devices}
    if current == {name: desired}:
        return 0
    closed = time.monotonic()
    first, moved = devices_of[0], False
    for holder, devices in current.items():
        wrong = [device for device, config in devices.items() if holder != name or desired.get(device) != config]
        unpublish(client, holder, wrong)
        moved = moved or (first in wrong and devices[first]["listen"] == desired[first]["listen"])
    missing = {device: config for device, config in desired.items() if current.get(name, {}).get(device) != config}
    # LXD takes a second to say that a device is there; the port is open long before.
    opened = _OpenWatch(_port(desired[first]))
    opened.start()
    try:
        client.request("PATCH", url("instances", name), {"devices": missing})
    except LxdError as error:
        if "address already in use" in str(error):
            ports = {device: _port(config) for device, config in desired.items()}
            taken = next((each for each in devices_of[1:] if each in ports and f":{ports[each]}:" in str(error)), first)
            raise LxdError(port_conflict(client, owner, ports[taken], taken)) from error
        raise
    finally:
        opened.end()
    return round((opened.at - closed) * 1000) if moved else 0


class _OpenWatch(threading.Thread):
    """A thread that waits until a port accepts connections.

    at: when it did, else when the watch ended, as time.monotonic().
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.at = 0.0
        self._port = port
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                socket.create_connection((HOST, self._port), timeout=1).close()
                break
            except OSError:
                self._ended.wait(0.005)
        self.at = time.monotonic()

    def end(self) -> None:
        self._ended.set()
        self.join()


def unpublish(client: Client, name: str, devices: Iterable[str] = OF_BALANCER) -> bool:
    """Close the ports of the machine on the host. Return False if there was none."""

    def drop(instance: dict[str, Any]) -> bool:
        gone = [instance["devices"].pop(device, None) for device in devices]
        return any(device is not None for device in gone)

    try:
        return client.edit(url("instances", name), drop)
    except NotFound:
        return False


def is_published(client: Client, name: str, port: int, tls_port: int | None = None) -> bool:
    """Return whether exactly these ports of the host are forwarded to that machine."""
    return _is_forwarded(client, name, _devices(port, tls_port), OF_BALANCER)


def is_monitoring_published(client: Client, name: str, port: int) -> bool:
    """Return whether this port of the host is forwarded to Prometheus on that machine."""
    return _is_forwarded(client, name, _devices_of({MONITORING_DEVICE: port}), OF_MONITORING)


def _is_forwarded(client: Client, name: str, desired: dict[str, dict[str, str]], devices_of: Sequence[str]) -> bool:
    try:
        return _proxy_devices(client.get(url("instances", name)), devices_of) == desired
    except NotFound:
        return False


def conflict(client: Client, owner: str, port: int, device: str = DEVICE) -> str | None:
    """Return why the owner cannot have the port, or None. Checked before any resource is created."""
    listens = f"tcp:{HOST}:{port}"
    mine = [_proxy_devices(each) for each in machine.machines_of(client, owner)]
    if any(config["listen"] == listens for devices in mine for config in devices.values()):
        return None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return port_conflict(client, owner, port, device)
    return None


def port_conflict(client: Client, owner: str, port: int, device: str = DEVICE) -> str:
    """Return the text of the error for a port that is not free for the owner's stack."""
    listens = f"tcp:{HOST}:{port}"
    instances: list[dict[str, Any]] = client.get(url("instances", recursion="1"))
    holders = [
        each["config"].get(label.OWNER, "")
        for each in instances
        if any(config["listen"] == listens for config in _proxy_devices(each).values())
    ]
    holder, end = f"another program (`ss -tanp 'sport = :{port}'` names it)", "end that, or "
    if holders and holders[0]:
        holder, end = f"the fleet of stack {label.stack_of(holders[0])}", ""
    choose = f"`pulumi config set -s {label.stack_of(owner)} --path wsgi-fleet:lxd.{SETTINGS[device]} PORT`"
    return f"port {port} of {HOST} is taken by {holder}; {end}choose another port: {choose}"


def _devices(port: int, tls_port: int | None) -> dict[str, dict[str, str]]:
    return _devices_of({DEVICE: port} if tls_port is None else {DEVICE: port, TLS_DEVICE: tls_port})


def _devices_of(ports: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Return devices by the ports of the host on which they listen."""
    return {
        device: {
            "type": "proxy",
            "listen": f"tcp:{HOST}:{listens}",
            "connect": f"tcp:{HOST}:{TARGETS[device]}",
            "bind": "host",
        }
        for device, listens in ports.items()
    }


def _port(device: Mapping[str, str]) -> int:
    """Return the port of the host on which a device listens."""
    return int(device["listen"].rpartition(":")[2])


def _proxy_devices(instance: dict[str, Any], names: Iterable[str] = tuple(TARGETS)) -> dict[str, dict[str, str]]:
    return {device: instance["devices"][device] for device in names if device in instance["devices"]}
