"""Render what a release contains for its gateway and its background units, for systemd or supervisord."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gateways import GATEWAYS
from rendering.app_server import ProcessLayout, gateway_command_line
from rendering.server_site import Front, error_page_files, server_site
from rendering.templates import render_template
from rendering.user_data import minified_script
from settings.application import SLOT_PORTS, App
from settings.limits import read_timeout_s

# Of machine/install/: with the release, so that their change replaces no server.
INSTALL_SCRIPTS = ("virtualenv", "installers", "requirement_files", "wheels")


def gateway_files(app: App, front: Front | None = None) -> dict[str, str]:
    """Return what a release contains for its gateway: path in its folder -> text. Configuration and launcher.

    front: the load balancer in front; None where a balancer of the stack's own is.
    """
    kind, processes = GATEWAYS[app.gateway.kind], ProcessLayout.of(app)
    config = render_template(kind.template, module=app.module, gateway=app.gateway, drain_timeout_s=app.drain_timeout_s)
    files = {kind.config: config, **{f"gateway/{name}.py": minified_script(f"gateway/{name}") for name in kind.scripts}}
    if app.streaming:
        extra_s = app.streaming.timeout_s - app.gateway.request_timeout_s
        files["gateway/streaming.json"] = json.dumps({"paths": app.streaming.paths, "extra_s": extra_s}) + "\n"
    return files | (process_files(app, processes, front) if processes else {})


def install_files(requirements: Mapping[str, str]) -> dict[str, str]:
    """Return the scripts that build a release's virtualenv: path in its folder -> text.

    requirements: files in the place of the one that the source has, by their names.
    """
    scripts = {f"install/{name}.py": minified_script(f"install/{name}") for name in INSTALL_SCRIPTS}
    return scripts | {f"install/{name}": text for name, text in requirements.items()}


def process_files(app: App, processes: ProcessLayout, front: Front | None = None) -> dict[str, str]:
    """Return a release's files for processes in either slot: their ports and Nginx's configuration."""
    files = error_page_files(front) if front else {}
    for slot, first in SLOT_PORTS.items():
        ports = range(first, first + processes.number)
        files[f"gateway/nginx-{slot}.conf"] = (
            server_site(app, front, slot, ports) if front else _behind_own_balancer(app, slot, ports)
        )
        if processes.manager == "supervisord":
            files[f"gateway/supervisord-{slot}.conf"] = supervisord_conf(app, processes.number, slot)
        else:
            files |= {
                f"gateway/{slot}-{port - first}.env": f"WSGI_FLEET_PORT={port}\nWSGI_FLEET_SLOT={slot}\n"
                for port in ports
            }
    return files


def _behind_own_balancer(app: App, slot: str, ports: Sequence[int]) -> str:
    return render_template(
        "nginx/processes.conf.j2",
        slot=slot,
        ports=ports,
        prefix="uwsgi" if GATEWAYS[app.gateway.kind].protocol == "uwsgi" else "proxy",
        read_timeout_s=read_timeout_s(app.gateway.request_timeout_s),
        streaming=app.streaming,
        streaming_timeout_s=read_timeout_s(app.streaming.timeout_s) if app.streaming else 0,
        drain_timeout_s=app.drain_timeout_s,
    )


def supervisord_conf(app: App, number: int, slot: str) -> str:
    """Return supervisord's configuration of a slot. Its own counter numbers the ports: `81%(process_num)02d`."""
    kind, ports = GATEWAYS[app.gateway.kind], SLOT_PORTS[slot] // 100
    alone = kind.single_process_args.format(port=f"{ports}%(process_num)02d")
    start = gateway_command_line(kind, f"/srv/app/slots/{slot}", f"/run/app-{slot}-%(process_num)d", alone)
    values = {"slot": slot, "number": number, "ports": ports, "launch": start, "drain_timeout_s": app.drain_timeout_s}
    return render_template("supervisord/supervisord.conf.j2", **values)


def upstart_job(app: App, number: int) -> str:
    """Return an Upstart job. It is shown and never installed: no distribution that is alive has Upstart."""
    kind, ports = GATEWAYS[app.gateway.kind], SLOT_PORTS["blue"] // 100
    start = gateway_command_line(
        kind, "/srv/app/live", "/var/lib/app/$PROCESS", kind.single_process_args.format(port=f"{ports}$PROCESS")
    )
    values = {"number": number, "ports": ports, "launch": start, "drain_timeout_s": app.drain_timeout_s}
    return render_template("upstart/app.conf.j2", **values)


def background_units(app: App) -> dict[str, str]:
    """Return the unit files of what runs beside the application: name -> text.

    They are part of the release, as the commands are.
    """
    units: dict[str, str] = {}
    for name in app.workers:
        units[f"app-worker-{name}@.service"] = _background("worker", name, app)
    for name, schedule in app.schedules.items():
        units[f"app-schedule-{name}.service"] = _background("schedule", name, app)
        timer = render_template("systemd/schedule.timer.j2", name=name, calendar=schedule.calendar)
        units[f"app-schedule-{name}.timer"] = timer
    return units


def _background(kind: str, name: str, app: App) -> str:
    return render_template("systemd/background.service.j2", kind=kind, name=name, stop_timeout_s=app.drain_timeout_s)
