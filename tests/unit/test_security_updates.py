"""How machines install security updates: what apt and systemd read, and when they are left alone."""

from __future__ import annotations

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
from settings.stack import SecurityUpdates

SECURITY = "origin=Debian,codename=${distro_codename}-security,label=Debian-Security"
SETUPS = Path(__file__).resolve().parents[2] / "templates" / "scripts"
APT, TIMER = "/etc/apt/apt.conf.d/52wsgi-fleet", "/etc/systemd/system/apt-daily-upgrade.timer.d/wsgi-fleet.conf"


def documents(**changes: Any) -> list[dict[str, str]]:
    """Return the files of an app server and of the balancer: path -> content."""
    given = SecurityUpdates(**changes)
    texts = app_server_user_data([], given), balancer_user_data(given)
    return [{each["path"]: each["content"] for each in yaml.safe_load(text)["write_files"]} for text in texts]


@pytest.mark.parametrize("reboot", [False, True])
def test_security_updates_and_no_others_are_installed_and_no_machine_restarts_unless_it_is_asked_for(
    *, reboot: bool
) -> None:
    for files in documents(reboot=reboot):
        assert [line for line in files[APT].splitlines() if not line.startswith("//")] == [
            'APT::Periodic::Update-Package-Lists "1";',
            'APT::Periodic::Unattended-Upgrade "1";',
            "#clear Unattended-Upgrade::Origins-Pattern;",
            f'Unattended-Upgrade::Origins-Pattern {{ "{SECURITY}"; }};',
            f'Unattended-Upgrade::Automatic-Reboot "{str(reboot).lower()}";',
        ]


def test_updates_begin_in_the_window_at_a_moment_that_each_machine_has_for_itself() -> None:
    server, balancer = documents(window="Sun 03:00", window_minutes=60)
    assert server[TIMER] == balancer[TIMER]
    assert [line for line in server[TIMER].splitlines() if not line.startswith("#")] == [
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
    "window", ["", "3:00", "24:00", "03:60", "Sunday 03:00", "Sun, 03:00", "03:00\n", "03:00\n[Timer]", "*-*-* 03:00"]
)
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        SecurityUpdates(window=window)


@pytest.mark.parametrize("window", ["03:00", "Sun 23:59", "Mon,Thu 04:30"])
def test_a_window_is_one_for_systemd_as_well(window: str) -> None:
    assert f"\nOnCalendar={window} UTC\n" in documents(window=window)[0][TIMER]
    subprocess.run(["systemd-analyze", "calendar", f"{window} UTC"], check=True, capture_output=True)


@pytest.mark.parametrize("setup", ["setup-app-server", "setup-nginx", "setup-apache"])
def test_every_setup_sees_to_it_before_it_says_that_the_machine_is_ready(setup: str) -> None:
    lines = (SETUPS / setup).read_text().splitlines()
    assert lines.index("$here/setup-upgrades") < lines.index("touch /etc/wsgi-fleet/ready")


def test_the_prebuilt_image_has_the_package_and_keeps_it_quiet() -> None:
    assert "unattended-upgrades" in PREBUILT_PACKAGES
    quiet = {"apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"}
    assert quiet <= set(ImageRecipe().masked_units())


TIMERS = "apt-daily.timer apt-daily-upgrade.timer"


@pytest.mark.parametrize(
    ("enabled", "calls"),
    [
        (
            True,
            [
                "install-packages unattended-upgrades",
                f"systemctl unmask --quiet --no-reload {TIMERS}",
                f"systemctl enable --quiet --no-reload {TIMERS}",
                "systemctl daemon-reload",
                f"systemctl restart {TIMERS}",
            ],
        ),
        (False, [f"systemctl mask --quiet --now --no-reload {TIMERS}"]),
    ],
)
def test_timers_that_an_image_has_masked_run_where_upgrades_are_on_and_nowhere_else(
    tmp_path: Path, *, enabled: bool, calls: list[str]
) -> None:
    log, bin_ = tmp_path / "log", tmp_path / "bin"
    bin_.mkdir()
    (tmp_path / "etc/apt/apt.conf.d").mkdir(parents=True)
    (files,) = {tuple(sorted({APT, TIMER} & files.keys())) for files in documents(enabled=enabled)}
    assert files == ((APT, TIMER) if enabled else ())
    for path in files[:1]:
        (tmp_path / path.removeprefix("/")).touch()
    for name in ("systemctl", "install-packages"):
        (bin_ / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\n')
        (bin_ / name).chmod(0o755)
    (text,) = {files[f"{SCRIPTS}/setup-upgrades"] for files in documents(enabled=enabled)}
    text = text.replace("/etc/apt", f"{tmp_path}/etc/apt").replace(SCRIPTS, str(bin_))
    subprocess.run(["sh", "-c", text], check=True, env={"PATH": f"{bin_}:/usr/bin:/bin"})
    assert log.read_text().splitlines() == calls
