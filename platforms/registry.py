"""Find a platform by its name, which is that of its package: platforms/<name>/."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, cast

import platforms
from platforms import Platform

if TYPE_CHECKING:
    from settings.stack import Settings


def names() -> list[str]:
    """Return the names of all platforms."""
    return sorted(module.name for module in pkgutil.iter_modules(platforms.__path__) if module.ispkg)


def create(settings: Settings, *, stack: str, project: Path, project_name: str) -> Platform:
    """Return the platform of a stack, from its own platform.py, so that no other platform's libraries are imported.

    project: the folder of the program, under which local state is kept.
    """
    module = importlib.import_module(f"platforms.{settings.platform}.platform")
    return cast("Platform", module.create(settings, stack=stack, project=project, project_name=project_name))
