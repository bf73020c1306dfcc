"""Reach LXD's machines and the store in a directory of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from platforms.diagnosis import Finding
from platforms.load_balancer import LoadBalancer
from platforms.lxd import diagnosis
from platforms.lxd.client import Client, LxdError
from platforms.lxd.store import DirectoryStore
from platforms.lxd.transport import LxdTransport
from platforms.server_group import ServerGroup
from platforms.terminal import Terminal
from platforms.transport import Unreachable


def transport(_spec: Mapping[str, Any]) -> LxdTransport:
    """Return the transport through this machine's LXD. Raises Unreachable where there is none."""
    try:
        return LxdTransport()
    except LxdError as error:
        raise Unreachable(str(error)) from error


def store(spec: Mapping[str, Any]) -> DirectoryStore:
    """Return the store in the folder of a Store.spec."""
    return DirectoryStore(spec["path"])


def secrets(_spec: Mapping[str, Any], _app: str) -> None:
    """Return None: a release contains the secrets, and its servers read the store from a disk of this machine."""


def load_balancer(_spec: Mapping[str, Any]) -> LoadBalancer:
    """Raise LookupError: there is none on this platform."""
    raise LookupError("platform lxd has no load balancer")


def server_group(_spec: Mapping[str, Any]) -> ServerGroup:
    """Raise LookupError: there is none on this platform."""
    raise LookupError("platform lxd has no groups of servers")


def terminal(_spec: Mapping[str, Any], machine: str, command: Sequence[str]) -> Terminal:
    """Return the `lxc exec` that opens a terminal on a machine. Raises Unreachable."""
    try:
        client = Client()
        words = [*client.command(), "exec", "--project", "default", "-t", f"local:{machine}", "--", *command]
    except LxdError as error:
        raise Unreachable(str(error)) from error
    return Terminal(words, client.command_environment())


def check_host(blocks: Mapping[str, Any], *, stack: str, project: Path) -> list[Finding]:
    """Check LXD, its command, the inotify limit, the pool and the port. Nothing is changed."""
    return diagnosis.check_host(blocks, stack=stack, project=project)


def check_connection(_spec: Mapping[str, Any]) -> list[Finding]:
    """Return []: machines are on this host."""
    return []
