"""What a slot consists of on this server: its units, its gateways and their sockets. Standard library only."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import CONFIG, RUN, run

BLUE, GREEN, PROOF = "blue", "green", "proof"
# Of a unit, the best first.
STATES = ("active", "activating", "reloading", "deactivating", "failed", "inactive")


def process_layout() -> tuple[str, int]:
    """Return what starts the gateways of a slot, and how many they are, of one process each.

    0: a slot is one gateway with all its processes, on the socket that both slots share.
    """
    file = CONFIG / "processes"
    manager, number = file.read_text().split() if file.exists() else ("systemd", "0")
    return manager, int(number)


def gateways(slot: str) -> list[str]:
    """Return the names of the gateways in a slot; each has a folder of that name in /run, behind `app-`."""
    number = 0 if slot == PROOF else process_layout()[1]
    return [f"{slot}-{each}" for each in range(number)] or [slot]


def units(slot: str) -> list[str]:
    """Return the units of a slot."""
    if slot == PROOF:
        return ["app-proof"]
    return [f"app@{name}" for name in ([slot] if process_layout()[0] == "supervisord" else gateways(slot))]


def unit_property(name: str, units: Sequence[str]) -> list[str]:
    """Return a property of each unit."""
    return run("systemctl", "show", "-P", name, *units).stdout.split()


def state_of(unit: str) -> str:
    """Return the ActiveState of a unit."""
    return run("systemctl", "show", "-P", "ActiveState", unit).stdout.strip()


def unit_states() -> dict[str, list[str]]:
    """Return slot -> the ActiveState of each of its units, by one call of systemctl: a switch asks twice."""
    every = [(slot, unit) for slot in (BLUE, GREEN) for unit in units(slot)]
    found: dict[str, list[str]] = {BLUE: [], GREEN: []}
    for (slot, _), state in zip(every, unit_property("ActiveState", [unit for _, unit in every]), strict=True):
        found[slot].append(state)
    return found


def best_state(states: Iterable[str]) -> str:
    """Return the ActiveState of a slot whose units have these: the best one."""
    return min(states, key=STATES.index)


def slot_states() -> dict[str, str]:
    """Return slot -> its ActiveState."""
    return {slot: best_state(states) for slot, states in unit_states().items()}


def serving_slots() -> list[str]:
    """Return the slots that serve, start or reload."""
    return [slot for slot, states in unit_states().items() if {"active", "activating", "reloading"} & {*states}]


def private_socket(name: str) -> Path:
    """Return the socket of one gateway that only root on this machine uses (RuntimeDirectory= of the unit)."""
    return RUN / f"app-{name}" / "http.sock"


def connect(sock: Path, timeout_s: float) -> http.client.HTTPConnection:
    """Return a connection to a Unix socket; close it. Raises OSError."""
    connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(timeout_s)
    try:
        connection.sock.connect(str(sock))
    except OSError:
        connection.close()
        raise
    return connection


def get(sock: Path, manifest: Mapping[str, Any], timeout_s: float) -> tuple[int, str]:
    """Send GET for the health path over a Unix socket, as a client of the balancer would.

    Return the status of the response, and its first line in quotes, without HTML, or where it leads.
    """
    # A release of an earlier version has none.
    headers = manifest.get("health_headers", {})
    with contextlib.closing(connect(sock, timeout_s)) as connection:
        connection.request("GET", manifest["health_path"], headers=headers)
        response = connection.getresponse()
        if to := response.headers.get("Location"):
            return response.status, f"to {to[:100]}, and a redirect is not healthy"
        line = response.read(300).decode(errors="replace").strip().partition("\n")[0]
        words = [f'"{line}"'] if line and not line.startswith("<") else []
        if response.status == 400:
            words.append(f"(Host: {headers.get('Host')})")
        return response.status, " ".join(words)


def format_response(status: int, words: str) -> str:
    """Return what get() returned as a text: `500: "down"`; without a status, why there is none."""
    separator = ": " if words.startswith('"') else " "
    return f"{status}{separator}{words}".strip() if status else words
