"""Render the balancer's site for either proxy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rendering import apache, nginx
from rendering.common import HTTPS_PORT
from rendering.error_pages import FOLDER
from rendering.templates import render_template
from rendering.upstream import ADDRESS, MARK, NO_SERVER, Upstream
from settings.balancer import Balancer
from settings.operating_system import DEFAULT_OS, OperatingSystem

# Names with hashed passwords, where balancer.proxy.basic_auth is set; and the loopback port of balancer.proxy.status.
USERS_FILE = "/etc/wsgi-fleet/users"
STATUS_PORT = 8081


def render_site(
    balancer: Balancer,
    upstreams: Sequence[Upstream],
    hostnames: Sequence[str] = (),
    *,
    https_port: int = HTTPS_PORT,
    system: OperatingSystem = DEFAULT_OS,
) -> dict[str, Any]:
    """Return the proxy's site as machine/balancer/site_state.py reads it (Site there).

    A request goes to its application's server with the fewest requests, or gets 503 if there is none. The lines of
    upstream servers come apart from the rest, so that the balancer leaves some out without parsing the site.
    hostnames: of the site, exact ones first. https_port: by which clients reach port 443 of the balancer. With TLS,
    HTTP redirects there: to the requested name, else to the first. system: of the balancer.
    """
    values = {
        "balancer": balancer,
        "apps": upstreams,
        "hostnames": hostnames,
        "https_port": https_port,
        "system": system,
        "users_file": USERS_FILE,
        "status_port": STATUS_PORT,
        "forgeable": balancer.proxy.request_headers.forgeable,
        "errors": FOLDER,
        # What rendering/server_site.py has otherwise.
        "listen": "",
        "target_health_path": "",
        "slot_folders": (),
    }
    if balancer.proxy.kind == "apache":
        context, server_line = apache.site_context(balancer, upstreams, hostnames), apache.server_line
    else:
        context, server_line = nginx.site_context(balancer, upstreams), nginx.server_line
    parts = render_template(f"{balancer.proxy.kind}/site.conf.j2", **values, **context).split(MARK)
    return {
        "parts": [{"servers_of" if number % 2 else "text": part} for number, part in enumerate(parts)],
        "upstreams": {
            f"app_{app.identifier}": {
                "servers": {address: server_line(app, address) for address in app.addresses},
                "protocol": app.protocol,
                "health_path": app.health_path,
                "health_host": app.health_host,
                "probe": app.probe,
                **_group_of(app, server_line),
            }
            for app in upstreams
        },
        "https": balancer.tls is not None,
    }


def _group_of(app: Upstream, server_line: Callable[[Upstream, str], str]) -> dict[str, Any]:
    """Return the group that has the servers, as Upstream of site_state.py has it; nothing where there is none."""
    if not app.group:
        return {}
    return {
        "group": {
            "name": app.group,
            "line": server_line(app, ADDRESS),
            "members": {},
            "no_server": server_line(app, NO_SERVER),
        }
    }
