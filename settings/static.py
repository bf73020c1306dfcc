"""Static files of an application, which the balancer serves without asking it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from settings.constraint import RELATIVE_PATH, matching
from settings.model import Model

Folder = Annotated[str, RELATIVE_PATH]
# Of a folder, and never of the whole site.
UrlFolder = Annotated[
    str,
    matching(
        r"^(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+/$",
        "a path between two slashes, such as /static/, of letters, digits and any of _ . ~ -, with no "
        "part that begins with a dot",
        max_length=200,
    ),
]


class Static(Model):
    """Files of the release, served below url_path. Folder and path are part of the release; the ages are not."""

    folder: Folder = Field(description="folder inside source with the files; `build` may make it")
    url_path: UrlFolder = Field(default="/static/", description="URL path that the files are found under")
    max_age_s: int = Field(
        default=300, ge=0, le=31_536_000, description="how long a client may keep a file whose name has no hash"
    )
    immutable_folders: list[Folder] = Field(
        default_factory=list[str],
        max_length=20,
        description="folders inside folder in which each name changes with its content; kept for a year",
    )
