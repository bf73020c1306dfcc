"""The image of EC2 machines: what Debian calls it, and whether an image boots them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from settings.operating_system import DEFAULT_OS, OperatingSystem
from settings.size import Architecture

# Debian's account on AWS (wiki.debian.org/Cloud/AmazonEC2Image).
DEBIAN_OWNER = "136693071363"
# As EC2 calls them.
EC2_ARCHITECTURES: Mapping[Architecture, str] = {"amd64": "x86_64", "arm64": "arm64"}


@dataclass(frozen=True)
class ImageKind:
    """What the machines of a stack boot."""

    system: OperatingSystem
    architecture: Architecture

    @property
    def name_pattern(self) -> str:
        """Return what Debian's images of it are called, as a filter of EC2."""
        return f"{self.system.name}-{self.architecture}-*"

    def find_problem(self, image: Mapping[str, Any]) -> str:
        """Return why an image cannot be booted; "" where it can. image: Architecture, OwnerId and Name as EC2 has them.

        Only Debian's own is judged by its name: a company may share its own.
        """
        name = image.get("Name", "")
        if image["Architecture"] != EC2_ARCHITECTURES[self.architecture]:
            return f"it is for {image['Architecture']}, and the instance types here are {self.architecture}"
        if image["OwnerId"] == DEBIAN_OWNER and not name.startswith(self.name_pattern.removesuffix("*")):
            return f"it is {name}, and `os` is {self.system.name}"
        return ""


DEFAULT_IMAGE = ImageKind(DEFAULT_OS, "arm64")
