"""The operations of ./fleet on a load balancer of the platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class LoadBalancerError(Exception):
    """The load balancer could not be asked or changed. The text says what to do."""


@dataclass(frozen=True)
class TargetHealth:
    """What it finds of a server. state: healthy, unhealthy, draining, initial or unused. why: "" if healthy."""

    state: str
    why: str = ""


class LoadBalancer(Protocol):
    """A load balancer, by the operator's credentials. Methods raise LoadBalancerError."""

    def health(self, app: str) -> Mapping[str, TargetHealth]:
        """Return target of the transport -> health, of the servers that are registered."""
        ...

    def drain(self, app: str, target: str) -> None:
        """Send a server no more requests, and wait until it has finished its requests."""
        ...

    def admit(self, app: str, target: str) -> None:
        """Send a server requests."""
        ...

    def in_maintenance(self) -> bool:
        """Return whether clients get the maintenance page."""
        ...

    def set_maintenance(self, page: str | None) -> None:
        """Have clients get this page with status 503; None: the applications."""
        ...
