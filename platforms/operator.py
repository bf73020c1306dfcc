"""Reach the machines, stores and secrets of a stack from outside of the Pulumi program.

Each platform is a package of this one: platforms/<name>/platform.py registers resources (see platforms.registry), and
platforms/<name>/operator.py has the functions of Operator. The specifications in a stack's outputs name the platform.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from platforms.diagnosis import Finding
from platforms.load_balancer import LoadBalancer
from platforms.registry import names
from platforms.server_group import ServerGroup
from platforms.terminal import Terminal
from platforms.transport import SecretStore, Store, Transport


class Operator(Protocol):
    """What platforms/<name>/operator.py contains. Specifications are what the platform itself exported."""

    def transport(self, spec: Mapping[str, Any]) -> Transport:
        """Return the transport of a ConnectionSpec.spec. Raises Unreachable if no machine can be reached."""
        ...

    def store(self, spec: Mapping[str, Any]) -> Store:
        """Return the store of a Store.spec."""
        ...

    def secrets(self, spec: Mapping[str, Any], app: str) -> SecretStore | None:
        """Return the store from which an application's servers read secrets at boot; None if there is none."""
        ...

    def load_balancer(self, spec: Mapping[str, Any]) -> LoadBalancer:
        """Return the load balancer of a LoadBalancer.spec. Raises LookupError where the platform has none."""
        ...

    def server_group(self, spec: Mapping[str, Any]) -> ServerGroup:
        """Return the group of a ServerGroup.spec. Raises LookupError where the platform has none."""
        ...

    def terminal(self, spec: Mapping[str, Any], machine: str, command: Sequence[str]) -> Terminal:
        """Return the command that opens a terminal on a machine and runs `command` there. Raises Unreachable."""
        ...

    def check_host(self, blocks: Mapping[str, Any], *, stack: str, project: Path) -> list[Finding]:
        """Check what this machine needs for the platform. blocks: of the stack file."""
        ...

    def check_connection(self, spec: Mapping[str, Any]) -> list[Finding]:
        """Check whether the way of a ConnectionSpec.spec is open, as far as possible without entering a machine."""
        ...


def operator_of(platform: str) -> Operator:
    """Return the operator's side of a platform. Raises LookupError with the known names."""
    if platform not in names():
        raise LookupError(f"platform {platform!r} is not one of {', '.join(names())}")
    return cast("Operator", importlib.import_module(f"platforms.{platform}.operator"))


def transport(spec: Mapping[str, Any]) -> Transport:
    """Return the transport of a ConnectionSpec.spec. Raises Unreachable if no machine can be reached."""
    return operator_of(spec["platform"]).transport(spec)


def store(spec: Mapping[str, Any]) -> Store:
    """Return the store of a Store.spec."""
    return operator_of(spec["platform"]).store(spec)


def secrets(spec: Mapping[str, Any], app: str) -> SecretStore | None:
    """Return the store from which an application's servers read secrets at boot; None where a spec has none."""
    return operator_of(spec["platform"]).secrets(spec, app)


def load_balancer(spec: Mapping[str, Any]) -> LoadBalancer:
    """Return the load balancer of a LoadBalancer.spec."""
    return operator_of(spec["platform"]).load_balancer(spec)


def server_group(spec: Mapping[str, Any]) -> ServerGroup:
    """Return the group of a ServerGroup.spec."""
    return operator_of(spec["platform"]).server_group(spec)


def terminal(spec: Mapping[str, Any], machine: str, command: Sequence[str]) -> Terminal:
    """Return the command that opens a terminal on a machine and runs `command` there. Raises Unreachable."""
    return operator_of(spec["platform"]).terminal(spec, machine, command)


def check_host(platform: str, blocks: Mapping[str, Any], *, stack: str, project: Path) -> list[Finding]:
    """Check what this machine needs for a platform; [] for an unknown one. blocks: of the stack file."""
    return operator_of(platform).check_host(blocks, stack=stack, project=project) if platform in names() else []


def check_connection(spec: Mapping[str, Any]) -> list[Finding]:
    """Check whether the way of a ConnectionSpec.spec is open, as far as possible without entering a machine."""
    return operator_of(spec["platform"]).check_connection(spec)
