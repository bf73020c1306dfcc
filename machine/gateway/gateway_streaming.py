"""Return by how much longer than others a request may take: the setting `streaming`, which a release has in a file."""

from __future__ import annotations

import json
import os

# Beside this module where the setting is used (rendering/gateway_files.py).
FILE = os.path.join(os.path.dirname(os.path.realpath(__file__)), "streaming.json")  # noqa: PTH118, PTH120


class Streaming:
    """The paths on which responses go out as they are made. No path where the release has no such file."""

    def __init__(self) -> None:
        self.exact: frozenset[str] = frozenset()
        self.folders: tuple[str, ...] = ()
        self.seconds = 0
        if os.path.exists(FILE):  # noqa: PTH110  os alone, to start fast
            with open(FILE) as file:  # noqa: PTH123
                settings = json.load(file)
            self.seconds = settings["extra_s"]
            self.exact = frozenset(settings["paths"])
            self.folders = tuple(path for path in settings["paths"] if path.endswith("/"))

    def extra_s(self, path: str) -> int | None:
        """Return the seconds that a request for a path may take longer than others; None for most of them."""
        return self.seconds if path in self.exact or path.startswith(self.folders) else None


STREAMING = Streaming()
