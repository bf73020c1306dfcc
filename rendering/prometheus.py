"""Render the configuration of Prometheus and Alertmanager: of a stack's own machine, or to add to one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rendering.common import (
    JOURNAL,
    SCRIPTS,
    SECURITY_UPDATES,
    files_to_apply,
    unattended_upgrades_files,
)
from rendering.monitoring import NGINX_PORT, NODE_PORT
from rendering.templates import read_file, render_template
from rendering.user_data import cloud_config
from settings.stack import SecurityUpdates

PACKAGES = ("prometheus", "prometheus-alertmanager")
FOLDER = "/etc/wsgi-fleet/prometheus"


@dataclass(frozen=True)
class ScrapedMachine:
    """A machine that exports metrics. has_nginx: those of Nginx as well."""

    name: str
    address: str
    has_nginx: bool = False


def scrape_config(stack: str, machines: Sequence[ScrapedMachine]) -> str:
    """Return the part of Prometheus' configuration that names the machines of a stack, as YAML."""
    return _render("scrape.yml", stack, machines)


def alert_rules() -> str:
    """Return the alerts, as YAML that Prometheus reads."""
    return read_file("templates/prometheus/alerts.yml")


def monitoring_user_data(security_updates: SecurityUpdates = SECURITY_UPDATES) -> str:
    """Return the user data of the machine with Prometheus. A step brings that."""
    files = {
        f"{SCRIPTS}/{name}": ("0755", read_file(f"templates/scripts/{name}"))
        for name in ("install-packages", "setup-monitoring")
    }
    files |= JOURNAL | unattended_upgrades_files(security_updates)
    return cloud_config(files, [f"{SCRIPTS}/setup-monitoring"])


def prometheus_files(stack: str, machines: Sequence[ScrapedMachine], webhook_url: str) -> str:
    """Return what makes a machine Prometheus and Alertmanager, for apply_files_command.

    webhook_url: where alerts go, a secret; "" for nowhere.
    """
    alertmanager = render_template("prometheus/alertmanager.yml.j2", webhook_url=webhook_url)
    files = {
        f"{FOLDER}/prometheus.yml": ("0644", _render("prometheus.yml", stack, machines)),
        f"{FOLDER}/alerts.yml": ("0644", alert_rules()),
        f"{FOLDER}/alertmanager.yml": ("0600", alertmanager),
    }
    units = [f"{name}.service" for name in PACKAGES]
    files |= {f"/etc/systemd/system/{unit}": ("0644", render_template(f"systemd/{unit}.j2")) for unit in units}
    return files_to_apply(files, packages=PACKAGES, prove=units, on=units)


def _render(file: str, stack: str, machines: Sequence[ScrapedMachine]) -> str:
    return render_template(
        f"prometheus/{file}.j2",
        stack=stack,
        machines=machines,
        nginx=[each for each in machines if each.has_nginx],
        node_port=NODE_PORT,
        nginx_port=NGINX_PORT,
    )
