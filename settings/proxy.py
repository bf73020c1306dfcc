"""Features of the balancer's reverse proxy besides load balancing. All except compression are off by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator
from pydantic.types import StringConstraints

from settings.access import Access, BasicAuth
from settings.constraint import NO_NUL, matching
from settings.header import RequestHeaders, ResponseHeaders
from settings.model import Model, reject
from settings.rewriting import Redirect, Rewrite, loops
from settings.route import virtual_hosts

if TYPE_CHECKING:
    from settings.stack import Settings

# RFC 6838 4.2.
MimeType = Annotated[
    str,
    matching(
        r"^[a-z0-9][a-z0-9!#&^_.+-]*/[a-z0-9][a-z0-9!#&^_.+-]*$",
        "a media type such as text/css, of small letters, digits and any of ! # & _ . + - or a caret",
    ),
]
# As templates/nginx/nginx.conf has it for every site.
TYPES = ("text/css", "text/plain", "application/javascript", "application/json", "image/svg+xml")
ContentType = Annotated[
    str,
    matching(
        r"^[a-z]+/[a-z0-9.+-]+(; charset=[a-z0-9-]+)?$",
        "a media type such as text/html, of small letters, digits and any of . + -, with a charset if it has one",
        max_length=100,
    ),
]
# No character is special in Nginx; memcached's keys contain neither blanks nor control characters.
KeyPrefix = Annotated[
    str, matching(r"^[A-Za-z0-9:._-]*$", "letters, digits and any of : . _ -, such as shop:", max_length=100)
]
Endpoint = Annotated[
    str,
    matching(
        r"^[a-z0-9.-]+:[0-9]{1,5}$",
        "host:port, such as 10.20.0.9:11211, the host of small letters, digits, dots and hyphens",
        max_length=260,
    ),
]
SNIPPET_BYTES = 65_536


class Compression(Model):
    """gzip, for clients that ask for it."""

    enabled: bool = Field(default=True, description="false: nothing is compressed")
    level: int = Field(default=5, ge=1, le=9, description="1 is fast, 9 is small")
    min_bytes: int = Field(default=1024, ge=0, le=1_048_576, description="shorter responses are left as they are")
    types: list[MimeType] = Field(
        default=list(TYPES), description="media types that are compressed; text/html always is"
    )
    compress_authenticated: bool = Field(
        default=True,
        description="false: over HTTPS, responses to requests with Cookie or Authorization are not (BREACH)",
    )

    @property
    def is_custom(self) -> bool:
        """Return whether it is other than nginx.conf has it for every site."""
        return self != Compression()


class Cache(Model):
    """Responses cached on the balancer for a moment, for all equal requests without credentials."""

    valid_s: int = Field(default=1, ge=1, le=3600, description="for how long, unless the response's own headers say")
    max_mib: int = Field(default=128, ge=1, le=65_536, description="disk that they may take")


class Memcached(Model):
    """Pages that the application wrote into memcached. It serves missing pages itself."""

    server: Endpoint = Field(description="host:port of the memcached server, yours")
    path: Annotated[
        str,
        matching(
            r"^/[A-Za-z0-9_./~-]+/$",
            "a path between two slashes, such as /pages/, of letters, digits and any of _ . ~ / -",
            max_length=200,
        ),
    ] = Field(description="memcached serves pages below it, such as /pages/")
    key_prefix: KeyPrefix = Field(default="", description="the key is this and the path: shop:/pages/a")
    content_type: ContentType = Field(default="text/html; charset=utf-8", description="of what memcached holds")

    @property
    def port(self) -> int:
        """Return the TCP port of the server."""
        return int(self.server.rpartition(":")[2])

    @model_validator(mode="after")
    def _check_port(self) -> Memcached:
        if not 1 <= self.port <= 65_535:
            reject(f"server: {self.server}: should end with a port from 1 to 65535; correct it")
        return self


class Snippet(Model):
    """Text of the proxy's own language, where the settings do not reach. It is read before it is taken."""

    context: Literal["http", "server", "location"] = Field(
        description="beside the server blocks, in them, or where requests go to the application"
    )
    text: Annotated[str, NO_NUL, StringConstraints(min_length=1, max_length=SNIPPET_BYTES)] | None = Field(
        default=None, description="the text itself"
    )
    # settings/stack_file.py reads it and puts what it holds into text.
    file: (
        Annotated[
            str,
            matching(
                r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$",
                "a file of the project, such as nginx/extra.conf, of letters, digits and any of _ . / -",
                max_length=200,
            ),
        ]
        | None
    ) = Field(default=None, description="or a file of the project that contains it")

    @model_validator(mode="after")
    def _check_source(self) -> Snippet:
        if self.text is None:
            reject("text: missing; set the text, or the file of the project that contains it")
        return self


