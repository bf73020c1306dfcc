"""What an app server boots with, and what a release brings of its gateway, by who starts the processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateways import KINDS, Kind
from rendering import (
    JOURNAL,
    SCRIPTS,
    SECURITY_UPDATES,
    SUPERVISORD,
    install_gateway,
    template,
    unattended_upgrades_files,
    verbatim,
)
from settings import App, SecurityUpdates
from settings.application import SLOT_PORTS
from settings.ladder import read_timeout_s
from user_data import cloud_config, script, without_comments

UWSGI = KINDS["uwsgi"]
_SUPERVISORD = (
    "/usr/bin/python3 -I -c \"import sys; sys.path.insert(0, '/srv/gateway/supervisord'); "
    'from supervisor.supervisord import main; main()" '
    "--configuration /srv/app/slots/%i/gateway/supervisord-%i.conf"
)


@dataclass(frozen=True)
class Processes:
    """Gateways of one process each behind an Nginx of the server's own: who starts them, and how many there are."""

    manager: Literal["systemd", "supervisord"]
    number: int

    @classmethod
    def of(cls, app: App) -> Processes | None:
        """Return the processes of an application; None where a slot is one gateway with all its processes."""
        return cls(app.fleet.process_manager, app.apart) if app.apart else None

    def __str__(self) -> str:
        """Return the text that a server keeps, and a release that is made for it."""
        return f"{self.manager} {self.number}"


def launch(kind: Kind, place: str, runtime: str, more: str = "") -> str:
    """Return the command line that starts a gateway with the release in a folder."""
    command = kind.command.format(place=place, runtime=runtime)
    return f"{place}/venv/bin/python -P {command}" + (f" {more}" if more else "")


def service(kind: Kind = UWSGI, processes: Processes | None = None, *, proof: bool) -> str:
    """Return the unit of a slot or of a process in one (app@.service), or of the place where a release is proven."""
    slot, runtime = ("proof", "app-proof") if proof else ("%i", "app-%i")
    start = launch(kind, f"/srv/app/slots/{slot}", f"/run/{runtime}", kind.proof if proof else "")
    if processes and not proof:
        if processes.manager == "supervisord":
            start = _SUPERVISORD
            runtime = " ".join([runtime, *(f"{runtime}-{each}" for each in range(processes.number))])
        else:
            start += " " + kind.alone.format(port="${WSGI_FLEET_PORT}")
    return template(
        "systemd/app.service.j2",
        proof=proof,
        shared=processes is None,
        manager=processes.manager if processes else "systemd",
        slot=slot,
        runtime=runtime,
        launch=start,
    )


def user_data(
    system_packages: Sequence[str],
    security_updates: SecurityUpdates = SECURITY_UPDATES,
    kind: Kind = UWSGI,
    processes: Processes | None = None,
) -> str:
    """Return the user data of an app server. It names no release: those change without the machine being replaced."""
    scripts = ["release", "slot", "staging", "server", "fetch", "background", "condition", "vitals"]
    files = {f"{SCRIPTS}/{name}.py": ("0755", script(name)) for name in scripts}
    for name in ("install-packages", "setup-app-server"):
        files[f"{SCRIPTS}/{name}"] = ("0755", verbatim(f"templates/scripts/{name}"))
    is_supervised = processes is not None and processes.manager == "supervisord"
    folders = {kind.name: kind.packages} | (SUPERVISORD if is_supervised else {})
    files[f"{SCRIPTS}/install-gateway"] = ("0755", install_gateway(folders))
    # Which releases this server takes.
    files["/etc/wsgi-fleet/gateway"] = ("0644", f"{kind.name}\n")
    units = {"app-boot.service": verbatim("templates/systemd/app-boot.service")}
    if processes:
        files["/etc/wsgi-fleet/processes"] = ("0644", f"{processes}\n")
        units["nginx.service.d/wsgi-fleet.conf"] = verbatim("templates/systemd/nginx.service.d.conf")
    else:
        units["app.socket"] = verbatim("templates/systemd/app.socket")
    units["app@.service"] = service(kind, processes, proof=False)
    units["app-proof.service"] = service(kind, proof=True)
    files |= {f"/etc/systemd/system/{name}": ("0644", without_comments(text)) for name, text in units.items()}
    files |= JOURNAL | unattended_upgrades_files(security_updates)
    return cloud_config(files, [f"{SCRIPTS}/setup-app-server", *(["nginx"] if processes else []), *system_packages])


