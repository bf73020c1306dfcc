"""Picks the platform that a stack names; only that one's libraries are imported."""

from __future__ import annotations

from pathlib import Path

from platforms import Platform
from settings import Settings


def choose(given: Settings, *, stack: str, project: Path, project_name: str) -> Platform:
    """Return the platform of a stack. project: folder of the program, under which local state is kept."""
    if given.aws is not None and given.platform == "aws":
        from platforms.aws import AwsPlatform

        return AwsPlatform(given.aws, stack=stack, project_name=project_name)
    from platforms.lxd import ImageRecipe, LxdPlatform
    from rendering import PREBUILT_PACKAGES, prebuilt_scripts

    recipe = ImageRecipe(packages=PREBUILT_PACKAGES, scripts=prebuilt_scripts())
    return LxdPlatform(given.lxd, stack=stack, project=project, recipe=recipe)
