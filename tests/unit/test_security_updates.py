"""How machines install security updates: what apt and systemd read, and when they are left alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from platforms.lxd.recipe import ImageRecipe
from rendering.app_server import app_server_user_data
from rendering.balancer import balancer_user_data
from rendering.common import PREBUILT_PACKAGES, SCRIPTS
from settings import SecurityUpdates

ROOT = Path(__file__).resolve().parents[2]
APT, TIMER = "/etc/apt/apt.conf.d/52wsgi-fleet", "/etc/systemd/system/apt-daily-upgrade.timer.d/wsgi-fleet.conf"
SCRIPT = f"{SCRIPTS}/setup-upgrades"
# What Debian 12's package brings.
PACKAGED = """\
Unattended-Upgrade::Origins-Pattern {
        "origin=Debian,codename=${distro_codename},label=Debian";
        "origin=Debian,codename=${distro_codename},label=Debian-Security";
};
"""


def documents(**changes: Any) -> list[dict[str, str]]:
    """Return the files of an app server and of the balancer: path -> content."""
    given = SecurityUpdates(**changes)
    texts = app_server_user_data([], given), balancer_user_data(given)
    return [{each["path"]: each["content"] for each in yaml.safe_load(text)["write_files"]} for text in texts]


def timer(**changes: Any) -> list[str]:
    return [line for line in documents(**changes)[0][TIMER].splitlines() if not line.startswith("#")]


@pytest.fixture
def apt(tmp_path: Path) -> dict[str, list[str]]:
    """Return what apt itself reads where our file follows the package's: key -> values."""
    (tmp_path / "50unattended-upgrades").write_text(PACKAGED)
    (tmp_path / "52wsgi-fleet").write_text(documents()[0][APT])
    main = tmp_path / "main"
    main.write_text(f'Dir::Etc::main "/dev/null"; Dir::Etc::parts "{tmp_path}";')
    dump = subprocess.run(
        ["apt-config", "dump", "--no-empty"], check=True, capture_output=True, text=True,
        env=os.environ | {"APT_CONFIG": str(main)},
    )  # fmt: skip
    found: dict[str, list[str]] = {}
    for line in dump.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value.strip('";'))
    return found


def test_security_updates_are_installed_and_no_others(apt: dict[str, list[str]]) -> None:
    assert apt["Unattended-Upgrade::Origins-Pattern::"] == [
        "origin=Debian,codename=${distro_codename}-security,label=Debian-Security"
    ]
    assert apt["APT::Periodic::Update-Package-Lists"] == apt["APT::Periodic::Unattended-Upgrade"] == ["1"]


def test_no_machine_restarts_by_itself_unless_it_is_asked_for(apt: dict[str, list[str]]) -> None:
    assert apt["Unattended-Upgrade::Automatic-Reboot"] == ["false"]
    assert "Unattended-Upgrade::Automatic-Reboot-Time" not in apt
    assert 'Unattended-Upgrade::Automatic-Reboot "true";' in documents(reboot=True)[0][APT]


def test_updates_begin_in_the_window_at_a_moment_that_each_machine_has_for_itself() -> None:
    assert timer(window="Sun 03:00", window_minutes=60) == [
        "[Timer]",
        "OnCalendar=",
        "OnCalendar=Sun 03:00 UTC",
        # A restart follows at once: it is to be in the window as well.
        "RandomizedDelaySec=50min",
        "FixedRandomDelay=yes",
        # What a machine that was off has missed would else follow when it boots.
        "Persistent=no",
    ]


@pytest.mark.parametrize(
    ("window", "meant"),
    [
        ("03:00", "*-*-* 03:00:00 UTC"),
        ("Sun 23:59", "Sun *-*-* 23:59:00 UTC"),
        ("Mon,Thu 04:30", "Mon,Thu *-*-* 04:30:00 UTC"),
    ],
)
def test_a_window_is_what_systemd_takes_it_for(window: str, meant: str) -> None:
    given = timer(window=window)[2].partition("=")[2]
    told = subprocess.run(["systemd-analyze", "calendar", given], check=True, capture_output=True, text=True).stdout
    assert f"Normalized form: {meant}" in told


@pytest.mark.parametrize(
    "window", ["", "3:00", "24:00", "03:60", "Sunday 03:00", "Sun, 03:00", "03:00\n", "03:00\n[Timer]", "*-*-* 03:00"]
)
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        SecurityUpdates(window=window)


def test_both_tiers_are_kept_alike() -> None:
    server, balancer = documents(window="Sun 03:00")
    assert all(server[path] == balancer[path] for path in (APT, TIMER, SCRIPT))


def test_a_stack_without_upgrades_brings_none_of_it_and_silences_what_the_image_has() -> None:
    for files in documents(enabled=False):
        assert {APT, TIMER} & set(files) == set()
        assert "systemctl mask --quiet --now $timers" in files[SCRIPT]


@pytest.mark.parametrize("setup", ["setup-app-server", "setup-nginx", "setup-apache"])
def test_both_setups_see_to_it_before_they_say_that_the_machine_is_ready(setup: str) -> None:
    lines = (ROOT / "templates" / "scripts" / setup).read_text().splitlines()
    assert lines.index("$here/setup-upgrades") < lines.index("touch /etc/wsgi-fleet/ready")


def test_the_prebuilt_image_has_the_package_and_keeps_it_quiet() -> None:
    assert "unattended-upgrades" in PREBUILT_PACKAGES
    assert {"apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"} <= set(
        ImageRecipe().masked_units()
    )


def run_setup(folder: Path, *, is_on: bool) -> list[str]:
    """Run the setup script with recording stand-ins for its commands, and return their calls."""
    log, bin_ = folder / "log", folder / "bin"
    bin_.mkdir()
    text = (ROOT / "templates" / "scripts" / "setup-upgrades").read_text()
    text = text.replace("/etc/apt", f"{folder}/apt").replace(SCRIPTS, str(bin_))
    for name in ("systemctl", "install-packages"):
        (bin_ / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\n')
        (bin_ / name).chmod(0o755)
    if is_on:
        (folder / "apt" / "apt.conf.d").mkdir(parents=True)
        (folder / "apt" / "apt.conf.d" / "52wsgi-fleet").touch()
    environment = {"PATH": f"{bin_}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", text], check=True, env=environment)
    return log.read_text().splitlines()


def test_timers_that_an_image_has_masked_run_where_upgrades_are_on(tmp_path: Path) -> None:
    timers = "apt-daily.timer apt-daily-upgrade.timer"
    assert run_setup(tmp_path, is_on=True) == [
        "install-packages unattended-upgrades",
        f"systemctl unmask --quiet {timers}",
        "systemctl daemon-reload",
        f"systemctl enable --quiet {timers}",
        f"systemctl restart {timers}",
    ]


def test_nothing_is_installed_where_upgrades_are_off(tmp_path: Path) -> None:
    assert run_setup(tmp_path, is_on=False) == ["systemctl mask --quiet --now apt-daily.timer apt-daily-upgrade.timer"]
