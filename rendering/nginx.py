"""Compute what Nginx's site needs besides the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rendering.filters import exact_path_regex, path_prefix_regex
from rendering.upstream import Upstream
from settings.application import APP_PORT
from settings.balancer import Balancer
from settings.route import virtual_hosts


def site_context(balancer: Balancer, upstreams: Sequence[Upstream]) -> dict[str, Any]:
    """Return the variables of templates/nginx/site.conf.j2 that come from routes and access rules."""
    by_name = {each.name: each for each in upstreams}
    hosts = [
        {"names": host.names, "apps": [by_name[name] for _, name in host.table], "is_whole": "/" in dict(host.table)}
        for host in virtual_hosts({each.name: each.route for each in upstreams})
    ]
    return {"hosts": hosts, "exempt": exempt_path_patterns(balancer, hosts)}


def server_line(app: Upstream, address: str) -> str:
    """Return the line of an upstream server; twice where it is the only one.

    Nginx tries each line once. So a GET whose process was ended by another request is tried in another process.
    """
    line = f"    server {address}:{APP_PORT} max_fails=0 max_conns=2048;"
    return f"{line}\n{line}" if app.is_one_server else line


def exempt_path_patterns(balancer: Balancer, hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return patterns of `$server_name$uri` for health paths and for Nginx's own paths."""
    patterns: list[str] = []
    for host in hosts:
        paths = path_prefix_regex(["/.error/"]) + exact_path_regex([app.public_health_path for app in host["apps"]])
        if balancer.tls and balancer.tls.acme:
            paths += path_prefix_regex(["/.well-known/acme-challenge/"])
        patterns += [_pattern_of_host(host, path) for path in paths]
    return patterns


def exempt_path_pattern(host: Mapping[str, Any], path: str) -> str:
    """Return the same pattern for one more path of a host."""
    return _pattern_of_host(host, exact_path_regex([path])[0])


def _pattern_of_host(host: Mapping[str, Any], path_regex: str) -> str:
    # Nginx calls a server by the first of its names.
    name = re.escape(host["names"][0] if host["names"] else "_")
    return f"^{name}{path_regex.removeprefix('^')}"
