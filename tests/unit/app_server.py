"""A made-up app server: the scripts of machine/ in a temporary folder, with a systemd that keeps states in a dict."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import app_status
import background
import common
import pytest
import release
import slot
import slot_layout
import staging
import symlinks


@dataclass
class AppServer:
    """states: unit -> ActiveState. events: what happened to units, with the release that was live then.

    answers: what GET on a private socket gives, one after the other; then 200. starts: exit codes of the next starts
    (None: it does not end). restarts: how often a unit was restarted, asked again and again. journal: what units
    logged. ends: results of other programs by name. others: all other commands, each as one line. applied: the release
    that was live whenever background work was made that of it. asked: whose private sockets, one after the other.
    """

    root: Path
    states: dict[str, str] = field(default_factory=lambda: {"app.socket": "active"})
    events: list[str] = field(default_factory=list[str])
    answers: list[int | Exception] = field(default_factory=list["int | Exception"])
    starts: list[int | None] = field(default_factory=list["int | None"])
    journal: str = ""
    restarts: Iterator[int] = field(default_factory=lambda: itertools.repeat(0))
    others: list[str] = field(default_factory=list[str])
    applied: list[str | None] = field(default_factory=list["str | None"])
    ends: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict[str, Any])
    asked: list[str] = field(default_factory=list[str])

    def place(self, name: str, **manifest: Any) -> Path:
        """Create a release that is staged here."""
        folder = common.RELEASES / name
        folder.mkdir()
        (folder / ".staged").touch()
        (folder / "manifest.json").write_text(manifest_text(**manifest))
        return folder

    def serves(self, name: str, slot_: str = "blue") -> None:
        """Let a release serve from a slot."""
        symlinks.atomic_symlink(common.SLOTS / slot_, common.RELEASES / name)
        symlinks.atomic_symlink(common.LIVE, common.RELEASES / name)
        self.states[f"app@{slot_}"] = "active"

    def run(self, *command: str, timeout_s: float = 60, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Stand in for common.run: record commands and return prepared results."""
        done = subprocess.CompletedProcess(command, 0, "", "")
        unit, live = command[-1], symlinks.link_target(common.LIVE)
        units = [word for word in command if word.startswith("app")]
        match command:
            case ("systemctl", "show", "-P", "ActiveState", *_):
                done.stdout = "\n\n".join(self.states.get(each, "inactive") for each in command[4:]) + "\n"
            case ("systemctl", "show", "-P", "NRestarts", *_):
                done.stdout = "\n\n".join(str(next(self.restarts)) for _ in units) + "\n"
            case ("systemctl", "show", "-p", "Id,NRestarts,ActiveState", *names):
                services = [f"{each}.service" for each in units if each != "app.socket" and "*" not in each]
                done.stdout = "\n\n".join(
                    f"Id={each}\nActiveState={self.states.get(each.removesuffix('.service'), 'inactive')}"
                    + ("" if each == "app.socket" else f"\nNRestarts={next(self.restarts)}")
                    for each in [*services, *(["app.socket"] if "app.socket" in names else [])]
                )
            case ("systemctl", "start", *_):
                self.events.append(f"start {' '.join(units)}, live {live}")
                code = self.starts.pop(0) if self.starts else 0
                if code is None:
                    raise TimeoutError(f"systemctl start did not finish in {timeout_s:.0f} s")
                done.returncode = code
                self.states |= dict.fromkeys(units, "active") | ({unit: "failed"} if code else {})
            case ("systemctl", "stop", "--no-block", *_):
                self.events.append(f"stop {' '.join(units)}, live {live}")
                self.states |= dict.fromkeys(units, "inactive")
            case ("journalctl", "--no-pager", *_):
                self.others.append(" ".join(command))
                # As it was asked for, the last line first.
                assert "-r" in command
                done.stdout = "\n".join(reversed(self.journal.splitlines()))
            case ("tar", *_):
                return common.run(*command)
            case _:
                self.others.append(" ".join([*command, *([f"as {user}"] if user else [])]))
        return self.ends.get(Path(command[0]).name, done)

    def get(self, sock: Path, manifest: Mapping[str, Any], timeout_s: float) -> tuple[int, str]:
        """Stand in for slot.get: return or raise the next prepared response, else return 200."""
        assert timeout_s > 0
        self.asked.append(sock.parent.name)
        response = self.answers.pop(0) if self.answers else 200
        if isinstance(response, Exception):
            raise response
        return response, f"{sock.parent.name} {manifest['health_path']}"


def manifest_text(**changes: Any) -> str:
    """Return a manifest with the fields that the scripts read."""
    manifest = {
        "module": "wsgi:app",
        "health_path": "/healthz",
        "healthy_threshold": 3,
        "start_timeout_s": 30,
        "stage_timeout_s": 40,
        "drain_timeout_s": 75,
        "secrets_digest": "",
    }
    return staging.json.dumps(manifest | changes)


def lay_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> AppServer:
    """Make the folders of an app server below root and lead the scripts there."""
    made = AppServer(root)
    app, config = root / "app", root / "etc"
    folders = {"RELEASES": app / "releases", "VENVS": app / "venvs", "SLOTS": app / "slots", "CONFIG": config}
    for folder in (*folders.values(), root / "run"):
        folder.mkdir(parents=True)
    (config / "gateway").write_text("uwsgi\n")
    paths = {**folders, "LIVE": app / "live", "RUN": root / "run"}
    monkeypatch.setattr(background, "apply", lambda: made.applied.append(symlinks.link_target(common.LIVE)))
    for module in (common, slot_layout, slot, staging, release, background, app_status):
        # common.run itself stays, for what needs no root.
        stand_ins = paths if module is common else {**paths, "run": made.run, "get": made.get}
        for name in stand_ins.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, stand_ins[name])

    monkeypatch.setattr("time.sleep", Mock())
    return made
