"""The user's own pages for errors of the balancer itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from settings.model import Model

PAGE_BYTES = 65_536


def _read_page(value: str, info: ValidationInfo) -> str:
    """Return the text of the page that a stack file names. Without a project, value is the text."""
    if not info.context or "project" not in info.context:
        return value
    project: Path = info.context["project"].resolve()
    context = json.dumps(value)
    try:
        file = (project / value).resolve()
        content = file.read_bytes() if file.is_relative_to(project) and file.is_file() else None
    except (OSError, ValueError, RuntimeError):
        # A name that no file can have, a loop of symlinks, or a file that is not for this user.
        content = None
    if content is None:
        raise ValueError(f"{context}: no such file in the project; write its path from the project's folder")
    if len(content) > PAGE_BYTES:
        raise ValueError(f"{context}: has {len(content)} bytes, of {PAGE_BYTES} at most; link to what is large")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{context}: is no text in UTF-8; save the file in UTF-8") from None


Page = Annotated[str, AfterValidator(_read_page)]


class ErrorPages(Model):
    """HTML files of the project. Clients that ask for JSON still get JSON. A value here is the file's text."""

    maintenance: Page | None = Field(default=None, description="of `./fleet maintenance on` (503)")
    bad_gateway: Page | None = Field(default=None, description="502: a server broke off, or its response is none")
    service_unavailable: Page | None = Field(default=None, description="503: no server could take the request")
    gateway_timeout: Page | None = Field(default=None, description="504: a server took too long")