class Proxy(Model):
    """One block for each thing that a reverse proxy is for."""

    kind: Literal["nginx", "apache"] = Field(
        default="nginx", description="the program in front; a change replaces the balancer"
    )
    compression: Compression = Field(default=Compression(), description="gzip")
    cache: Cache | None = Field(default=None, description="responses cached for a moment, for all equal requests")
    basic_auth: BasicAuth | None = Field(default=None, description="a name and a password for all of the site")
    access: Access | None = Field(default=None, description="networks and countries with access to the site")
    canonical_host: bool = Field(default=False, description="redirects other names to the first of hostnames (308)")
    redirects: list[Redirect] = Field(
        default_factory=list[Redirect], description="where clients are led; the first that matches", max_length=1000
    )
    rewrites: list[Rewrite] = Field(
        default_factory=list[Rewrite], description="what the application sees instead; the first that matches",
        max_length=1000,
    )  # fmt: skip
    request_headers: RequestHeaders = Field(default=RequestHeaders(), description="before the application sees them")
    response_headers: ResponseHeaders = Field(default=ResponseHeaders(), description="before the client sees them")
    geoip: bool = Field(default=False, description="the application gets the client's country as X-Country")
    memcached: Memcached | None = Field(default=None, description="pages that your application writes into memcached")
    status: bool = Field(default=False, description="its counters, at http://127.0.0.1:8081/ on the balancer alone")
    snippets: list[Snippet] = Field(
        default_factory=list[Snippet], description="the proxy's own language, tested before use", max_length=20
    )

    @property
    def needs_own_http_block(self) -> bool:
        """Return whether anything here was set but the kind. If not, the site is what it is without this block."""
        return self != Proxy(kind=self.kind)

    @model_validator(mode="after")
    def _check_geoip(self) -> Proxy:
        uses = {
            "access.deny_countries": bool(self.access and self.access.deny_countries),
            "request_headers.set": self.request_headers.uses("country"),
            "response_headers.set": self.response_headers.uses("country"),
        }
        if not self.geoip and (named := [path for path, is_so in uses.items() if is_so]):
            reject(f"geoip: false: should be true, for {', '.join(named)} asks for the country; set it")
        return self


def problems(settings: Settings) -> list[str]:
    """Return which settings of the proxy contradict the rest of a stack, each with its key below balancer.proxy."""
    balancer = settings.balancer
    proxy = balancer.proxy
    # On lxd the balancer is published on this machine's loopback alone, and reaches what the machine reaches.
    aws = settings.aws if settings.platform == "aws" else None
    found = [f"redirects: {loop}" for loop in loops(proxy.redirects, settings.hostnames)]
    if proxy.canonical_host and not balancer.hostnames:
        found.append("canonical_host: true: redirects to the first of balancer.hostnames, which is empty; set it")
    if proxy.canonical_host and (named := sorted(name for name, app in settings.apps.items() if app.hosts)):
        hosts = f"the hosts of apps.{', apps.'.join(named)}"
        found.append(f"canonical_host: true: would lead clients away from {hosts}; remove one of both")
    if proxy.memcached:
        owners = {host.owner(proxy.memcached.path.rstrip("/")) for host in virtual_hosts(settings.apps) if host.table}
        found += [
            f"memcached.path: {proxy.memcached.path}: "
            + (f"belongs to apps.{name}, whose path is {settings.apps[name].path}" if name else "nothing serves it")
            + "; an application at / must serve pages that memcached lacks"
            for name in sorted(owners, key=str)
            if name is None or settings.apps[name].path != "/"
        ]
    if proxy.basic_auth and aws and not (balancer.tls or balancer.trusted_proxies):
        found.append(
            "basic_auth: passwords would cross the internet in plain text; set balancer.tls, or name in "
            "balancer.trusted_proxies what ends TLS in front"
        )
    if proxy.basic_auth or proxy.access:
        found += [
            f"{'basic_auth' if proxy.basic_auth else 'access'}: apps.{name}.health_path is /, and health paths are for "
            "everyone: that would leave the front page open; give it a path of its own"
            for name, app in settings.apps.items()
            if app.health_path == "/"
        ]
    if proxy.memcached and aws and proxy.memcached.port not in (80, 443, *aws.outbound_ports):
        found.append(
            f"memcached.server: {proxy.memcached.server}: add {proxy.memcached.port} to aws.outbound_ports, else the "
            "balancer may not connect to it"
        )
    return found
