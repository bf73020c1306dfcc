"""The site of a balancer whose proxy is Apache: what templates/apache/site.conf.j2 is filled with. Pure.

Requests are decided on by the rules of mod_rewrite, from first to last, as Nginx's `if` and `return` do. What of a path
is literal is a regular expression by then; what a user writes besides stands in quotes, percent signs escaped.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from rendering.filters import exact_path_regex, path_prefix_regex
from rendering.upstream import ADDRESS, ROUTE, Upstream
from settings.access import Access
from settings.application import APP_PORT
from settings.balancer import Balancer
from settings.header import FORGEABLE, RESERVED_REQUEST_HEADERS
from settings.rewriting import Redirect
from settings.route import virtual_hosts

ACME_PATH = "/.well-known/acme-challenge/"
# On the loopback: for requests whose bodies had no length. How much longer than a server it may take: another is asked.
SPOOL_PORT, SPOOL_PATIENCE_S = 8082, 10
# What a header must not look like to a gateway that reads `_` as `-`.
_OURS = sorted(name for name in {*RESERVED_REQUEST_HEADERS, *map(str.lower, FORGEABLE)} if "-" in name)


@dataclass(frozen=True)
class Location:
    """A <Location>: the path of an application or of its static files. prefix: removed from the path."""

    path: str
    app: Upstream
    is_static: bool = False

    @property
    def target(self) -> str:
        """Return what ProxyPass puts in front of the rest of a path."""
        return f"balancer://app_{self.app.identifier}" + (self.path if not self.app.route.script_name else "")

    @property
    def underscore_variants(self) -> list[str]:
        """Return names of headers that this gateway may take for one of ours, or of the user's."""
        return [] if self.app.protocol == "uwsgi" else [name for each in _OURS for name in _underscore_variants(each)]


@dataclass(frozen=True)
class Host:
    """A <VirtualHost> for each port. names: none for every other name. locations: an inner one behind its outer one."""

    names: Sequence[str]
    apps: Sequence[Upstream]
    locations: Sequence[Location]
    exempt: Sequence[str]

    @property
    def name(self) -> str:
        """Return the ServerName: the first name, or a reserved one (RFC 6761), because it may not be a wildcard."""
        return "wsgi-fleet.invalid" if self.is_wild or not self.names else self.names[0]

    @property
    def aliases(self) -> Sequence[str]:
        """Return the other names."""
        return self.names if self.is_wild else self.names[1:]

    @property
    def is_wild(self) -> bool:
        """Return whether this host has a wildcard, which is a host of its own."""
        return any(name.startswith("*") for name in self.names)

    @property
    def is_whole(self) -> bool:
        """Return whether every path belongs to an application."""
        return any(app.route.path == "/" for app in self.apps)

    @property
    def served_paths_regex(self) -> str:
        """Return a pattern of the paths that belong to an application."""
        paths = "|".join(re.escape(location.path.rstrip("/")) for location in self.locations)
        return rf"^(?:{paths})(?:/|\z)"

    @property
    def websocket_paths_regex(self) -> str:
        """Return a pattern of the paths on which a connection may become a WebSocket; "" if there are none."""
        paths = [
            path for app in self.apps if app.streaming and app.streaming.websockets for path in app.streaming_paths
        ]
        return "|".join(path_prefix_regex(paths))

    @property
    def exempt_over_http(self) -> list[str]:
        """Return the paths that HTTP serves where TLS is; all others lead to HTTPS.

        As with Nginx, a health path of / is the front page first.
        """
        return [pattern for pattern in self.exempt if pattern != r"^/\z"]


def site_context(balancer: Balancer, upstreams: Sequence[Upstream], hostnames: Sequence[str]) -> dict[str, Any]:
    """Return the names of the template -> what they stand for, as rendering.site has them."""
    return {
        "hosts": list(_hosts(balancer, upstreams)),
        "modules": list(_modules(balancer, static=any(app.static for app in upstreams))),
        "networks": list(_networks(balancer.proxy.access)) if balancer.proxy.access else [],
        "https_hosts": [rf"^{re.escape(name).replace(re.escape('*'), '.+')}\z" for name in hostnames],
        "redirect_target": redirect_target,
        "types": "|".join(re.escape(each) for each in ["text/html", *balancer.proxy.compression.types]),
        "acme_path": ACME_PATH,
        "spool_port": SPOOL_PORT,
        "spool_limits": _limits(max(map(_timeout_s, upstreams), default=0) + SPOOL_PATIENCE_S),
        "ports": [80, 443] if balancer.tls else [80],
    }


