"""Render the balancer's user data, its health agent, and the command that prepares its proxy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from rendering.common import (
    JOURNAL,
    LOGROTATE_TIMER,
    SCRIPTS,
    SECURITY_UPDATES,
    files_to_apply,
    script_files,
    unattended_upgrades_files,
)
from rendering.error_pages import error_page_files
from rendering.templates import read_file, render_template
from rendering.user_data import cloud_config, without_comments
from settings.balancer import Balancer
from settings.error_pages import ErrorPages
from settings.stack import SecurityUpdates

NO_PAGES = ErrorPages()
MEMBER_UNIT = "wsgi-fleet-member.service"


def balancer_user_data(
    security_updates: SecurityUpdates = SECURITY_UPDATES, proxy: Literal["nginx", "apache"] = "nginx"
) -> str:
    """Return the user data of the balancer. It names no server and no setting but the proxy: a step brings the site."""
    return cloud_config(_boot_files(security_updates, proxy), [f"{SCRIPTS}/setup-{proxy}"])


def _boot_files(security_updates: SecurityUpdates, proxy: Literal["nginx", "apache"]) -> dict[str, tuple[str, str]]:
    scripts = ("proxy_site", "site_state", "proxy", proxy, "certificate", "acme_certificate", "static_files")
    scripts += ("apache_log",) if proxy == "apache" else ()
    files = script_files(*(f"balancer/{name}" for name in scripts), "common/system", "common/symlinks")
    files[f"{SCRIPTS}/install-packages"] = ("0755", read_file("templates/scripts/install-packages"))
    files[f"{SCRIPTS}/setup-{proxy}"] = ("0755", read_file(f"templates/scripts/setup-{proxy}"))
    for name in ({"nginx": "nginx.conf", "apache": "apache2.conf"}[proxy], "no-site.conf"):
        files[f"/etc/wsgi-fleet/{name}"] = ("0644", read_file(f"templates/{proxy}/{name}"))
    if proxy == "apache":
        files["/etc/wsgi-fleet/proxy"] = ("0644", "apache\n")
        files["/etc/wsgi-fleet/limit_body.lua"] = ("0644", read_file("templates/apache/limit_body.lua"))
        files["/etc/systemd/system/apache2.service"] = ("0644", render_template("systemd/apache2.service.j2"))
    else:
        files["/etc/wsgi-fleet/nginx.service"] = ("0644", render_template("systemd/nginx.service.j2"))
    files["/etc/logrotate.d/wsgi-fleet"] = ("0644", render_template("logrotate/proxy.j2", proxy=proxy))
    files["/etc/systemd/system/logrotate.timer.d/wsgi-fleet.conf"] = ("0644", LOGROTATE_TIMER)
    return files | JOURNAL | unattended_upgrades_files(security_updates)


def self_healing_files(security_updates: SecurityUpdates) -> str:
    """Return the files of a balancer in whose place another one comes by itself, as apply_files.py takes them.

    They are those that another balancer has in its user data, and what brings back what steps did and asks its own
    Nginx whether it responds.
    """
    files = _boot_files(security_updates, "nginx")
    own = (
        "balancer/scaling_groups",
        "balancer/group_members",
        "common/aws_service",
        "group/balancer_member",
        "group/group_of_one",
        "group/lifecycle",
    )
    files |= script_files(*own)
    files["/etc/nginx/wsgi-fleet/self.conf"] = ("0644", read_file("templates/nginx/self.conf"))
    unit = without_comments(read_file(f"templates/systemd/{MEMBER_UNIT}"))
    files[f"/etc/systemd/system/{MEMBER_UNIT}"] = ("0644", unit)
    return files_to_apply(files, on=[MEMBER_UNIT])


def self_healing_user_data(store_url: str, key: str) -> str:
    """Return the user data of such a balancer. store_url: of what is kept for it. key: of its files there."""
    files = script_files("group/balancer_boot", "group/group_boot", "common/fetch", "common/apply_files")
    files["/etc/wsgi-fleet/store"] = ("0600", store_url)
    return cloud_config(files, [f"{SCRIPTS}/balancer_boot.py", key])


def health_agent_files(
    proxy: Literal["nginx", "apache"] = "nginx",
    error_pages: ErrorPages = NO_PAGES,
    groups: Sequence[str] = (),
    static: Sequence[str] = (),
    off: Sequence[str] = (),
) -> str:
    """Return what makes a balancer ask its servers for their health, and report its traffic: for apply_files_command.

    The pages of its own errors as well. Not in user-data, so a change of it replaces no balancer. groups: names of
    Auto Scaling groups that it asks for their servers. static: applications whose files it fetches when it boots. off:
    what it may have and shall not, as files_to_apply takes it.
    """
    unit = "wsgi-fleet-health.service"
    scripts = ("server_health", "group_members", "membership", "upstream_health", "balancer_status", "traffic")
    files = script_files(*(f"balancer/{name}" for name in scripts), "common/host_status")
    # Empty where there are none any more.
    files["/etc/wsgi-fleet/groups.json"] = ("0644", json.dumps(list(groups)))
    if static:
        files["/etc/wsgi-fleet/static.json"] = ("0644", json.dumps(list(static)))
    if groups:
        files |= script_files("balancer/scaling_groups", "common/aws_service", "common/fetch")
    files[f"/etc/systemd/system/{unit}"] = ("0644", render_template(f"systemd/{unit}.j2", proxy=proxy))
    files |= error_page_files(error_pages)
    return files_to_apply(files, off=off, prove=[unit], on=[unit])


def proxy_packages_command(balancer: Balancer) -> list[str] | None:
    """Return the command that brings what such a site names; None where nothing is needed.

    Its input are lines of USERS_FILE. It contains the whole script, for user-data would replace balancers of stacks
    that use none of it.
    """
    module = "libnginx-mod-http-geoip" if balancer.proxy.kind == "nginx" else "libapache2-mod-geoip"
    packages = [module, "geoip-database"] if balancer.proxy.geoip else []
    users = "-" if balancer.proxy.basic_auth is None else "users"
    if not packages and users == "-":
        return None
    return ["sh", "-c", read_file("templates/scripts/prepare-proxy"), "prepare-proxy", users, *packages]
