"""Render what machines of both tiers get, and the commands that are run on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gateways import GATEWAYS
from rendering.paths import SCRIPTS
from rendering.templates import read_file, render_template
from rendering.user_data import minified_script
from settings.stack import SecurityUpdates

# Longest wait for cloud-init, in seconds: Debian packages from a slow mirror, and the gateway.
BOOT_TIMEOUT_S = 600
BALANCER_PORT = 80
HTTPS_PORT = 443
# Folder -> what it holds: the process manager that is no part of Debian's base. It needs no other package.
SUPERVISORD = {"supervisord": ("supervisor==4.3.0",)}
# What installs the packages of a release; machine/install/virtualenv.py calls it. The wheel holds one program.
UV = {"uv": ("uv==0.13.9",)}
# Packages of a prebuilt image: what the machines of both tiers would install at boot.
PREBUILT_PACKAGES = ("python3-venv", "nginx", "apache2", "logrotate", "unattended-upgrades")
SECURITY_UPDATES = SecurityUpdates()
LOGROTATE_TIMER = "# Made by wsgi-fleet.\n[Timer]\nOnCalendar=\nOnCalendar=minutely\nAccuracySec=1s\n"
# Of each machine, whatever the size of its disk.
JOURNAL = {"/etc/systemd/journald.conf.d/wsgi-fleet.conf": ("0644", "[Journal]\nSystemMaxUse=256M\n")}


def prebuilt_scripts() -> tuple[str, ...]:
    """Return whole scripts that do in a prebuilt image what machines would else do at boot."""
    # Both tiers boot the same image, whatever the gateway; who needs a proxy enables it.
    every = {kind.name: kind.packages for kind in GATEWAYS.values()} | UV | SUPERVISORD
    return install_gateway(every), "#!/bin/sh\nsystemctl disable --quiet nginx.service apache2.service\n"


def install_gateway(folders: Mapping[str, Sequence[str]]) -> str:
    """Return the script that brings packages into folders of /srv/gateway."""
    return render_template("scripts/install-gateway.j2", folders=folders)


def unattended_upgrades_files(security_updates: SecurityUpdates) -> dict[str, tuple[str, str]]:
    """Return the files by which a machine of either tier installs security updates.

    setup-upgrades looks whether the first file is there.
    """
    files = {f"{SCRIPTS}/setup-upgrades": ("0755", read_file("templates/scripts/setup-upgrades"))}
    if security_updates.enabled:
        for path, name in (
            # After the package's own files, 20auto-upgrades and 50unattended-upgrades.
            ("/etc/apt/apt.conf.d/52wsgi-fleet", "apt/52wsgi-fleet.j2"),
            ("/etc/systemd/system/apt-daily-upgrade.timer.d/wsgi-fleet.conf", "systemd/upgrade-window.conf.j2"),
        ):
            files[path] = ("0644", render_template(name, security_updates=security_updates))
    return files


def script_files(*names: str) -> dict[str, tuple[str, str]]:
    """Return scripts of machine/ as files of a machine, all in one folder. names: FOLDER/NAME."""
    return {f"{SCRIPTS}/{name.rpartition('/')[2]}.py": ("0755", minified_script(name)) for name in names}


def apply_files_command() -> list[str]:
    """Return the command that sets up files and units as its standard input describes them (see files_to_apply).

    It contains the whole script, for it runs before cloud-init has written any file.
    """
    return ["python3", "-c", minified_script("common/apply_files")]


def files_to_apply(
    files: Mapping[str, tuple[str, str]],
    *,
    on: Sequence[str] = (),
    off: Sequence[str] = (),
    prove: Sequence[str] = (),
    packages: Sequence[str] = (),
) -> str:
    """Return the standard input of apply_files_command.

    files: path -> (mode, text). on, off, prove: units to start and enable, to remove, and to try until they start.
    packages: Debian packages to install before that.
    """
    more = {"packages": packages} if packages else {}
    return json.dumps({"boot_s": BOOT_TIMEOUT_S, "files": files, "off": off, "prove": prove, "on": on, **more})
