"""Paths of an application with unbuffered responses: server-sent events, long polls, WebSockets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from settings.constraint import matching
from settings.model import Model, reject

# Of a part, and never of the whole application.
StreamingPath = Annotated[
    str,
    matching(
        r"^(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+/?$",
        "a path such as /events, or with a slash at its end all below it, such as /events/, of letters, digits "
        "and any of _ . ~ -",
        max_length=200,
    ),
]


class Streaming(Model):
    """Requests and responses on these paths are not buffered or compressed, and may take longer."""

    paths: list[StreamingPath] = Field(
        min_length=1,
        max_length=20,
        description="as the application sees them: /events is that path, /events/ all below it",
    )
    timeout_s: int = Field(
        default=3600,
        ge=1,
        le=86_400,
        description="time-out of a request on these paths, instead of gateway.request_timeout_s",
    )
    websockets: bool = Field(default=False, description="true: a client may turn its connection into a WebSocket there")

    @model_validator(mode="after")
    def _check_duplicates(self) -> Streaming:
        reject(
            *[
                f"paths: {path}: is named twice; name it once"
                for path in sorted(set(self.paths))
                if self.paths.count(path) > 1
            ]
        )
        return self
