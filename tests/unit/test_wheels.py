"""What one server has installed is kept for the others: both halves against each other, and what goes wrong."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import virtualenv
import wheels

from platforms.lxd import store as directory
from platforms.lxd.store import DirectoryStore
from platforms.transport import Result
from releases import wheels as kept
from releases.drift import find_damage
from releases.release import Release
from releases.rollout import RolloutError
from tests.unit.fake_fleet import ARCHIVE, NAMES, FakeFleet, MemoryStore, release, roll_out

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
PLACE = "/srv/app/releases/"


class Installers(FakeFleet):
    """Servers that install in a folder. order: what was done, where. root: of the first one.

    says, ready: lines of staging. is_staged: by an earlier rollout, so that staging has nothing to do.
    pack and send are those of machine/install/wheels.py.
    """

    root: Path
    order: list[str]
    key: str = KEY
    says: dict[str, str]
    is_staged: bool = False

    @property
    def ready(self) -> str:
        return "" if self.is_staged else f"{virtualenv.READY}{self.key}"

    @property
    def venv(self) -> Path:
        return self.root / "venvs" / self.key

    def exec(self, machine: str, command: Sequence[str], *, stdin: bytes = b"", **options: Any) -> Result:
        if command[0] == "readlink":
            assert self.is_staged
            return Result(0, f"{self.venv}\n")
        if command[0] == "/usr/bin/python3":
            _, _, script, place, verb, *rest = command
            assert script == f"{place}/install/virtualenv.py"
            self.order.append(f"{machine} {verb}")
            if failure := self.fails.get((machine, verb)):
                return Result(1, str(failure))
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                if verb == "pack":
                    print(json.dumps(wheels.pack(self.venv, ["index-token"])))
                else:
                    wheels.print_piece(self.venv, int(*rest))
            return Result(0, printed.getvalue())
        if command[1:2] == ["stage"]:
            self.order.append(f"{machine} stage")
            for line in filter(None, (self.says.get(machine), self.ready)):
                options["on_line"](line)
        return super().exec(machine, command, stdin=stdin)


def numbered_release(number: int, *, is_kept: bool = True) -> Release:
    manifest = json.loads(release(number).manifest) | ({"wheels": True} if is_kept else {})
    return Release(json.dumps(manifest).encode(), ARCHIVE)


def run_rollout(fleet: FakeFleet, number: int, *, is_kept: bool = True, **changes: Any) -> str:
    return roll_out(fleet, number, release=numbered_release(number, is_kept=is_kept), **changes)


@pytest.fixture
def fleet(tmp_path: Path) -> Installers:
    made = Installers(MemoryStore())
    made.root, made.order, made.says = tmp_path, [], {}
    for key in (KEY, OTHER):
        packages = tmp_path / "venvs" / key / "lib" / "site-packages"
        for name in ("flask", "jinja2"):
            (packages / f"{name}.dist-info").mkdir(parents=True)
            (packages / f"{name}.dist-info" / "METADATA").write_text(f"Name: {name}\n")
            (packages / f"{name}.py").write_text(f"{name} = 1\n" * 30_000)
        (tmp_path / "venvs" / key / ".complete").touch()
    return made


def files(fleet: FakeFleet) -> list[str]:
    return fleet.store.keys("wheels/")


def take(fleet: Installers, folder: Path, key: str = KEY) -> Path:
    """Take what the store has into an empty virtualenv of another server, and return that."""
    directory.create(folder / "store")
    store = DirectoryStore(folder / "store")
    for name, content in fleet.store.files.items():
        store.write(f"hello/{name}", content)
    venv = folder / "venvs" / key
    venv.mkdir(parents=True)

    def unpack(archive: Path) -> None:
        subprocess.run(["tar", "-xzf", archive, "-C", venv], check=True)

    assert wheels.take(f"file://{folder}/store/hello", venv, unpack)
    assert not (folder / wheels.ARCHIVE).exists()
    return venv


def test_what_the_first_server_has_installed_is_kept_before_the_others_begin_and_they_take_it(
    fleet: Installers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In several pieces.
    monkeypatch.setattr(wheels, "PIECE", 1 << 10)
    monkeypatch.setattr(wheels, "LINE", 3 << 8)
    id_ = run_rollout(fleet, 1)
    assert fleet.order[:2] == ["a-1 stage", "a-1 pack"]
    assert fleet.order.count("a-1 send") > 1
    assert sorted(fleet.order[-2:]) == ["a-2 stage", "a-3 stage"]
    assert fleet.store.read(f"releases/{id_}/wheels") == KEY.encode()
    assert not (tmp_path / wheels.ARCHIVE).exists()
    printed = capsys.readouterr().out
    assert "a: keeps 2 packages of a-1 for the other servers (0.0 MB)\n" in printed
    assert virtualenv.READY not in printed
    venv = take(fleet, tmp_path / "other")
    assert (venv / "lib" / "site-packages" / "flask.py").read_text() == "flask = 1\n" * 30_000
    assert not (venv / ".complete").exists()
    assert capsys.readouterr().out == "2 packages come from the release store\n"


def test_a_release_with_equal_requirements_keeps_nothing_anew_and_what_no_release_uses_goes(fleet: Installers) -> None:
    run_rollout(fleet, 1, keep_releases=2)
    before = dict(fleet.store.files)
    fleet.order.clear()
    run_rollout(fleet, 2, keep_releases=2)
    assert {each.split()[1] for each in fleet.order} == {"stage"}
    assert {key: before[key] for key in files(fleet)} == {key: fleet.store.files[key] for key in files(fleet)}
    fleet.key = OTHER
    run_rollout(fleet, 3, keep_releases=2)
    assert len(files(fleet)) == 4
    run_rollout(fleet, 4, keep_releases=2)
    assert files(fleet) == [f"wheels/{OTHER}.json", f"wheels/{OTHER}.tar.gz"]


def test_with_the_setting_off_all_begin_at_once_and_nothing_is_kept(fleet: Installers) -> None:
    run_rollout(fleet, 1, is_kept=False)
    assert sorted(fleet.order) == [f"{name} stage" for name in NAMES]
    assert files(fleet) == []


def test_where_the_first_server_cannot_install_the_others_do_not_begin(fleet: Installers) -> None:
    plain = FakeFleet(MemoryStore(), fails={("a-1", "stage"): "the requirements do not install"})
    with pytest.raises(RolloutError, match="a-1, stage: the requirements do not install"):
        run_rollout(plain, 1)
    assert plain.did("stage") == ["a-1"]
    # Where it has installed and does not prove the release, the others have their say.
    fleet.fails = {(name, "stage"): "the module does not import" for name in NAMES}
    with pytest.raises(RolloutError, match="on all 3 servers, stage: the module does not import"):
        run_rollout(fleet, 2)


@pytest.mark.parametrize(
    ("verb", "why"), [("pack", "they take 900 MiB, and more than 512 are not kept"), ("send", "it is gone")]
)
def test_a_release_goes_on_where_nothing_can_be_kept(
    fleet: Installers, capsys: pytest.CaptureFixture[str], verb: str, why: str
) -> None:
    fleet.fails["a-1", verb] = why
    id_ = run_rollout(fleet, 1)
    assert set(fleet.live.values()) == {id_}
    assert f"a: what a-1 has installed is not kept, each server installs by itself: {why}\n" in capsys.readouterr().out
    assert files(fleet) == []


def test_others_do_not_wait_longer_than_a_server_may_take_to_stage(
    fleet: Installers, capsys: pytest.CaptureFixture[str]
) -> None:
    id_ = run_rollout(fleet, 1, stage_timeout_s=-1)
    assert set(fleet.live.values()) == {id_}
    assert "each server installs by itself: they did not arrive in -1 s\n" in capsys.readouterr().out


def test_a_rollout_that_was_killed_before_anything_was_kept_keeps_it_the_next_time(fleet: Installers) -> None:
    # What is staged already says nothing of its virtualenv.
    fleet.is_staged = True
    run_rollout(fleet, 1)
    assert files(fleet) == [f"wheels/{KEY}.json", f"wheels/{KEY}.tar.gz"]


DAMAGES = {f"wheels/{KEY}.tar.gz": b"\x1f\x8bhalf", f"wheels/{KEY}.json": b"[]"}


@pytest.mark.parametrize("file", DAMAGES)
@pytest.mark.parametrize("server", ["a-1", "a-2"])
def test_what_is_damaged_in_the_store_is_not_used_and_kept_anew(
    fleet: Installers, tmp_path: Path, server: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    id_ = run_rollout(fleet, 1)
    good = dict(fleet.store.files)
    fleet.store.files[file] = DAMAGES[file]
    with pytest.raises(wheels.WheelsError, match=r"^they are damaged \("):
        take(fleet, tmp_path / "other")
    # A server says so. Where it is the first one, which has installed by then, it is mended at once.
    fleet.says = {server: f"{kept.DAMAGED} (sha256 00)"}
    capsys.readouterr()
    run_rollout(fleet, 1)
    assert f"{server}: {kept.DAMAGED} (sha256 00)\n" in capsys.readouterr().out
    if server != "a-1":
        assert find_damage(fleet.store, id_) == f"wheels/{KEY} in the store is gone"
        fleet.says = {}
        run_rollout(fleet, 1)
    assert find_damage(fleet.store, id_) == ""
    assert [fleet.store.files[key] for key in files(fleet)] == [good[key] for key in files(fleet)]


@pytest.mark.parametrize("file", DAMAGES)
def test_one_file_of_two_is_found_to_be_damage_and_kept_anew(fleet: Installers, file: str) -> None:
    id_ = run_rollout(fleet, 1)
    content = fleet.store.files.pop(file)
    assert find_damage(fleet.store, id_) == f"wheels/{KEY} in the store is gone"
    run_rollout(fleet, 1)
    assert (find_damage(fleet.store, id_), fleet.store.files[file]) == ("", content)


def test_a_store_that_has_nothing_for_a_virtualenv_is_no_error(tmp_path: Path) -> None:
    directory.create(tmp_path / "store")
    venv = tmp_path / "venvs" / KEY
    assert not wheels.take(f"file://{tmp_path}/store/hello", venv, lambda _: None)
    with pytest.raises(wheels.WheelsError, match=r"the store file:///gone/hello does not respond: .* is not mounted"):
        wheels.take("file:///gone/hello", venv, lambda _: None)


def test_what_contains_a_secret_of_an_index_or_is_too_large_is_not_packed(
    fleet: Installers, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fleet.venv / "lib" / "site-packages" / "flask.dist-info" / "direct_url.json"
    url.write_text('{"url": "https://me:index-token@host/flask.whl"}')
    with pytest.raises(wheels.WheelsError, match=r"flask.dist-info/direct_url.json contains a secret"):
        wheels.pack(fleet.venv, ["index-token"])
    # A word that packages have is no secret.
    assert wheels.pack(fleet.venv, ["flask"])["packages"] == 2
    monkeypatch.setattr(wheels, "MAX_MIB", 0)
    with pytest.raises(wheels.WheelsError, match=r"^they take 0 MiB, and more than 0 are not kept$"):
        wheels.pack(fleet.venv, [])
