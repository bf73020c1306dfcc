"""Platform lxd: the fleet in system containers on this machine.

platform.py and resources.py register the resources; all else is the work itself and the operator's side.
"""

from typing import TYPE_CHECKING

from platforms.lxd.recipe import ImageFile, ImageRecipe

if TYPE_CHECKING:
    from platforms.lxd.platform import LxdPlatform

__all__ = ["ImageFile", "ImageRecipe", "LxdPlatform"]


def __getattr__(name: str) -> object:
    """Load LxdPlatform late: pulumi takes a second, and the operator's side does not need it."""
    if name == "LxdPlatform":
        from platforms.lxd.platform import LxdPlatform  # noqa: PLC0415

        return LxdPlatform
    raise AttributeError(name)
