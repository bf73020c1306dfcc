"""Render an app server's user data and the units of its slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateways import GATEWAYS, Gateway
from rendering.common import (
    JOURNAL,
    SCRIPTS,
    SECURITY_UPDATES,
    SUPERVISORD,
    UV,
    files_to_apply,
    install_gateway,
    script_files,
    unattended_upgrades_files,
)
from rendering.templates import read_file, render_template
from rendering.user_data import cloud_config, without_comments
from settings.application import App
from settings.stack import SecurityUpdates

UWSGI = GATEWAYS["uwsgi"]
_SUPERVISORD_COMMAND = (
    "/usr/bin/python3 -I -c \"import sys; sys.path.insert(0, '/srv/gateway/supervisord'); "
    'from supervisor.supervisord import main; main()" '
    "--configuration /srv/app/slots/%i/gateway/supervisord-%i.conf"
)


@dataclass(frozen=True)
class ProcessLayout:
    """Gateways of one process each behind an Nginx of the server's own: who starts them, and how many there are."""

    manager: Literal["systemd", "supervisord"]
    number: int

    @classmethod
    def of(cls, app: App) -> ProcessLayout | None:
        """Return the processes of an application; None where a slot is one gateway with all its processes."""
        return cls(app.fleet.process_manager, app.isolated_processes) if app.isolated_processes else None

    def __str__(self) -> str:
        """Return the text that a server keeps, and a release that is made for it."""
        return f"{self.manager} {self.number}"


def gateway_command_line(kind: Gateway, place: str, runtime: str, more: str = "") -> str:
    """Return the command line that starts a gateway with the release in a folder."""
    command = kind.command.format(place=place, runtime=runtime)
    return f"{place}/venv/bin/python -P {command}" + (f" {more}" if more else "")


def process_properties() -> tuple[str, ...]:
    """Return the properties of systemd that every process of the application has, each as NAME=VALUE."""
    lines = render_template("systemd/application.j2").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def app_unit(kind: Gateway = UWSGI, processes: ProcessLayout | None = None, *, proof: bool) -> str:
    """Return the unit of a slot or of a process in one (app@.service), or of the place where a release is proven."""
    slot, runtime = ("proof", "app-proof") if proof else ("%i", "app-%i")
    start = gateway_command_line(kind, f"/srv/app/slots/{slot}", f"/run/{runtime}", kind.proof_args if proof else "")
    if processes and not proof:
        if processes.manager == "supervisord":
            start = _SUPERVISORD_COMMAND
            runtime = " ".join([runtime, *(f"{runtime}-{each}" for each in range(processes.number))])
        else:
            start += " " + kind.single_process_args.format(port="${WSGI_FLEET_PORT}")
    return render_template(
        "systemd/app.service.j2",
        proof=proof,
        shared=processes is None,
        manager=processes.manager if processes else "systemd",
        slot=slot,
        runtime=runtime,
        launch=start,
    )


def app_server_user_data(
    system_packages: Sequence[str],
    security_updates: SecurityUpdates = SECURITY_UPDATES,
    kind: Gateway = UWSGI,
    processes: ProcessLayout | None = None,
) -> str:
    """Return the user data of an app server. It names no release: those change without the machine being replaced."""
    files = boot_files(security_updates, kind, processes)
    return cloud_config(files, [f"{SCRIPTS}/setup-app-server", *packages_to_install(system_packages, processes)])


def packages_to_install(system_packages: Sequence[str], processes: ProcessLayout | None) -> list[str]:
    """Return the Debian packages of an app server: its own Nginx, where it has one, and what the application needs."""
    return [*(["nginx"] if processes else []), *system_packages]


def boot_files(
    security_updates: SecurityUpdates, kind: Gateway, processes: ProcessLayout | None
) -> dict[str, tuple[str, str]]:
    """Return the files by which a machine makes itself an app server: path -> (mode, text)."""
    scripts = ("release", "slot", "slot_layout", "local_nginx", "staging", "common", "background")
    files = script_files(*(f"app_server/{name}" for name in scripts), "common/fetch", "common/symlinks")
    for name in ("install-packages", "setup-app-server"):
        files[f"{SCRIPTS}/{name}"] = ("0755", read_file(f"templates/scripts/{name}"))
    is_supervised = processes is not None and processes.manager == "supervisord"
    folders = {kind.name: kind.packages} | UV | (SUPERVISORD if is_supervised else {})
    files[f"{SCRIPTS}/install-gateway"] = ("0755", install_gateway(folders))
    # Which releases this server takes.
    files["/etc/wsgi-fleet/gateway"] = ("0644", f"{kind.name}\n")
    units = {"app-boot.service": read_file("templates/systemd/app-boot.service")}
    if processes:
        files["/etc/wsgi-fleet/processes"] = ("0644", f"{processes}\n")
        units["nginx.service.d/wsgi-fleet.conf"] = read_file("templates/systemd/nginx.service.d.conf")
    else:
        units["app.socket"] = render_template("systemd/app.socket.j2")
    units["app@.service"] = app_unit(kind, processes, proof=False)
    units["app-proof.service"] = app_unit(kind, proof=True)
    files |= {f"/etc/systemd/system/{name}": ("0644", without_comments(text)) for name, text in units.items()}
    return files | JOURNAL | unattended_upgrades_files(security_updates)


def app_server_files(store_url: str, key: str, off: Sequence[str] = ()) -> str:
    """Return what an app server gets once it has booted, for apply_files_command: its store, and what reports on it.

    store_url: where its releases lie. key: of the keyed digests that it checks, in hex; a secret. off: what it may
    have and shall not, as files_to_apply takes it.
    """
    files = {f"/etc/wsgi-fleet/{name}": ("0600", text) for name, text in (("store", store_url), ("key", key))}
    return files_to_apply(files | status_scripts(), off=off)


def status_scripts() -> dict[str, tuple[str, str]]:
    """Return the scripts by which an app server reports on itself."""
    return script_files("app_server/app_status", "common/host_status", "common/system")
