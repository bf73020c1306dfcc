"""Render the balancer's site for either proxy."""

from __future__ import annotations

from collections.abc import Sequence

from rendering import apache, nginx
from rendering.common import HTTPS_PORT
from rendering.templates import render_template
from rendering.upstream import Upstream
from settings import Balancer

# Names with hashed passwords, where balancer.proxy.basic_auth is set; and the loopback port of balancer.proxy.status.
USERS_FILE = "/etc/wsgi-fleet/users"
STATUS_PORT = 8081


def render_site(
    balancer: Balancer, upstreams: Sequence[Upstream], hostnames: Sequence[str] = (), *, https_port: int = HTTPS_PORT
) -> str:
    """Return the proxy's site: requests go to the member of their application that has fewest.

    They get 503 where there is no member. hostnames: of the site, exact ones first. https_port: by which clients reach
    port 443 of the balancer. Where TLS is, HTTP is led there: to the name that was asked for, else to the first.
    """
    values = {
        "balancer": balancer,
        "apps": upstreams,
        "hostnames": hostnames,
        "https_port": https_port,
        "users_file": USERS_FILE,
        "status_port": STATUS_PORT,
        "forgeable": balancer.proxy.request_headers.forgeable,
    }
    if balancer.proxy.kind == "apache":
        return render_template("apache/site.conf.j2", **values, **apache.site_context(balancer, upstreams, hostnames))
    return render_template("nginx/site.conf.j2", **values, **nginx.site_context(balancer, upstreams))
