"""Values in, text out: every file that a machine gets is made here and nowhere else. Pure; the only user of jinja2."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from gateways import KINDS
from settings import Balancer, Maintenance
from settings.access import beneath, exactly
from settings.ladder import read_timeout_s
from settings.route import Routed, virtual_hosts
from settings.static import Static
from user_data import cloud_config, script

ROOT = Path(__file__).resolve().parent
# Where scripts live on a machine.
SCRIPTS = "/usr/local/lib/wsgi-fleet"
APP_PORT = 8000
BALANCER_PORT = 80
HTTPS_PORT = 443
# Names with hashed passwords, where balancer.proxy.basic_auth is set; and the loopback port of balancer.proxy.status.
USERS_FILE = "/etc/wsgi-fleet/users"
STATUS_PORT = 8081
# Folder -> what it holds: the process manager that is no part of Debian's base. It needs no other package.
SUPERVISORD = {"supervisord": ("supervisor==4.3.0",)}
# Packages of a prebuilt image: what the machines of both tiers would install at boot.
PREBUILT_PACKAGES = ("python3-venv", "nginx", "logrotate", "unattended-upgrades")
MAINTENANCE = Maintenance()
EVERYWHERE = Routed()

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(ROOT / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    # Configuration files, not HTML: what goes in is checked by the types of settings/.
    autoescape=False,  # noqa: S701
)


def _quoted(text: str) -> str:
    """A word between double quotes, as Nginx reads it: whatever else is in it, it ends nothing."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_environment.filters["quoted"] = _quoted


def template(file: str, /, **values: Any) -> str:
    """A file of templates/ with these values."""
    return _environment.get_template(file).render(**values)


def verbatim(name: str) -> str:
    """A file of this project."""
    return (ROOT / name).read_text()


def prebuilt_scripts() -> tuple[str, ...]:
    """Whole scripts that do in a prebuilt image what machines would else do at boot."""
    # Both tiers boot the same image, whatever the gateway; who needs Nginx enables it.
    every = {kind.name: kind.packages for kind in KINDS.values()} | SUPERVISORD
    return install_gateway(every), "#!/bin/sh\nsystemctl disable --quiet nginx.service\n"


def install_gateway(folders: Mapping[str, Sequence[str]]) -> str:
    """The script that brings packages into folders of /srv/gateway."""
    return template("scripts/install-gateway.j2", folders=folders)


def upkeep(maintenance: Maintenance) -> dict[str, tuple[str, str]]:
    """How a machine of either tier installs security updates. setup-upgrades looks whether the first file is there."""
    files = {f"{SCRIPTS}/setup-upgrades": ("0755", verbatim("templates/scripts/setup-upgrades"))}
    if maintenance.upgrades:
        for path, name in (
            # After the package's own files, 20auto-upgrades and 50unattended-upgrades.
            ("/etc/apt/apt.conf.d/52wsgi-fleet", "apt/52wsgi-fleet.j2"),
            ("/etc/systemd/system/apt-daily-upgrade.timer.d/wsgi-fleet.conf", "systemd/upgrade-window.conf.j2"),
        ):
            files[path] = ("0644", template(name, maintenance=maintenance))
    return files


def balancer_user_data(maintenance: Maintenance = MAINTENANCE) -> str:
    """What the balancer boots with. It names no member and no setting: the site is brought by a step."""
    scripts = ("nginx_site", "nginx", "certificate", "acme_certificate", "traffic", "vitals", "static_files")
    files = {f"{SCRIPTS}/{name}.py": ("0755", script(name)) for name in scripts}
    for name in ("install-packages", "setup-balancer"):
        files[f"{SCRIPTS}/{name}"] = ("0755", verbatim(f"templates/scripts/{name}"))
    for name in ("nginx.conf", "no-site.conf", "maintenance.html"):
        files[f"/etc/wsgi-fleet/{name}"] = ("0644", verbatim(f"templates/nginx/{name}"))
    files |= upkeep(maintenance)
    return cloud_config(files, [f"{SCRIPTS}/setup-balancer"])


def booted(limit_s: int) -> list[str]:
    """The command that waits until cloud-init is done. Whole, for it runs before cloud-init has written any file."""
    return ["sh", "-c", verbatim("templates/scripts/booted"), "booted", str(limit_s)]


def bring() -> list[str]:
    """The command that makes files and units what its standard input says (watch)."""
    return ["python3", "-c", script("bring")]


# Of an app server; systemd's names, or patterns of them.
JOURNALS = ("app@*", "nginx", "app-boot", "app-proof", "app-worker-*", "app-schedule-*")
ACCESS_LOG = "/var/log/nginx/access.log"


