"""What a rollout and ./fleet ask of app servers that come and go: which there are now, and to leave some alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class ServerGroupError(Exception):
    """The group could not be asked or changed. The text says what to do."""


class Phase(StrEnum):
    """Where a machine of a group is on its way."""

    STARTING = "starting"
    WAITING = "waiting"
    SERVING = "serving"
    STANDBY = "standby"
    LEAVING = "leaving"


@dataclass(frozen=True)
class Member:
    """A machine of a group. id: as the platform names it. address: private IPv4; "" before it has one.

    WAITING: it runs, and gets no requests before it serves. SERVING: it gets requests. STANDBY: an operator drained it.
    """

    id: str
    address: str
    phase: Phase

    @property
    def target(self) -> str:
        """Return what the transport calls it, as Machine.target is."""
        return f"{self.id}@{self.address}"

    @property
    def takes_part(self) -> bool:
        """Return whether a rollout installs releases on it."""
        return bool(self.address) and self.phase in (Phase.WAITING, Phase.SERVING, Phase.STANDBY)


class ServerGroup(Protocol):
    """A group, by the operator's credentials. Methods raise ServerGroupError."""

    def minimum(self) -> int:
        """Return how many machines the group must have now."""
        ...

    def members(self) -> list[Member]:
        """Return the machines that there are now; none of a group that is gone."""
        ...

    def healthy(self) -> set[str]:
        """Return the ids of the machines that get requests."""
        ...

    def protect(self, ids: Collection[str], *, on: bool) -> None:
        """Protect these machines from scale-in, or end that. A missing machine is no error."""
        ...

    def stand_by(self, id_: str, *, on: bool) -> None:
        """Have the group send a machine no requests, and keep it; or send it requests again."""
        ...

    def replace(self, id_: str) -> None:
        """Have the group replace this machine."""
        ...

    def last_problem(self) -> str:
        """Return why the group got no machine lately; "" where nothing is known."""
        ...
