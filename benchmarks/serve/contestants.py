"""Who is measured: the gateways of this product, and what people run instead, as their documentation starts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CPUS, MEMORY_MIB = 2, 1024
# Where gateways that are no part of the product listen.
PORT = 8100
PACKAGES = ("gunicorn==27.0.1", "granian==2.8.7", "pyuwsgi==2.0.30.post1")

# The lines of Nginx in front of them. Gunicorn's own (docs.gunicorn.org, deploy) open a connection for each request.
GUNICORNS_OWN = """\
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header Host $http_host;
proxy_redirect off;
proxy_pass http://NAME;"""
KEPT_ALIVE = 'proxy_http_version 1.1;\nproxy_set_header Connection "";\n' + GUNICORNS_OWN
UWSGIS_OWN = "include uwsgi_params;\nuwsgi_pass NAME;"


@dataclass(frozen=True)
class Contestant:
    """One way to serve the application.

    gateway, fleet: settings of the product, where it is one. command: what is started on the first app server in its
    place. location: lines of Nginx in front of it. kept: connections that Nginx keeps to it. direct: the name of a
    contestant that clients reach without a balancer here.
    """

    name: str
    title: str
    gateway: Mapping[str, Any] | None = None
    fleet: Mapping[str, Any] = field(default_factory=dict[str, Any])
    command: str = ""
    location: str = ""
    kept: int = 0
    direct: str = ""

    @property
    def is_product(self) -> bool:
        """Return whether this product makes it, balancer included."""
        return self.gateway is not None


_GUNICORN = f"gunicorn --bind 0.0.0.0:{PORT}"
_GRANIAN = f"granian --interface wsgi --host 0.0.0.0 --port {PORT} --workers 2 --blocking-threads 4 bench:app"
# What the talk that started this project names (docs/coverage-of-the-talk.md, row 12); a process for each request.
_TALK = (
    f"uwsgi --socket 0.0.0.0:{PORT} --master --processes {2 * CPUS} --enable-threads --lazy-apps --need-app "
    "--die-on-term --stats 127.0.0.1:8199 --module bench:app"
)

CONTESTANTS = (
    Contestant("default", "**wsgi-fleet, the default**: uWSGI", gateway={}),
    Contestant("threads-4", "wsgi-fleet with `threads: 4`, the default before", gateway={"threads": 4}),
    Contestant("gunicorn", "wsgi-fleet with `kind: gunicorn`", gateway={"kind": "gunicorn"}),
    Contestant("gevent", "wsgi-fleet with `kind: gevent`", gateway={"kind": "gevent"}),
    Contestant("tornado", "wsgi-fleet with `kind: tornado`", gateway={"kind": "tornado"}),
    Contestant(
        "local-proxy",
        "wsgi-fleet with `local_proxy`",
        gateway={"processes": 2 * CPUS},
        fleet={"local_proxy": True},
    ),
    Contestant(
        "gunicorn-sync",
        "Gunicorn, its default: one sync worker",
        command=f"{_GUNICORN} bench:app",
        location=GUNICORNS_OWN,
    ),
    Contestant(
        "gunicorn-2n1",
        f"Gunicorn, 2 x CPUs + 1: {2 * CPUS + 1} sync workers",
        command=f"{_GUNICORN} --workers {2 * CPUS + 1} bench:app",
        location=GUNICORNS_OWN,
    ),
    Contestant(
        "gunicorn-threads",
        "Gunicorn, 2 processes of 4 threads",
        command=f"{_GUNICORN} --workers 2 --threads 4 bench:app",
        location=GUNICORNS_OWN,
    ),
    Contestant(
        "gunicorn-kept",
        "Gunicorn, 2 processes of 4 threads, connections kept",
        command=f"{_GUNICORN} --workers 2 --threads 4 bench:app",
        location=KEPT_ALIVE,
        kept=32,
    ),
    # One process of 15 threads is what its option namespace aws:elasticbeanstalk:container:python has by default, and
    # 256 kept connections its Nginx.
    Contestant(
        "beanstalk",
        "Elastic Beanstalk's default: Gunicorn, 1 process of 15 threads",
        command=f"{_GUNICORN} --workers 1 --threads 15 bench:app",
        location=KEPT_ALIVE,
        kept=256,
    ),
    Contestant(
        "granian", "Granian, 2 processes of 4 threads, connections kept", command=_GRANIAN, location=KEPT_ALIVE, kept=32
    ),
    Contestant(
        "granian-fresh",
        "Granian, 2 processes of 4 threads",
        command=_GRANIAN,
        location="proxy_http_version 1.1;\nproxy_set_header Connection close;\n" + GUNICORNS_OWN,
    ),
    Contestant("talk", f"the talk: uWSGI, {2 * CPUS} processes", command=_TALK, location=UWSGIS_OWN),
    Contestant("nginx", "limit: Nginx alone, `return 200`", location='return 200 "hello";'),
    Contestant("gunicorn-direct", "without a balancer: `kind: gunicorn`", direct="gunicorn"),
    Contestant("granian-direct", "without a balancer: Granian", command=_GRANIAN, direct="granian"),
)
BY_NAME = {each.name: each for each in CONTESTANTS}
PRODUCTS = tuple(each for each in CONTESTANTS if each.is_product)


def site(address: str) -> str:
    """Return the sites of Nginx for those that are no part of the product. address: of the first app server."""
    lines: list[str] = []
    for each in CONTESTANTS:
        if not each.location:
            continue
        if each.command:
            keep = f"keepalive {each.kept};" if each.kept else ""
            lines.append(f"upstream {each.name} {{ server {address}:{PORT}; {keep} }}")
        location = each.location.replace("NAME", each.name)
        # The name that clients ask for; a body may be as large as with the product.
        lines.append(f"server {{ listen 80; server_name {each.name}.bench; client_max_body_size 10m;")
        lines.append(f"location / {{\n{location}\n}} }}")
    return "\n".join(lines) + "\n"