def watch(*, balancer: bool, namespace: str | None, log_group: str | None) -> str:
    """What a machine gets to report metrics to a namespace and to ship logs to a group, each where it is not None.

    By a step and not in user-data: settings that are changed replace no machine, and 16 KiB are few.
    """
    report = ["wsgi-fleet-report.service", "wsgi-fleet-report.timer"] if namespace else []
    ship = ["wsgi-fleet-ship.service"] if log_group else []
    scripts = ["aws_service"] if report or ship else []
    files: dict[str, tuple[str, str]] = {}
    if report:
        scripts.append("report")
        files["/etc/wsgi-fleet/report.json"] = "0644", json.dumps({"namespace": namespace, "balancer": balancer})
    if ship:
        scripts += ["ship", "log_source"]
        source = {"file": ACCESS_LOG} if balancer else {"units": JOURNALS}
        files["/etc/wsgi-fleet/ship.json"] = "0644", json.dumps({"group": log_group, **source})
    # App servers have it from their boot.
    if scripts and balancer:
        scripts.append("fetch")
    files |= {f"{SCRIPTS}/{name}.py": ("0755", script(name)) for name in scripts}
    files |= {f"/etc/systemd/system/{unit}": ("0644", verbatim(f"templates/systemd/{unit}")) for unit in report + ship}
    every = ("wsgi-fleet-report.timer", "wsgi-fleet-report.service", "wsgi-fleet-ship.service")
    return json.dumps(
        {
            "files": files,
            "off": [unit for unit in every if unit not in report + ship],
            # A report that arrives, and a stream that takes lines.
            "prove": report[:1] + ship,
            "on": report[1:] + ship,
        }
    )


@dataclass(frozen=True)
class Upstream:
    """An application as the balancer sees it. members: private addresses of the servers that take requests now.

    health_path: as the application sees it; it is answered during maintenance as well. at: which requests it gets.
    protocol: what its gateway speaks. static: files that it is not asked for.
    """

    name: str
    members: Sequence[str]
    request_timeout_s: int
    health_path: str
    at: Routed = EVERYWHERE
    protocol: Literal["uwsgi", "http"] = "uwsgi"
    static: Static | None = None

    @property
    def variable(self) -> str:
        """Its name inside Nginx."""
        return self.name.replace("-", "_")

    @property
    def prefix(self) -> Literal["uwsgi", "proxy"]:
        """What Nginx's directives for this protocol begin with: `uwsgi_pass`, `proxy_pass`."""
        return "uwsgi" if self.protocol == "uwsgi" else "proxy"

    @property
    def public_health_path(self) -> str:
        """What clients call it."""
        return self.at.public(self.health_path)

    @property
    def read_timeout_s(self) -> int:
        """Longer than the gateway's own limit, so that the gateway decides."""
        return read_timeout_s(self.request_timeout_s)

    @property
    def probe(self) -> str:
        """How nginx_site.py looks whether it answers: UPSTREAM=HOST/PATH, with no host where it answers every one."""
        # Below a wildcard any name does.
        host = self.at.hosts[0].replace("*", "wsgi-fleet") if self.at.hosts else ""
        return f"app_{self.variable}={host}{self.public_health_path}"


def site(
    balancer: Balancer, upstreams: Sequence[Upstream], hostnames: Sequence[str] = (), *, https_port: int = HTTPS_PORT
) -> str:
    """Nginx's site: `least_conn` over the members of each application, 503 where there are none.

    hostnames: of the site, exact ones first. https_port: by which clients reach port 443 of the balancer. Where TLS is,
    HTTP is led there: to the name that was asked for, else to the first.
    """
    by_name = {each.name: each for each in upstreams}
    hosts = [
        {"names": host.names, "apps": [by_name[name] for _, name in host.table], "is_whole": "/" in dict(host.table)}
        for host in virtual_hosts({each.name: each.at for each in upstreams})
    ]
    return template(
        "nginx/site.conf.j2",
        balancer=balancer,
        apps=upstreams,
        hosts=hosts,
        hostnames=hostnames,
        https_port=https_port,
        spared=_spared(balancer, hosts),
        users_file=USERS_FILE,
        status_port=STATUS_PORT,
    )


def _spared(balancer: Balancer, hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Patterns of `$server_name$uri` for paths by which others see that an application is well, and Nginx's own."""
    patterns: list[str] = []
    for host in hosts:
        paths = exactly(["/.maintenance", *(app.public_health_path for app in host["apps"])])
        if balancer.tls and balancer.tls.acme:
            paths += beneath(["/.well-known/acme-challenge/"])
        # Nginx calls a server by the first of its names.
        name = re.escape(host["names"][0] if host["names"] else "_")
        patterns += [f"^{name}{path.removeprefix('^')}" for path in paths]
    return patterns


def proxy_preparation(balancer: Balancer) -> list[str] | None:
    """The command that brings what such a site names; its input are lines of USERS_FILE. None: nothing is needed.

    Whole, for user-data would replace balancers of stacks that use none of it.
    """
    packages = ["libnginx-mod-http-geoip", "geoip-database"] if balancer.proxy.geoip else []
    users = "-" if balancer.proxy.basic_auth is None else "users"
    if not packages and users == "-":
        return None
    return ["sh", "-c", verbatim("templates/scripts/prepare-proxy"), "prepare-proxy", users, *packages]