def server_line(app: Upstream, address: str) -> str:
    """Return the line of an upstream server."""
    limits = _limits(_timeout_s(app))
    if app.streaming and app.streaming.websockets:
        limits += " upgrade=websocket"
    if app.sticky_sessions:
        # Clients see it, and no address.
        limits += f" route={ROUTE if address == ADDRESS else hashlib.sha256(address.encode()).hexdigest()[:12]}"
    return f"    BalancerMember {app.protocol}://{address}:{APP_PORT} {limits}"


def _limits(timeout_s: int) -> str:
    """Return Apache's limits for a server. timeout_s: longest pause between two parts of a response."""
    return f"connectiontimeout=2 timeout={timeout_s} retry=0 disablereuse=on responsefieldsize=32768"


def _timeout_s(app: Upstream) -> int:
    """Return how long a server may take. It has none for a path: the gateway ends a request that takes too long."""
    return max(app.read_timeout_s, app.streaming_timeout_s)


def _hosts(balancer: Balancer, upstreams: Sequence[Upstream]) -> Iterator[Host]:
    """Yield the virtual hosts in the order of the configuration, because Apache uses the first one that matches.

    The default comes first: Apache uses it when no name matches. Exact names come next, then wildcards, the longest
    first.
    """
    by_name = {each.name: each for each in upstreams}
    found: list[Host] = []
    for host in virtual_hosts({each.name: each.route for each in upstreams}):
        apps = [by_name[name] for _, name in host.table]
        exempt = exact_path_regex(list(dict.fromkeys(app.public_health_path for app in apps)))
        if balancer.tls and balancer.tls.acme:
            exempt += path_prefix_regex([ACME_PATH])
        exact = [name for name in host.names if not name.startswith("*")]
        wild = [[name] for name in host.names if name.startswith("*")]
        for names in ([exact] if exact or not host.names else []) + wild:
            found.append(Host(names, apps, sorted(_locations(apps), key=lambda location: len(location.path)), exempt))
    yield from sorted(found, key=lambda host: (bool(host.names), host.is_wild, -len("".join(host.names).split("."))))


def _locations(apps: Sequence[Upstream]) -> Iterator[Location]:
    for app in apps:
        yield Location(app.route.path, app)
        if app.static:
            yield Location(app.route.public(app.static.url_path), app, is_static=True)


def _modules(balancer: Balancer, *, static: bool) -> Iterator[str]:
    """Yield the modules that a site needs beside those of apache2.conf. static: whether an application has files."""
    proxy = balancer.proxy
    if balancer.tls:
        yield from ("ssl", "socache_shmcb", "http2")
    if static:
        yield "allowmethods"
    if balancer.trusted_proxies:
        yield "remoteip"
    if proxy.basic_auth:
        yield from ("auth_basic", "authn_file", "authz_user")
    if proxy.geoip:
        yield "geoip"
    if proxy.status:
        yield "status"


def _networks(access: Access) -> Iterator[tuple[str, str]]:
    """Yield (network, whether it may), the narrowest first: it decides."""
    every = [*((network, "yes") for network in access.allow), *((network, "no") for network in access.deny)]
    yield from sorted(every, key=lambda each: -ipaddress.ip_network(each[0]).prefixlen)


def redirect_target(rule: Redirect) -> str:
    r"""Return a redirect's target as the substitution of a RewriteRule: `%1` for a part, `\%` for a percent sign."""
    text = rule.expand({name: f"\0{number}" for number, name in enumerate(rule.placeholders, 1)})
    target = text.replace("%", r"\%").replace("\0", "%")
    return target if "://" in target.partition("?")[0] else f"%{{ENV:FLEET_SCHEME}}://%{{HTTP_HOST}}{target}"


def _underscore_variants(name: str) -> Iterator[str]:
    """Yield a header's name with some or all of its hyphens as underscores."""
    parts = name.split("-")
    for marks in product("-_", repeat=len(parts) - 1):
        if "_" in marks:
            yield parts[0] + "".join(mark + part for mark, part in zip(marks, parts[1:], strict=True))
