"""Render what makes a machine export metrics for Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from rendering.common import files_to_apply, script_files
from rendering.paths import site_identifier
from rendering.templates import read_file, render_template
from settings.route import Route, virtual_hosts

NODE_PORT, NGINX_PORT = 9100, 9113
NODE, NGINX = "prometheus-node-exporter", "prometheus-nginx-exporter"
STATUS = "/etc/nginx/wsgi-fleet/exporter.conf"
# What a machine has with monitoring, and is removed without: its units, and a file of Nginx's. The Debian packages
# stay, with units that are disabled.
OFF = (f"{NGINX}.service", f"{NODE}.service", "wsgi-fleet-exporter.service", STATUS)
# Seconds for the packages, from a slow mirror.
INSTALL_S = 400


def app_server_exporter(app: str) -> str:
    """Return what makes an app server export metrics, for apply_files_command. app: the name of its application."""
    return _exporter({"app": app}, "app_server_metrics", "wanted_release", reads_store=True)


def balancer_exporter(apps: Mapping[str, Route], proxy: Literal["nginx", "apache"]) -> str:
    """Return what makes a balancer export metrics, for apply_files_command. apps: those that it serves."""
    hosts = [(host.names, host.table) for host in virtual_hosts(apps)]
    # By what rendering/site.py calls them in a site.
    names = {f"app_{site_identifier(name)}": name for name in apps}
    return _exporter({"hosts": hosts, "apps": names}, "balancer_metrics", "log_tail", has_nginx=proxy == "nginx")


def _exporter(config: Mapping[str, object], *scripts: str, has_nginx: bool = False, reads_store: bool = False) -> str:
    scripts = ("metrics_writer", "exposition", "metric_families", *scripts)
    files = script_files(*(f"monitoring/{name}" for name in scripts), "common/system")
    files["/etc/wsgi-fleet/monitoring.json"] = "0644", json.dumps(config)
    units = {
        "wsgi-fleet-exporter.service": render_template(
            "systemd/wsgi-fleet-exporter.service.j2", reads_store=reads_store
        ),
        f"{NODE}.service": read_file(f"templates/systemd/{NODE}.service"),
    }
    if has_nginx:
        units[f"{NGINX}.service"] = render_template(f"systemd/{NGINX}.service.j2")
        files[STATUS] = "0644", read_file("templates/nginx/exporter.conf")
    files |= {f"/etc/systemd/system/{name}": ("0644", text) for name, text in units.items()}
    packages = [NODE, NGINX] if has_nginx else [NODE]
    return files_to_apply(files, packages=packages, prove=list(units), on=list(units))
