"""Render the Nginx of a server behind a load balancer: the site of its one application, for the processes of a slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateways import GATEWAYS
from rendering import error_pages, nginx
from rendering.templates import read_file, render_template
from rendering.upstream import MARK, Upstream
from settings.application import APP_PORT, App
from settings.balancer import Balancer

# Path of the load balancer's health checks. Clients cannot use it, because their requests have X-Forwarded-For.
TARGET_HEALTH_PATH = "/.wsgi-fleet/health"
# In the folder of a release.
ERRORS = "errors"


@dataclass(frozen=True)
class Front:
    """What a release must know of the load balancer in front.

    name: of the application. balancer: its settings. networks: from which it connects, so its word on a client's
    address counts. health_host: by which name the application is asked for its health path.
    """

    name: str
    balancer: Balancer
    networks: Sequence[str]
    health_host: str


def error_page_files(front: Front) -> dict[str, str]:
    """Return the pages of the proxy's own errors: path in the release's folder -> text."""
    every = error_pages.error_page_files(front.balancer.error_pages)
    return {
        f"{ERRORS}/{path.rpartition('/')[2]}": text
        for path, (_, text) in every.items()
        if path.startswith(f"{error_pages.FOLDER}/") and "maintenance" not in path
    }


def server_site(app: App, front: Front, slot: str, ports: Sequence[int]) -> str:
    """Return the whole configuration of a server's Nginx while a slot serves.

    It is the site of a balancer with this application alone, so headers, limits and routes within the application are
    the same; the load balancer in front has chosen the application.
    """
    balancer, here = _as_behind_a_proxy(front), f"/srv/app/slots/{slot}"
    upstream = Upstream(
        front.name,
        [f"127.0.0.1:{port}" for port in ports],
        app.gateway.request_timeout_s,
        app.health_path,
        app,
        GATEWAYS[app.gateway.kind].protocol,
        app.static,
        app.streaming,
        front.health_host,
    )
    host = {"names": [], "apps": [upstream], "is_whole": app.path == "/"}
    text = render_template(
        "nginx/site.conf.j2",
        balancer=balancer,
        apps=[upstream],
        hosts=[host],
        hostnames=balancer.hostnames,
        listen=f"{APP_PORT} default_server backlog=4096",
        errors=f"{here}/{ERRORS}",
        forgeable=balancer.proxy.request_headers.forgeable,
        exempt=[*nginx.exempt_path_patterns(balancer, [host]), nginx.exempt_path_pattern(host, TARGET_HEALTH_PATH)],
        target_health_path=TARGET_HEALTH_PATH,
        https=front.balancer.https,
        slot_folders=_folders_of_static_files(app, slot),
    )
    # What one request did says nothing of the process.
    servers = "\n".join(f"    server {address} max_fails=0;" for address in upstream.addresses)
    before, _, after = text.split(MARK)
    return render_template(
        "nginx/server.conf.j2",
        slot=slot,
        drain_timeout_s=app.drain_timeout_s,
        shared=_shared_settings(),
        site=before + servers + after,
    )


def _as_behind_a_proxy(front: Front) -> Balancer:
    """Return the settings of a balancer that does what is left to a server: no TLS, and a proxy in front."""
    given = front.balancer
    headers = given.proxy.response_headers
    if given.https and given.alb.hsts_max_age_s:
        # Only over HTTPS (RFC 6797 7.2), which is all that the load balancer forwards then.
        sent = {"Strict-Transport-Security": f"max-age={given.alb.hsts_max_age_s}"}
        headers = headers.model_copy(update={"set": headers.set | sent})
    proxy = given.proxy.model_copy(update={"response_headers": headers})
    return given.model_copy(update={"trusted_proxies": list(front.networks), "proxy": proxy})


def _folders_of_static_files(app: App, slot: str) -> list[str]:
    """Return where static files are looked for: in the release that serves, in the other slot's, in the staged one.

    While a release moves over the fleet, a page of either release may ask any server for its files.
    """
    slots = [slot, *(other for other in ("blue", "green", "proof") if other != slot)]
    return [f"/{each}/code/{app.static.folder}" for each in slots] if app.static else []


def _shared_settings() -> str:
    """Return what every Nginx of ours has beside its site, from the file of the balancer."""
    text = read_file("templates/nginx/nginx.conf")
    return text.partition("keepalive_requests 1000;\n")[2].partition("    log_format")[0].rstrip("\n")
