"""Operating systems of machines, with all differences between them. No other module distinguishes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class OperatingSystem:
    """A release of Debian.

    name: as a stack file has it, and as names of images on AWS begin. suite: its name in Debian's archive. python:
    version of its `python3`, which runs applications; it stays as long as the release lives. http2_directive: its Nginx
    (1.25.1 and newer) has `http2 on`.
    """

    name: str
    suite: str
    python: str
    http2_directive: bool

    @property
    def title(self) -> str:
        """Return the name for people: Debian 13."""
        return self.name.title().replace("-", " ")


# The newest first.
OPERATING_SYSTEMS = {
    each.name: each
    for each in (
        OperatingSystem("debian-13", suite="trixie", python="3.13.5", http2_directive=True),
        OperatingSystem("debian-12", suite="bookworm", python="3.11.2", http2_directive=False),
    )
}
DEFAULT_OS = OPERATING_SYSTEMS["debian-13"]
if TYPE_CHECKING:
    OsName = str
else:
    OsName = Literal[tuple(OPERATING_SYSTEMS)]
