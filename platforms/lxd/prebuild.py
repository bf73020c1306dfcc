"""`python -m platforms.lxd.prebuild STACK`: build the machine image of a stack before its first `pulumi up`.

`make setup` runs it beside the build of the Pulumi command line. An `up` that comes earlier waits for its end.
"""

from __future__ import annotations

import sys
from pathlib import Path

from platforms.lxd import build
from platforms.lxd.client import LxdError
from platforms.lxd.platform import image_recipe
from settings.stack_file import SettingsError, read

PROJECT = Path(__file__).resolve().parents[2]


def main(stack: str) -> None:
    """Build the image where it is missing. Exits with a message if the stack has no image, or it cannot be built."""
    try:
        settings = read(PROJECT / "stacks" / f"Pulumi.{stack}.yaml", project=PROJECT)
        if settings.platform != "lxd":
            return
        recipe = image_recipe(settings)
        with build.lock_images():
            build.ensure(recipe, recipe.digest(), print)
    except (OSError, SettingsError, LxdError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1])
