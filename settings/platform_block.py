"""The base of what a stack file says of a platform, for platforms/<name>/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from settings.model import Model
from settings.size import Size


@dataclass(frozen=True)
class MachineCapacity:
    """What an app server has. setting: where that is set."""

    cpus: int
    memory_mib: int
    setting: str


class PlatformBlock(Model):
    """A platform's own block of the stack file. size: settings of Size that it uses. cpus: the one with the CPUs."""

    size: ClassVar[frozenset[str]]
    cpus: ClassVar[str]

    @staticmethod
    def capacity(size: Size) -> MachineCapacity | None:
        """Return what a machine of that size has; None where it is not known here."""
        raise NotImplementedError
