"""Headers that the balancer adds to requests and responses, or removes. Names and values are safe in both."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from settings.constraint import matching
from settings.model import Model, reject

# What a value may name. None of it can contain a line end.
VARIABLES = ("client_address", "country", "host", "request_id", "scheme")
VARIABLE = re.compile(r"\$([A-Za-z0-9_]*)")
# RFC 9110 7.6.1 and RFC 9112: they are of one connection, or say where a message ends.
HOP_BY_HOP = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
     "te", "trailer", "transfer-encoding", "upgrade"}
)  # fmt: skip
# What the application trusts the balancer for; `proxy` would become HTTP_PROXY (httpoxy).
RESERVED_REQUEST_HEADERS = frozenset(
    {"content-type", "host", "if-match", "proxy", "x-country", "x-forwarded-for", "x-forwarded-host",
     "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto", "x-real-ip", "x-remote-user", "x-request-id"}
)  # fmt: skip
# What a client may pretend to be a proxy, another client, another path or a user by: some applications and frameworks
# believe these. They go no further.
FORGEABLE = (
    "Client-IP", "Forwarded", "Front-End-Https", "Remote-User", "True-Client-IP", "X-Client-IP", "X-Cluster-Client-IP",
    "X-Forwarded", "X-Forwarded-By", "X-Forwarded-Path", "X-Forwarded-Scheme", "X-Forwarded-Server",
    "X-Forwarded-Ssl", "X-Forwarded-Uri", "X-Forwarded-User", "X-Host", "X-Original-Host", "X-Original-URL",
    "X-Rewrite-URL", "X-Script-Name", "X-Url-Scheme",
)  # fmt: skip
# What this product sets itself, or what says how to read the response.
RESERVED_RESPONSE_HEADERS = frozenset(
    {"content-encoding", "content-range", "content-type", "date", "etag", "last-modified", "location", "retry-after",
     "server", "set-cookie", "strict-transport-security", "vary", "www-authenticate", "x-accel-buffering",
     "x-accel-charset", "x-accel-expires", "x-accel-limit-rate", "x-accel-redirect", "x-cache", "x-request-id"}
)  # fmt: skip


def _value(value: str) -> str:
    for name in VARIABLE.findall(value):
        if name not in VARIABLES:
            allowed = ", ".join(f"${each}" for each in VARIABLES)
            raise ValueError(f"{json.dumps(value)}: ${name} is unknown; after a $ write one of {allowed}")
    return value


HeaderName = Annotated[
    str,
    matching(
        r"^[A-Za-z][A-Za-z0-9-]*$",
        "the name of a header, such as X-Frame-Options, of letters, digits and hyphens",
        max_length=64,
    ),
]
# Printable ASCII without a backslash, not empty, no blank at either end: one line for every reader.
HeaderValue = Annotated[
    str,
    matching(
        r"^[!-\[\]-~]([ -\[\]-~]*[!-\[\]-~])?$",
        "a line of ASCII without backslashes, and without blanks at its ends",
        max_length=4000,
    ),
    AfterValidator(_value),
]


class Headers(Model):
    """Changes to the headers of one direction. A header that is set replaces what came under its name."""

    set: dict[HeaderName, HeaderValue] = Field(default_factory=dict[str, str], description="name -> value")
    remove: list[HeaderName] = Field(default_factory=list[str], description="names of headers that go no further")

    @model_validator(mode="after")
    def _check_duplicates(self) -> Headers:
        names = [name.lower() for name in (*self.set, *self.remove)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            reject(*[f"set, remove: {name}: is named twice (case makes no difference); name it once" for name in twice])
        return self

    def uses(self, variable: str) -> bool:
        """Return whether a value names this variable."""
        return any(variable in VARIABLE.findall(value) for value in self.set.values())

    def reserved_names(self, reserved: frozenset[str]) -> list[str]:
        """Return the names that must be left alone, each with the reason."""
        found: list[str] = []
        for place, name in (*(("set", name) for name in self.set), *(("remove", name) for name in self.remove)):
            if name.lower() in HOP_BY_HOP:
                found.append(f"{place}.{name}: is of one connection and goes no further anyway; remove it here")
            elif name.lower() in reserved:
                found.append(f"{place}.{name}: is the balancer's own, or says how to read the rest; remove it here")
        return found


class RequestHeaders(Headers):
    """Of requests, before the application sees them."""

    @model_validator(mode="after")
    def _check_reserved(self) -> RequestHeaders:
        reject(*self.reserved_names(RESERVED_REQUEST_HEADERS))
        return self

    @property
    def forgeable(self) -> list[str]:
        """Return FORGEABLE without the headers that are set here."""
        set_names = {name.lower() for name in self.set}
        return [name for name in FORGEABLE if name.lower() not in set_names]


class ResponseHeaders(Headers):
    """Headers of responses to clients, including those of Nginx itself."""

    @model_validator(mode="after")
    def _check_reserved(self) -> ResponseHeaders:
        reject(*self.reserved_names(RESERVED_RESPONSE_HEADERS))
        return self
