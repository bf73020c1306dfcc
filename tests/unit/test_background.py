"""Workers and schedules: their unit files, and what a server makes of a release's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import background
import common
import pytest

from rendering.app_server import app_unit
from rendering.gateway_files import background_units
from settings.application import App


def app(**changes: Any) -> App:
    return App.model_validate_json(json.dumps({"source": "x", "module": "bare:app"} | changes))


NASTY = "echo \"$HOME\" 'a' %i \\ ; reboot"
GIVEN: dict[str, Any] = {
    "workers": {"mail": {"command": NASTY, "count": 2}, "once": {"command": "true", "servers": "first"}},
    "schedules": {"tidy": {"command": "true", "calendar": "Mon..Fri 06:30 America/New_York"}},
}


def test_a_command_stands_in_no_unit_file_whatever_is_in_it() -> None:
    made = background_units(app(**GIVEN))
    assert len(made) == 4
    assert not any("reboot" in text for text in made.values())


def test_workers_are_kept_running_and_schedules_run_once_at_their_times() -> None:
    made = {name: text.splitlines() for name, text in background_units(app(**GIVEN)).items()}
    assert {"Type=exec", "Restart=always", "RestartSec=2", "TimeoutStopSec=75"} <= {*made["app-worker-mail@.service"]}
    schedule = made["app-schedule-tidy.service"]
    assert ("Type=oneshot" in schedule, [line for line in schedule if line.startswith("Restart=")]) == (True, [])
    assert "OnCalendar=Mon..Fri 06:30 America/New_York" in made["app-schedule-tidy.timer"]


def test_they_are_hardened_like_the_application_itself() -> None:
    slot = app_unit(proof=False)
    hardening = slot[slot.index("NoNewPrivileges") : slot.index("SystemCallErrorNumber")]
    assert hardening in background_units(app(**GIVEN))["app-worker-mail@.service"]


class Server:
    """A server whose systemctl is only told. commands: what it was told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[str] = []
        self.units, self.live = folder / "units", folder / "live"
        self.units.mkdir()
        self._folder = folder
        self.calendar_is_good = True
        for name, file in {"UNITS": "units", "LIVE": "live", "APPLIED": "background", "FIRST": "first"}.items():
            monkeypatch.setattr(background, name, folder / file)
        monkeypatch.setattr(background, "run", self.run)
        monkeypatch.setattr(common, "RELEASES", folder)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        self.commands.append(" ".join(command))
        if command[:2] == ("systemctl", "enable"):
            for unit in command[2:]:
                folder = self.units / ("timers" if unit.endswith(".timer") else "multi-user")
                folder = folder.with_name(f"{folder.name}.target.wants")
                folder.mkdir(exist_ok=True)
                (folder / unit).touch()
        failed = command[0] == "systemd-analyze" and not self.calendar_is_good
        return subprocess.CompletedProcess(command, int(failed), "", "Failed to parse calendar specification")

    def serve(self, release: str, **changes: Any) -> None:
        given = app(**changes)
        place = self._folder / release
        place.mkdir()
        manifest: dict[str, Any] = {
            "workers": {name: worker.model_dump() for name, worker in given.workers.items()},
            "schedules": {name: schedule.model_dump() for name, schedule in given.schedules.items()},
            "units": background_units(given),
        }
        (place / "manifest.json").write_text(json.dumps(manifest))
        background.write_commands(release, manifest, place)
        self.live.unlink(missing_ok=True)
        self.live.symlink_to(place)
        self.commands.clear()
        background.apply()

    def files(self) -> list[str]:
        return sorted(path.name for path in self.units.iterdir() if path.is_file())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(tmp_path, monkeypatch)


def test_the_first_server_runs_everything(server: Server) -> None:
    background.set_first(is_first=True)
    server.serve("r1", **GIVEN)
    expected = "app-worker-mail@1.service app-worker-mail@2.service app-worker-once@1.service app-schedule-tidy.timer"
    assert server.commands == [
        "systemctl daemon-reload",
        f"systemctl enable {expected}",
        f"systemctl restart --no-block {expected}",
    ]
    assert len(server.files()) == 4


def test_other_servers_run_what_is_for_all(server: Server) -> None:
    server.serve("r1", **GIVEN)
    assert server.files() == ["app-worker-mail@.service"]
    assert server.commands[-1] == "systemctl restart --no-block app-worker-mail@1.service app-worker-mail@2.service"


def test_the_same_again_restarts_nothing_and_another_release_does(server: Server) -> None:
    server.serve("r1", **GIVEN)
    server.commands.clear()
    background.apply()
    assert server.commands == []
    server.serve("r2", **GIVEN)
    assert server.commands[-1].startswith("systemctl restart --no-block app-worker-mail@1.service")


def test_what_a_release_has_no_more_is_stopped_and_its_files_go(server: Server) -> None:
    (server.units / "app@.service").touch()
    server.serve("r1", **GIVEN)
    server.serve("r2", workers={"mail": {"command": "true"}})
    assert server.commands[0] == "systemctl disable --now --no-block app-worker-mail@2.service"
    assert server.commands[1].startswith("systemctl reset-failed app-worker-mail@2.service")
    server.serve("r3")
    assert server.files() == ["app@.service"]


def test_a_server_that_becomes_the_first_takes_the_schedules_over(server: Server) -> None:
    server.serve("r1", **GIVEN)
    server.commands.clear()
    background.set_first(is_first=True)
    background.apply()
    assert server.commands[-1].endswith("app-schedule-tidy.timer")


def test_a_time_that_systemd_does_not_read_fails_the_release_with_its_name(server: Server) -> None:
    server.calendar_is_good = False
    with pytest.raises(background.AppServerError, match=r"schedules\.tidy\.calendar of r1: Failed to parse"):
        server.serve("r1", **GIVEN)
