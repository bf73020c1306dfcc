"""Finds an IPv4 subnet that nothing on this host uses.

LXD's `ipv4.address: auto` probes candidates over the network and finds none free where a gateway answers for every
address, as transparent proxies do. Looking at the host's own routes needs no network.
"""

from __future__ import annotations

import random
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

ETHERNET_MTU = 1500
ROUTES = Path("/proc/net/route")
RESOLVERS = Path("/etc/resolv.conf")
INTERFACES = Path("/sys/class/net")


def free(used: Iterable[IPv4Network], rng: random.Random | None = None) -> IPv4Network:
    """Return a random /24 of 10.0.0.0/8 that overlaps none of the used ones. Raises LookupError after 1,000 tries."""
    generator = rng or random.SystemRandom()
    others = list(used)
    for _ in range(1000):
        network = IPv4Network(f"10.{generator.randrange(1, 255)}.{generator.randrange(256)}.0/24")
        if not any(network.overlaps(other) for other in others):
            return network
    raise LookupError("no /24 of 10.0.0.0/8 is free of routes on this host")


def in_use(routes: Path = ROUTES, resolvers: Path = RESOLVERS) -> Iterator[IPv4Network]:
    """Yield the networks of the host's routes, without the default route, and the addresses of its name servers.

    A name server may be reachable by the default route only, so no other route contains it.
    """
    for _, network in _routes(routes):
        if network.prefixlen:
            yield network
    if resolvers.exists():
        for address in re.findall(r"^nameserver\s+([\d.]+)\s*$", resolvers.read_text(), re.MULTILINE):
            yield IPv4Network(address)


def uplink_mtu(routes: Path = ROUTES, interfaces: Path = INTERFACES) -> int:
    """Return the MTU in bytes of the interface that has the host's default route.

    Behind a smaller one (tunnels, clouds) a bridge with 1500 loses large packets without an error.
    """
    for interface, network in _routes(routes):
        if not network.prefixlen:
            return int((interfaces / interface / "mtu").read_text())
    return ETHERNET_MTU


def _routes(path: Path) -> Iterator[tuple[str, IPv4Network]]:
    """Yield interface and destination of each route; the kernel writes addresses as little-endian hexadecimal."""
    for line in path.read_text().splitlines()[1:]:
        fields = line.split()
        destination, mask = (socket.inet_ntoa(struct.pack("<L", int(fields[index], 16))) for index in (1, 7))
        yield fields[0], IPv4Network(f"{destination}/{mask}")
