"""Values in, text out: every file that a machine gets is made here and nowhere else. Pure; the only user of jinja2."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2

import site_apache
from gateways import KINDS
from settings import Balancer, SecurityUpdates
from settings.access import beneath, exactly
from settings.route import virtual_hosts
from upstream import Upstream
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
PREBUILT_PACKAGES = ("python3-venv", "nginx", "apache2", "logrotate", "unattended-upgrades")
SECURITY_UPDATES = SecurityUpdates()
LOGROTATE_TIMER = "# Made by wsgi-fleet.\n[Timer]\nOnCalendar=\nOnCalendar=minutely\nAccuracySec=1s\n"
# Of each machine, whatever the size of its disk.
JOURNAL = {"/etc/systemd/journald.conf.d/wsgi-fleet.conf": ("0644", "[Journal]\nSystemMaxUse=256M\n")}

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
    """Return a word between double quotes, as Nginx reads it. Nothing in the word ends the quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_environment.filters["quoted"] = _quoted


def template(file: str, /, **values: Any) -> str:
    """Render a file of templates/ with these values."""
    return _environment.get_template(file).render(**values)


def verbatim(name: str) -> str:
    """Return the text of a file of this project."""
    return (ROOT / name).read_text()


def prebuilt_scripts() -> tuple[str, ...]:
    """Return whole scripts that do in a prebuilt image what machines would else do at boot."""
    # Both tiers boot the same image, whatever the gateway; who needs a proxy enables it.
    every = {kind.name: kind.packages for kind in KINDS.values()} | SUPERVISORD
    return install_gateway(every), "#!/bin/sh\nsystemctl disable --quiet nginx.service apache2.service\n"


def install_gateway(folders: Mapping[str, Sequence[str]]) -> str:
    """Return the script that brings packages into folders of /srv/gateway."""
    return template("scripts/install-gateway.j2", folders=folders)


def unattended_upgrades_files(security_updates: SecurityUpdates) -> dict[str, tuple[str, str]]:
    """Return the files by which a machine of either tier installs security updates.

    setup-upgrades looks whether the first file is there.
    """
    files = {f"{SCRIPTS}/setup-upgrades": ("0755", verbatim("templates/scripts/setup-upgrades"))}
    if security_updates.enabled:
        for path, name in (
            # After the package's own files, 20auto-upgrades and 50unattended-upgrades.
            ("/etc/apt/apt.conf.d/52wsgi-fleet", "apt/52wsgi-fleet.j2"),
            ("/etc/systemd/system/apt-daily-upgrade.timer.d/wsgi-fleet.conf", "systemd/upgrade-window.conf.j2"),
        ):
            files[path] = ("0644", template(name, security_updates=security_updates))
    return files


def balancer_user_data(
    security_updates: SecurityUpdates = SECURITY_UPDATES, proxy: Literal["nginx", "apache"] = "nginx"
) -> str:
    """Return the user data of the balancer. It names no member and no setting but the proxy: a step brings the site."""
    scripts = ("proxy_site", "proxy", proxy, "certificate", "acme_certificate", "static_files")
    scripts += ("apache_log",) if proxy == "apache" else ()
    files = {f"{SCRIPTS}/{name}.py": ("0755", script(name)) for name in scripts}
    files[f"{SCRIPTS}/install-packages"] = ("0755", verbatim("templates/scripts/install-packages"))
    files[f"{SCRIPTS}/setup-{proxy}"] = ("0755", verbatim(f"templates/scripts/setup-{proxy}"))
    for name in ({"nginx": "nginx.conf", "apache": "apache2.conf"}[proxy], "no-site.conf"):
        files[f"/etc/wsgi-fleet/{name}"] = ("0644", verbatim(f"templates/{proxy}/{name}"))
    files["/etc/wsgi-fleet/maintenance.html"] = ("0644", verbatim("templates/maintenance.html"))
    if proxy == "apache":
        files["/etc/wsgi-fleet/proxy"] = ("0644", "apache\n")
        files["/etc/systemd/system/apache2.service"] = ("0644", template("systemd/apache2.service.j2"))
    else:
        files["/etc/wsgi-fleet/nginx.service"] = ("0644", template("systemd/nginx.service.j2"))
    files["/etc/logrotate.d/wsgi-fleet"] = ("0644", template("logrotate/proxy.j2", proxy=proxy))
    files["/etc/systemd/system/logrotate.timer.d/wsgi-fleet.conf"] = ("0644", LOGROTATE_TIMER)
    files |= JOURNAL | unattended_upgrades_files(security_updates)
    return cloud_config(files, [f"{SCRIPTS}/setup-{proxy}"])


def booted(limit_s: int) -> list[str]:
    """Return the command that waits until cloud-init is done.

    It contains the whole script, for it runs before cloud-init has written any file.
    """
    return ["sh", "-c", verbatim("templates/scripts/booted"), "booted", str(limit_s)]


def bring() -> list[str]:
    """Return the command that sets up files and units as its standard input describes them (see watch)."""
    return ["python3", "-c", script("bring")]


# Of an app server; systemd's names, or patterns of them.
JOURNALS = ("app@*", "nginx", "app-boot", "app-proof", "app-worker-*", "app-schedule-*")
ACCESS_LOG = "/var/log/wsgi-fleet/access.log"


def watch(*, balancer: bool, namespace: str | None, log_group: str | None) -> str:
    """Return what makes a machine report metrics to a namespace and ship logs to a group, each where it is not None.

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


def upstream_health(proxy: Literal["nginx", "apache"] = "nginx") -> str:
    """Return what makes a balancer ask its servers for their health, and report its traffic: for bring.

    Not in user-data: 16 KiB are few, and a change of it replaces no balancer.
    """
    unit = "wsgi-fleet-health.service"
    files = {
        f"{SCRIPTS}/{name}.py": ("0755", script(name))
        for name in ("server_health", "upstream_health", "traffic", "vitals")
    }
    files[f"/etc/systemd/system/{unit}"] = ("0644", template(f"systemd/{unit}.j2", proxy=proxy))
    return json.dumps({"files": files, "off": [], "prove": [unit], "on": [unit]})


def site(
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
        return template("apache/site.conf.j2", **values, **site_apache.values(balancer, upstreams, hostnames))
    by_name = {each.name: each for each in upstreams}
    hosts = [
        {"names": host.names, "apps": [by_name[name] for _, name in host.table], "is_whole": "/" in dict(host.table)}
        for host in virtual_hosts({each.name: each.at for each in upstreams})
    ]
    return template("nginx/site.conf.j2", **values, hosts=hosts, exempt=_exempt(balancer, hosts))


def _exempt(balancer: Balancer, hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return patterns of `$server_name$uri` for health paths and for Nginx's own paths."""
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
    """Return the command that brings what such a site names; None where nothing is needed.

    Its input are lines of USERS_FILE. It contains the whole script, for user-data would replace balancers of stacks
    that use none of it.
    """
    module = "libnginx-mod-http-geoip" if balancer.proxy.kind == "nginx" else "libapache2-mod-geoip"
    packages = [module, "geoip-database"] if balancer.proxy.geoip else []
    users = "-" if balancer.proxy.basic_auth is None else "users"
    if not packages and users == "-":
        return None
    return ["sh", "-c", verbatim("templates/scripts/prepare-proxy"), "prepare-proxy", users, *packages]
