"""An application as the balancer sees it, whichever proxy that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rendering.paths import site_identifier
from settings.limits import read_timeout_s
from settings.route import Route
from settings.static import Static
from settings.streaming import Streaming

EVERY_REQUEST = Route()
# Not part of any text of a stack file.
MARK = "\0"
# Placeholders that the balancer replaces in the line of a group's server (machine/balancer/group_members.py).
ADDRESS, ROUTE = "@ADDRESS@", "@ROUTE@"
# Of the balancer itself: nothing listens there on the port of app servers.
NO_SERVER = "127.0.0.1"
# How often one request is tried at most.
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Upstream:
    """addresses: private addresses of the servers that take requests now.

    health_path: as the application sees it; it responds during maintenance as well. health_host: the name by
    which its servers are asked for it. route: which requests it gets.
    protocol: what its gateway speaks. static: files that it is not asked for.
    streaming: paths on which requests and responses are passed on as they come.
    sticky_sessions: whether a client gets a cookie by which it reaches the same server again.
    group: the Auto Scaling group that has the servers, "" where their number is fixed. max_servers: that it may have.
    """

    name: str
    addresses: Sequence[str]
    request_timeout_s: int
    health_path: str
    route: Route = EVERY_REQUEST
    protocol: Literal["uwsgi", "http"] = "uwsgi"
    static: Static | None = None
    streaming: Streaming | None = None
    health_host: str = "localhost"
    sticky_sessions: bool = False
    group: str = ""
    max_servers: int = 0

    @property
    def has_servers(self) -> bool:
        """Return whether there are servers, or a group that has some."""
        return bool(self.addresses or self.group)

    @property
    def is_one_server(self) -> bool:
        """Return whether there is one server and never another."""
        return not self.group and len(self.addresses) == 1

    @property
    def attempts(self) -> int:
        """Return how many servers the proxy tries for one request that none accepts."""
        return min(self.max_servers if self.group else len(self.addresses), MAX_ATTEMPTS)

    @property
    def nginx_attempts(self) -> int:
        """Return how often Nginx tries one request: a single server as well, where another process may respond."""
        return 2 if self.is_one_server else self.attempts

    @property
    def identifier(self) -> str:
        """Return the upstream's name inside the site."""
        return site_identifier(self.name)

    @property
    def sticky_cookie(self) -> str:
        """Return the name of the cookie of sticky sessions: one for each application, which may share a host."""
        return f"wsgi_fleet_{self.identifier}"

    @property
    def prefix(self) -> Literal["uwsgi", "proxy"]:
        """Return what Nginx's directives for this protocol begin with: `uwsgi_pass`, `proxy_pass`."""
        return "uwsgi" if self.protocol == "uwsgi" else "proxy"

    @property
    def public_health_path(self) -> str:
        """Return the path by which clients reach the health path."""
        return self.route.public(self.health_path)

    @property
    def read_timeout_s(self) -> int:
        """Return the proxy's timeout: longer than the gateway's own limit, so that the gateway decides."""
        return read_timeout_s(self.request_timeout_s)

    @property
    def streaming_paths(self) -> list[str]:
        """Return the paths of streaming by which clients reach them."""
        return [self.route.public(path) for path in (self.streaming.paths if self.streaming else ())]

    @property
    def streaming_timeout_s(self) -> int:
        """Return the same for paths of streaming."""
        return read_timeout_s(self.streaming.timeout_s) if self.streaming else 0

    @property
    def servers_mark(self) -> str:
        """Return the mark in a rendered site for the lines of the servers; rendering/site.py splits it there."""
        return f"{MARK}app_{self.identifier}{MARK}"

    @property
    def probe(self) -> str:
        """Return the probe for proxy_site.py: HOST/PATH, with no host where the application has every one."""
        # Below a wildcard any name does.
        host = self.route.hosts[0].replace("*", "wsgi-fleet") if self.route.hosts else ""
        return f"{host}{self.public_health_path}"
