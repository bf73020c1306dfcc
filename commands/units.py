"""`./fleet units`: what the process manager of an application's servers gets, by the stack file alone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

from commands.config import load_settings
from commands.target import AppOption, CommandError, StackOption, only_application, selected_stack, suggest
from gateways import GATEWAYS
from rendering.app_server import ProcessLayout, app_unit
from rendering.gateway_files import process_files, supervisord_conf, upstart_job
from rendering.templates import read_file, render_template
from settings import limits
from settings.application import MAX_ISOLATED_PROCESSES, App

UNITS = "/etc/systemd/system"
RELEASE = "/srv/app/releases/ID"


class Manager(StrEnum):
    """Those of the talk."""

    SYSTEMD = "systemd"
    SUPERVISORD = "supervisord"
    UPSTART = "upstart"


def render_files(app: App, manager: Manager, platform: str) -> Mapping[str, str]:
    """Return path on a server -> text.

    Supervisord and Upstart hand no socket on and are shown with fleet.local_proxy.
    """
    kind = GATEWAYS[app.gateway.kind]
    number = app.isolated_processes or min(limits.worker_processes(app, platform) or 2, MAX_ISOLATED_PROCESSES)
    if manager is Manager.UPSTART:
        return {"/etc/init/app.conf": upstart_job(app, number)}
    if manager is Manager.SUPERVISORD:
        return {
            f"{UNITS}/app@.service": app_unit(kind, ProcessLayout("supervisord", number), proof=False),
            f"{RELEASE}/gateway/supervisord-blue.conf": supervisord_conf(app, number, "blue"),
        }
    processes = ProcessLayout("systemd", app.isolated_processes) if app.isolated_processes else None
    units = {f"{UNITS}/app@.service": app_unit(kind, processes, proof=False)}
    if processes:
        units[f"{UNITS}/nginx.service.d/wsgi-fleet.conf"] = read_file("templates/systemd/nginx.service.d.conf")
        made = process_files(app, processes)
        return units | {f"{RELEASE}/{name}": text for name, text in made.items() if "blue" in name}
    return units | {f"{UNITS}/app.socket": render_template("systemd/app.socket.j2")}


def units(
    stack: StackOption = None,
    app: AppOption = None,
    *,
    manager: Annotated[
        Manager | None,
        typer.Option(show_default=False, help="Another process manager; the default is fleet.process_manager."),
    ] = None,
) -> None:
    """Print what the process manager gets.

    Unit files, supervisord's configuration, or an Upstart job. Also of a stack that was never up.
    A server has two slots, blue and green, with the same files; those of blue are printed.
    """
    stack = selected_stack(stack)
    settings = load_settings(stack)
    name = app or only_application(stack, settings.apps)
    if name not in settings.apps:
        raise CommandError(f"there is no application {name}; {suggest(name, list(settings.apps))}", code=2)
    chosen = settings.apps[name]
    files = render_files(chosen, manager or Manager(chosen.fleet.process_manager), settings.platform)
    typer.echo("\n".join(f"# === {path}\n{text}" for path, text in files.items()), nl=False)