def gateway_files(app: App) -> dict[str, str]:
    """Return what a release contains for its gateway: path in its folder -> text. Configuration and launcher."""
    kind, processes = KINDS[app.gateway.kind], Processes.of(app)
    config = template(kind.template, module=app.module, gateway=app.gateway, drain_timeout_s=app.drain_timeout_s)
    files = {kind.config: config, **{f"gateway/{name}.py": script(name) for name in kind.scripts}}
    return files | (process_files(app, processes) if processes else {})


def process_files(app: App, processes: Processes) -> dict[str, str]:
    """Return a release's files for processes in either slot.

    These are their ports, Nginx's configuration, and the script that moves Nginx.
    """
    files = {"gateway/processes.py": script("processes")}
    for slot, first in SLOT_PORTS.items():
        ports = range(first, first + processes.number)
        files[f"gateway/nginx-{slot}.conf"] = template(
            "nginx/processes.conf.j2",
            slot=slot,
            ports=ports,
            prefix="uwsgi" if KINDS[app.gateway.kind].protocol == "uwsgi" else "proxy",
            read_timeout_s=read_timeout_s(app.gateway.request_timeout_s),
            drain_timeout_s=app.drain_timeout_s,
        )
        if processes.manager == "supervisord":
            files[f"gateway/supervisord-{slot}.conf"] = supervisord_conf(app, processes.number, slot)
        else:
            files |= {f"gateway/{slot}-{port - first}.env": f"WSGI_FLEET_PORT={port}\n" for port in ports}
    return files


def supervisord_conf(app: App, number: int, slot: str) -> str:
    """Return supervisord's configuration of a slot. Its own counter numbers the ports: `81%(process_num)02d`."""
    kind, ports = KINDS[app.gateway.kind], SLOT_PORTS[slot] // 100
    alone = kind.alone.format(port=f"{ports}%(process_num)02d")
    start = launch(kind, f"/srv/app/slots/{slot}", f"/run/app-{slot}-%(process_num)d", alone)
    values = {"slot": slot, "number": number, "ports": ports, "launch": start, "drain_timeout_s": app.drain_timeout_s}
    return template("supervisord/supervisord.conf.j2", **values)


def upstart_job(app: App, number: int) -> str:
    """Return an Upstart job. It is shown and never installed: no distribution that is alive has Upstart."""
    kind, ports = KINDS[app.gateway.kind], SLOT_PORTS["blue"] // 100
    start = launch(kind, "/srv/app/live", "/var/lib/app/$PROCESS", kind.alone.format(port=f"{ports}$PROCESS"))
    values = {"number": number, "ports": ports, "launch": start, "drain_timeout_s": app.drain_timeout_s}
    return template("upstart/app.conf.j2", **values)


def background_units(app: App) -> dict[str, str]:
    """Return the unit files of what runs beside the application: name -> text.

    They are part of the release, as the commands are.
    """
    units: dict[str, str] = {}
    for name in app.workers:
        units[f"app-worker-{name}@.service"] = _background("worker", name, app)
    for name, schedule in app.schedules.items():
        units[f"app-schedule-{name}.service"] = _background("schedule", name, app)
        timer = template("systemd/schedule.timer.j2", name=name, calendar=schedule.calendar)
        units[f"app-schedule-{name}.timer"] = timer
    return units


def _background(kind: str, name: str, app: App) -> str:
    return template("systemd/background.service.j2", kind=kind, name=name, stop_timeout_s=app.drain_timeout_s)
