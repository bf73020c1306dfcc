"""A group of servers in memory, which keeps the promises of an Auto Scaling group."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from platforms.server_group import Member, Phase

S, W, P, L = Phase.SERVING, Phase.WAITING, Phase.STARTING, Phase.LEAVING


@dataclass
class FakeGroup:
    """phases: id -> where it is. least: what it must have. held: what may not be taken away, and ever: what was held.

    replaced: what it was told to put another one in the place of.
    """

    phases: dict[str, Phase]
    least: int = 1
    protected: set[str] = field(default_factory=set[str])
    ever: set[str] = field(default_factory=set[str])
    replaced: list[str] = field(default_factory=list[str])
    standing_by: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    listed: int = 0

    def minimum(self) -> int:
        return self.least

    def members(self) -> list[Member]:
        self.listed += 1
        return [Member(id_, f"10.0.0.{number}", phase) for number, (id_, phase) in enumerate(self.phases.items(), 1)]

    def healthy(self) -> set[str]:
        return {id_ for id_, phase in self.phases.items() if phase is S}

    def protect(self, ids: Collection[str], *, on: bool) -> None:
        self.protected = self.protected | {*ids} if on else self.protected - {*ids}
        self.ever |= {*ids}

    def stand_by(self, id_: str, *, on: bool) -> None:
        self.standing_by.append((id_, on))

    def replace(self, id_: str) -> None:
        self.replaced.append(id_)

    def last_problem(self) -> str:
        return "no capacity for t3.small in eu-central-1a"
