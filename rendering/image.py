"""Render what a machine boots with that becomes the image of others."""

from __future__ import annotations

from rendering.common import PREBUILT_PACKAGES, prebuilt_scripts
from rendering.paths import SCRIPTS
from rendering.templates import read_file
from rendering.user_data import cloud_config


def image_user_data() -> str:
    """Return the document of a machine that installs what others would install at boot, and switches itself off.

    It is done when the machine is off. A machine that failed stays on, and its console has a line with BAKE_FAILED.
    """
    files = {f"{SCRIPTS}/{name}": read_file(f"templates/scripts/{name}") for name in ("install-packages", "bake-image")}
    files |= {f"{SCRIPTS}/image-{number}": text for number, text in enumerate(prebuilt_scripts())}
    command = [f"{SCRIPTS}/bake-image", *PREBUILT_PACKAGES]
    return cloud_config({path: ("0755", text) for path, text in files.items()}, command)


# What bake-image prints to the console when it fails.
BAKE_FAILED = "wsgi-fleet: baking the image failed"
