"""Staging on an app server, from the store that a rollout wrote: what is checked, and what is left of what fails."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import common
import pytest
import staging
import symlinks
from common import AppServerError

import releases.manifest
import releases.release
from platforms.lxd import store as directory
from platforms.lxd.store import DirectoryStore
from releases.release import Release
from releases.source import Source
from settings.application import App
from tests.unit.app_server import AppServer, lay_out

KEY = "0123456789abcdef"
BUILD_VENV = staging.build_venv
SECRETS = {"URL": "postgres://grün", "PASSWORD": 'open "sesame" for $5'}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppServer:
    """Create a server that knows its store and its key; users and the host name are made up."""
    made = lay_out(tmp_path, monkeypatch)
    (common.CONFIG / "store").write_text(f"file://{tmp_path}/store/hello")
    (common.CONFIG / "key").write_text(KEY)
    monkeypatch.setattr("socket.gethostname", lambda: "local-hello-1")

    def chown(path: Path, user: str, group: str) -> None:
        made.others.append(f"own {path.name} {user} {group}")

    def build_venv(place: Path, _limit_s: float) -> None:
        (place / "venv").symlink_to(common.VENVS)

    monkeypatch.setattr(shutil, "chown", chown)
    monkeypatch.setattr(staging, "build_venv", build_venv)
    return made


def build(root: Path, secrets: dict[str, str] | None = None, **changes: Any) -> Release:
    """Build a release of one file and its requirements."""
    (root / "source").mkdir(exist_ok=True)
    (root / "source" / "wsgi.py").write_text("app = None\n")
    (root / "source" / "requirements.txt").touch()
    base: dict[str, Any] = {"source": "source", "module": "wsgi:app", "environment": {"MODE": "production"}}
    app = App.model_validate_json(json.dumps(base | changes))
    source = Source.read(root / "source", app)
    manifest = releases.manifest.make_manifest(app, source, key=KEY, secrets=secrets or {})
    return releases.release.build(source.path, manifest, root / "code.tar.gz")


def publish(root: Path, release: Release) -> str:
    """Write a release into the store as a rollout does, and return its id."""
    directory.create(root / "store")
    store = DirectoryStore(root / "store")
    store.write(f"hello/releases/{release.id}/code.tar.gz", release.archive.read_bytes())
    store.write(f"hello/releases/{release.id}/manifest.json", release.manifest)
    return release.id


def staged_releases() -> list[str]:
    return sorted(each.name for each in common.RELEASES.iterdir())


def test_a_staged_release_has_its_files_its_settings_and_a_virtualenv(host: AppServer, tmp_path: Path) -> None:
    release = build(tmp_path, SECRETS)
    id_ = publish(tmp_path, release)
    staging.stage(id_, SECRETS)
    place = common.RELEASES / id_
    assert staged_releases() == [id_]
    names = ".staged background code environment gateway install manifest.json secrets.json uwsgi.ini venv"
    assert sorted(each.name for each in place.iterdir()) == names.split()
    assert (place / "code" / "wsgi.py").read_text() == "app = None\n"
    assert (place / "manifest.json").read_bytes() == release.manifest
    for name, text in json.loads(release.manifest)["gateway_files"].items():
        assert (place / name).read_text() == text
    assert (place / "environment").read_text() == (
        'HOME="/var/lib/app"\n'
        'LANG="C.UTF-8"\n'
        'MODE="production"\n'
        'PASSWORD="open \\"sesame\\" for \\$5"\n'
        f'PATH="{place}/venv/bin:/usr/local/bin:/usr/bin:/bin"\n'
        'PYTHONUNBUFFERED="1"\n'
        'URL="postgres://grün"\n'
        f'WSGI_FLEET_RELEASE="{id_}"\n'
        'WSGI_FLEET_SERVER="local-hello-1"\n'
    )
    modes = {name: (place / name).stat().st_mode & 0o777 for name in ("environment", "secrets.json")}
    assert modes == {"environment": 0o600, "secrets.json": 0o600}
    assert host.events == ["start app-proof, live None", "stop app-proof, live None"]
    assert symlinks.link_target(common.SLOTS / "proof") == id_


def test_folders_of_modules_are_on_the_path_of_every_program(host: AppServer, tmp_path: Path) -> None:
    del host
    id_ = publish(tmp_path, build(tmp_path, python_path=["src", "lib/py"]))
    staging.stage(id_, {})
    code = common.RELEASES / id_ / "code"
    assert f'PYTHONPATH="{code}/src:{code}/lib/py"\n' in (common.RELEASES / id_ / "environment").read_text()


def test_a_settings_file_is_for_the_application_and_its_variable_says_where_it_is(
    host: AppServer, tmp_path: Path
) -> None:
    given = {"variable": "APP_SETTINGS", "values": {"GREETING": "Grüße ☃"}}
    id_ = publish(tmp_path, build(tmp_path, settings_file=given))
    staging.stage(id_, {})
    file = common.RELEASES / id_ / "settings.py"
    assert file.read_bytes().decode() == "# Made by wsgi-fleet. Part of the release.\nGREETING = 'Grüße ☃'\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert "own settings.py root app" in host.others
    assert f'APP_SETTINGS="{file}"\n' in (common.RELEASES / id_ / "environment").read_text()


@pytest.mark.parametrize(("made_for", "here"), [("uwsgi", "gevent"), ("gevent", "uwsgi")])
def test_a_release_for_another_gateway_is_refused_and_leaves_nothing(
    host: AppServer, tmp_path: Path, made_for: str, here: str
) -> None:
    (common.CONFIG / "gateway").write_text(f"{here}\n")
    id_ = publish(tmp_path, build(tmp_path, gateway={"kind": made_for}))
    with pytest.raises(AppServerError) as error:
        staging.stage(id_, {})
    assert str(error.value) == (
        f"{id_} is made for the gateway {made_for}, and this server runs {here}; "
        f"set gateway.kind to {made_for} and run `pulumi up`, which brings servers that run it"
    )
    assert [name for name in staged_releases() if not name.endswith(".partial")] == []
    assert host.events == []


def test_a_release_that_is_staged_is_not_staged_again(host: AppServer, tmp_path: Path) -> None:
    id_ = publish(tmp_path, build(tmp_path))
    staging.stage(id_, {})
    shutil.rmtree(tmp_path / "store")
    staging.stage(id_, {})
    assert len(host.events) == 2


def test_what_a_killed_run_left_is_no_hindrance(host: AppServer, tmp_path: Path) -> None:
    id_ = publish(tmp_path, build(tmp_path))
    for name in (id_, f".{id_}.partial", ".other.partial"):
        (common.RELEASES / name / "code").mkdir(parents=True)
    staging.stage(id_, {})
    assert staged_releases() == [id_]
    assert host.states["app-proof"] == "inactive"


def test_a_release_that_does_not_start_leaves_nothing_to_switch_to(host: AppServer, tmp_path: Path) -> None:
    id_ = publish(tmp_path, build(tmp_path, SECRETS))
    host.starts, host.journal = [1], "ModuleNotFoundError\n"
    with pytest.raises(AppServerError, match="wsgi:app did not start; its last lines:\n    ModuleNotFoundError"):
        staging.stage(id_, SECRETS)
    assert staged_releases() == []
    # What a bundle has to take out of its journal.
    kept = common.CONFIG / "failed.json"
    assert (json.loads(kept.read_text()), kept.stat().st_mode & 0o777) == (SECRETS, 0o600)
    assert host.events == ["start app-proof, live None", "stop app-proof, live None"]


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(("health_path", "size"), [("/other", None), ("/healthz", 99)], ids=["another", "cut short"])
def test_a_manifest_of_another_release_or_that_is_cut_short_is_refused(
    tmp_path: Path, health_path: str, size: int | None
) -> None:
    id_ = publish(tmp_path, build(tmp_path))
    manifest = build(tmp_path, health_path=health_path).manifest[:size]
    DirectoryStore(tmp_path / "store").write(f"hello/releases/{id_}/manifest.json", manifest)
    with pytest.raises(AppServerError, match=f"the manifest in the store is not that of {id_}; publish it again"):
        staging.stage(id_, {})


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    "archive",
    [b"", b"no gzip", gzip.compress(b"x" * 999)[:-9], gzip.compress(b"another")],
    ids=["empty", "no gzip", "cut short", "of another content"],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, archive: bytes) -> None:
    id_ = publish(tmp_path, build(tmp_path))
    DirectoryStore(tmp_path / "store").write(f"hello/releases/{id_}/code.tar.gz", archive)
    with pytest.raises(
        AppServerError, match=rf"the archive of {id_} is damaged \(.*\); publish it again with `pulumi up`"
    ):
        staging.stage(id_, {})


@pytest.mark.usefixtures("host")
def test_secrets_of_another_release_are_refused(tmp_path: Path) -> None:
    id_ = publish(tmp_path, build(tmp_path, SECRETS))
    with pytest.raises(
        AppServerError, match="the secrets that came are not those of the release; run `pulumi up` again"
    ):
        staging.stage(id_, SECRETS | {"PASSWORD": "other"})


@pytest.mark.usefixtures("host")
def test_a_server_that_boots_takes_the_secrets_that_it_knows_and_no_others(tmp_path: Path) -> None:
    first, second = (publish(tmp_path, build(tmp_path, SECRETS, health_path=path)) for path in ("/a", "/b"))
    staging.stage(first, SECRETS)
    staging.stage(second, None)
    assert json.loads((common.RELEASES / second / "secrets.json").read_text()) == SECRETS
    third = publish(tmp_path, build(tmp_path, SECRETS | {"NEW": "1"}))
    with pytest.raises(
        AppServerError, match="its secrets changed while this server was away; run `pulumi up` to bring them"
    ):
        staging.stage(third, None)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("import sys\nopen(sys.argv[1] + '/venv', 'w')", None),
        ("import sys\nsys.exit('one\\ntwo')", "one\ntwo"),
        ("while True: pass", "the virtualenv was not made in 1 s; raise rollout.stage_timeout_s"),
        (None, "r1 is of another version of wsgi-fleet; run `pulumi up`, which makes another release"),
    ],
    ids=["works", "fails", "hangs", "is missing"],
)
def test_the_virtualenv_is_made_by_the_script_of_the_release(
    host: AppServer, script: str | None, error: str | None
) -> None:
    place = host.place("r1")
    if script is not None:
        (place / "install").mkdir()
        (place / "install" / "virtualenv.py").write_text(script)
    with pytest.raises(AppServerError, match=f"^{re.escape(error)}$") if error else contextlib.nullcontext():
        BUILD_VENV(place, -29)
    assert (place / "venv").exists() == (error is None)


def test_a_release_whose_virtualenv_cannot_be_made_leaves_nothing(
    host: AppServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "build_venv", Mock(side_effect=AppServerError("no such package")))
    with pytest.raises(AppServerError, match="no such package"):
        staging.stage(publish(tmp_path, build(tmp_path)), {})
    assert (staged_releases(), host.events) == ([], [])


@dataclass
class Unit:
    """What stands in for systemd-run: keeps how it was called, writes into the code, prints and ends."""

    returncode: int = 0
    output: str = ""
    calls: list[list[str]] = field(default_factory=list[list[str]])

    def __call__(self, command: list[str], **options: Any) -> Unit:
        assert options["stderr"] == subprocess.STDOUT
        self.calls.append(command)
        folder = next(each.partition("WorkingDirectory=")[2] for each in command if "WorkingDirectory=" in each)
        (Path(folder) / "made").write_text("by the build")
        return self

    @property
    def stdout(self) -> list[str]:
        return self.output.splitlines(keepends=True)

    def wait(self) -> int:
        return self.returncode

    def property(self, name: str) -> str:
        return next(each.partition(f"{name}=")[2] for each in self.calls[-1] if each.startswith(f"--property={name}="))


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> Unit:
    made = Unit()
    stand_in = SimpleNamespace(Popen=made, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(staging, "subprocess", stand_in)
    return made


def test_a_build_runs_as_the_application_in_its_code_before_the_proof_and_leaves_it_to_root(
    host: AppServer, unit: Unit, tmp_path: Path
) -> None:
    id_ = publish(tmp_path, build(tmp_path, build="make it for ${HOME:-all}"))
    staging.stage(id_, {})
    place, code = common.RELEASES / id_, common.RELEASES / id_ / "code"
    assert (code / "made").read_text() == "by the build"
    assert unit.calls[-1][-3:] == ["bash", "-c", "make it for $${HOME:-all}"]
    names = ("User", "WorkingDirectory", "ReadWritePaths", "EnvironmentFile", "ProtectSystem")
    assert [unit.property(name) for name in names] == ["app", str(code), str(code), f"{place}/environment", "strict"]
    assert 0 < int(unit.property("RuntimeMaxSec")) <= 300
    assert [line for line in host.others if line.endswith(str(code)) or "app-build" in line] == [
        "systemctl stop app-build.service",
        f"chown -R app:app {code}",
        f"chown -R root:root {code}",
        f"chmod -R u=rwX,go=rX {code}",
    ]
    assert host.events[0] == "start app-proof, live None"


def test_a_build_that_fails_is_told_with_its_last_lines_and_nothing_is_staged(
    host: AppServer, unit: Unit, tmp_path: Path
) -> None:
    unit.returncode, unit.output = 3, "".join(f"line {number}\n" for number in range(20))
    lines = "".join(f"\n    line {number}" for number in range(5, 20))
    with pytest.raises(AppServerError, match=f"^`make it` failed with exit code 3; its last lines:{lines}$"):
        staging.stage(publish(tmp_path, build(tmp_path, build="make it")), {})
    assert staged_releases() == []
    assert host.events == []


def test_a_build_has_the_time_that_staging_has_left(
    host: AppServer, unit: Unit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del host
    # 100 s of staging are over when it begins; it ends 200 s later.
    monkeypatch.setattr("time.monotonic", iter([0.0, 100.0, 100.0, 300.0]).__next__)
    unit.returncode = 1
    with pytest.raises(AppServerError, match="`make it` did not finish in the 200 s that staging had left"):
        staging.stage(publish(tmp_path, build(tmp_path, build="make it")), {})
    assert unit.property("RuntimeMaxSec") == "200"
