"""The platforms as a stack file names them, each with its block. platforms/<name>/ is what makes machines of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from settings.aws import Aws
from settings.lxd import Lxd
from settings.platform_block import MachineCapacity, PlatformBlock

__all__ = ["PLATFORMS", "Aws", "Lxd", "MachineCapacity", "PlatformName"]

PLATFORMS: Mapping[str, type[PlatformBlock]] = {"lxd": Lxd, "aws": Aws}
if TYPE_CHECKING:
    PlatformName = str
else:
    PlatformName = Literal[tuple(PLATFORMS)]
