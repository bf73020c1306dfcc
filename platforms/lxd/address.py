"""The public address of a local fleet: a loopback port of the host, led into the balancer by a `proxy` device."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from platforms.lxd import machine
from platforms.lxd.client import Client, LxdError, NotFound, url

HOST = "127.0.0.1"
TARGET_PORT = 80
DEVICE = "public"


def publish(client: Client, owner: str, name: str, port: int) -> int:
    """Lead HOST:port to port 80 of the machine, away from whichever machine of the owner has it now.

    Returns the gap in milliseconds during which the port was closed: two devices cannot hold one port. Raises LxdError
    when the port is taken by something else.
    """
    holders = {holder["name"]: holder["devices"][DEVICE] for holder in _holders(client, owner)}
    if holders == {name: _device(port)}:
        return 0
    closed = time.monotonic()
    moved = [withdraw(client, holder) for holder in holders]
    # LXD takes a second to say that a device is there; the port is open long before.
    opened = _Opened(port)
    opened.start()
    try:
        client.request("PATCH", url("instances", name), {"devices": {DEVICE: _device(port)}})
    except LxdError as error:
        if "address already in use" in str(error):
            raise LxdError(taken(port)) from error
        raise
    finally:
        opened.end()
    return round((opened.at - closed) * 1000) if any(moved) else 0


class _Opened(threading.Thread):
    """Watches for a port to accept connections. at: when it did, else when the watch ended, as time.monotonic()."""

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


def withdraw(client: Client, name: str) -> bool:
    """Close the port that leads to the machine. False where there was none."""

    def drop(instance: dict[str, Any]) -> bool:
        return instance["devices"].pop(DEVICE, None) is not None

    try:
        return client.edit(url("instances", name), drop)
    except NotFound:
        return False


def is_published(client: Client, name: str, port: int) -> bool:
    """Whether the port leads to that machine."""
    try:
        return client.get(url("instances", name))["devices"].get(DEVICE) == _device(port)
    except NotFound:
        return False


def obstacle(client: Client, owner: str, port: int) -> str | None:
    """Why the owner cannot have the port, or None. Asked before anything is made."""
    if any(holder["devices"][DEVICE] == _device(port) for holder in _holders(client, owner)):
        return None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return taken(port)
    return None


def taken(port: int) -> str:
    """What to say of a port that is not free."""
    return (
        f"port {port} of {HOST} is taken by another program (`ss -ltnp 'sport = :{port}'` names it); "
        "end that, or choose another port: `pulumi config set --path wsgi-fleet:lxd.port PORT`"
    )


def _device(port: int) -> dict[str, str]:
    return {
        "type": "proxy",
        "listen": f"tcp:{HOST}:{port}",
        "connect": f"tcp:{HOST}:{TARGET_PORT}",
        "bind": "host",
    }


def _holders(client: Client, owner: str) -> list[dict[str, Any]]:
    """The owner's machines that have such a device, on whatever port."""
    return [instance for instance in machine.owned(client, owner) if DEVICE in instance["devices"]]
