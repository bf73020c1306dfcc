"""The settings of a stack: typed and frozen. A value of these types is valid; nothing checks it again.

The types of whole stack files are loaded when they are first asked for: that takes a third of a second, and providers
and ./fleet need a few constants alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from settings.stack import (
        App,
        Aws,
        Balancer,
        Fleet,
        Gateway,
        Lxd,
        Monitoring,
        Rollout,
        Schedule,
        SecurityUpdates,
        Settings,
        Size,
        Worker,
    )

__all__ = [
    "App",
    "Aws",
    "Balancer",
    "Fleet",
    "Gateway",
    "Lxd",
    "Monitoring",
    "Rollout",
    "Schedule",
    "SecurityUpdates",
    "Settings",
    "Size",
    "Worker",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=None)
    from settings import stack  # noqa: PLC0415

    return getattr(stack, name)
