"""What of LXD, its pool and the published port is not as a fleet on this machine needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from platforms.diagnosis import Finding
from platforms.lxd import address, label
from platforms.lxd.client import Client, LxdError, NotFound, url
from settings.lxd import Lxd

INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
# Eight a machine; tools/lxd-up raises it to as much.
INOTIFY_AT_LEAST = 1024


def check_host(blocks: Mapping[str, Any], *, stack: str, project: Path) -> list[Finding]:
    """Check LXD, its command, the inotify limit, the pool and the port; change nothing. blocks: of the stack file."""
    try:
        client = Client()
        client.get("/1.0")
    except LxdError as error:
        return [Finding("LXD", str(error), "Run `make setup`; it says what it does.")]
    lxd = Lxd.model_validate(dict(blocks.get("lxd") or {}))
    return [
        Finding("LXD"),
        *_command(client),
        inotify(),
        _pool(client, lxd.pool),
        _port(client, lxd.port, stack, project),
    ]


def _command(client: Client) -> Iterator[Finding]:
    try:
        yield Finding(f"the command {Path(client.command()[0]).name}")
    except LxdError as error:
        yield Finding("the command of LXD", str(error), "Run `make setup`.")


def inotify(limit: Path = INOTIFY) -> Finding:
    """Check whether the host has enough inotify instances: each machine's systemd takes eight."""
    instances = int(limit.read_text())
    if instances < INOTIFY_AT_LEAST:
        return Finding(
            "inotify instances",
            f"fs.inotify.max_user_instances is {instances}, enough for some {instances // 10} machines",
            f"Run `make setup`, or `sudo sysctl -w fs.inotify.max_user_instances={INOTIFY_AT_LEAST}`.",
        )
    return Finding("inotify instances")


def _pool(client: Client, pool: str) -> Finding:
    try:
        client.get(url("storage-pools", pool))
    except NotFound:
        return Finding(
            f"storage pool {pool}",
            "LXD has no such pool",
            "Run `make setup`, or name one that `lxc storage list` shows under wsgi-fleet:lxd.pool.",
        )
    return Finding(f"storage pool {pool}")


def _port(client: Client, port: int, stack: str, project: Path) -> Finding:
    problem = address.conflict(client, label.owner(stack, project), port)
    if problem:
        what, _, remedy = problem.partition("; ")
        return Finding(f"port {port}", what, f"{remedy[:1].upper()}{remedy[1:]}.")
    return Finding(f"port {port}")
