"""The servers of groups, as the platform lists them now: the stack's output names the group alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from platforms import operator
from releases.live import LiveServers, server_name


def with_live_servers(fleet: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stack's output `fleet` with the servers that its groups have now. Raises ServerGroupError.

    Each has also its phase.
    """
    apps: Mapping[str, Any] = fleet["apps"]
    live = {
        name: {**found, "servers": _servers(name, found["group"])} if "group" in found else found
        for name, found in apps.items()
    }
    return {**fleet, "apps": live}


def live_servers(app: str, found: Mapping[str, Any]) -> LiveServers | None:
    """Return the live servers of an application of such an output; None where their number is fixed."""
    if "group" not in found:
        return None
    live = LiveServers(app, operator.server_group(found["group"]), typer.echo)
    for each in found["servers"]:
        live.add_server(each["name"], each["target"])
    return live


def _servers(app: str, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": server_name(app, member), "target": member.target, "address": member.address, "phase": member.phase}
        for member in operator.server_group(spec).members()
        if member.takes_part
    ]
