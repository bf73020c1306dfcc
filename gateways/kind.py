"""The interface of all gateways, as data. rendering/ makes the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What a release's settings may say of every gateway; all else has a meaning with some only.
COMMON_SETTINGS = frozenset({"kind", "processes", "request_timeout_s"})

# Scripts of machine/ of every gateway: they load the application, and keep one request from hurting others.
GUARD = (
    "gateway_loader",
    "gateway_guard",
    "gateway_response",
    "gateway_companion",
    "gateway_requests",
    "gateway_sockets",
    "gateway_limits",
    "gateway_streaming",
)


@dataclass(frozen=True)
class Gateway:
    """One gateway. Users read its texts: in docs/gateways.md, and where a setting is rejected.

    packages: what its folder on a machine holds, pinned, the dependencies too. protocol: what it speaks with the
    balancer. config: its file in a release, which templates/NAME/FILE.j2 becomes. scripts: of machine/, in the
    release's folder `gateway`. command: launcher and arguments, with {place} for the release's folder and {runtime} for
    its own in /run. proof_args: added where a release is proven. single_process_args: added where each process is a
    gateway of its own, which listens on {port} of 127.0.0.1. unused: setting -> why it has no meaning here. variants:
    the ways in which it runs requests, each with the settings that choose it; tests run every one. no_streaming: why it
    sends no response before it is whole; "" where it does. no_websockets: the same for WebSockets. order: its column in
    the table, from the left. model, process_master, limit, ready, stop, statistics: rows of the table.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    protocol: Literal["uwsgi", "http"]
    config: str
    command: str
    model: str
    process_master: str
    limit: str
    ready: str
    stop: str
    statistics: str
    scripts: tuple[str, ...] = ()
    proof_args: str = "1"
    single_process_args: str = "1 {port}"
    unused: Mapping[str, str] = field(default_factory=dict[str, str])
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    runs_greenlets: bool = False
    no_streaming: str = ""
    no_websockets: str = ""
    order: int = 9

    @property
    def template(self) -> str:
        """Return the path of its configuration's template below templates/."""
        return f"{self.name}/{self.config.rpartition('/')[2]}.j2"
