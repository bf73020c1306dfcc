"""Static files over a fake fleet, with the balancer's own script: they are there before pages refer to them."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import tarfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import static_files
import symlinks

from platforms.transport import Result, Unreachable
from releases.fleet import Server
from releases.journal import entries
from releases.release import Release
from releases.rollback import RollbackError
from releases.rollout import RolloutError
from tests.unit.fake_fleet import NAMES, FakeFleet, MemoryStore, go_back, roll_out

BALANCER = Server("balancer", "front")
STATIC = {"folder": "public", "url_path": "/static/"}


@dataclass
class FleetWithBalancer(FakeFleet):
    """Servers that have one static file, named by the release; and a balancer that runs the real script."""

    def exec(self, machine: str, command: Sequence[str], *, stdin: bytes = b"", **rest: Any) -> Result:
        if machine == BALANCER.target:
            return self._balancer(command, stdin)
        result = super().exec(machine, command, stdin=stdin, **rest)
        if command[1:2] == ["static"] and not result.exit_code:
            assert command[2] in self.staged[machine], "asked for what is not staged"
            text = base64.encodebytes(archive(command[2])).decode()
            return Result(0, str(self.fails.get((machine, "sends"), text)))
        return result

    def _balancer(self, command: Sequence[str], stdin: bytes) -> Result:
        program, verb, *_ = command
        assert program == "/usr/local/lib/wsgi-fleet/static_files.py"
        with self.lock:
            self.calls.append((BALANCER.target, verb))
            failure = self.fails.get((BALANCER.target, verb))
            if isinstance(failure, Exception):
                raise failure
            if failure:
                return Result(1, f"error: {failure}")
            with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as output:
                patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
                static_files.main(command[1:])
            return Result(0, output.getvalue())


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        info = tarfile.TarInfo(f"static/{name}")
        info.size = len(name)
        made.addfile(info, io.BytesIO(name.encode()))
    return buffer.getvalue()


def release(number: int, static: dict[str, str] | None = STATIC) -> Release:
    return Release(
        json.dumps({"number": number, "static": static, "release_task": "migrate"}).encode(), Path(os.devnull)
    )


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FleetWithBalancer:
    """Create a fleet that serves release 1."""
    monkeypatch.setattr(static_files, "ROOT", tmp_path)
    monkeypatch.setattr(static_files, "LOCK", tmp_path / "lock")
    made = FleetWithBalancer(MemoryStore())
    up(made, 1)
    made.calls.clear()
    return made


def up(fleet: FleetWithBalancer, number: int, **changes: Any) -> str:
    values: dict[str, Any] = {"release": release(number), "balancer": BALANCER}
    return roll_out(fleet, number, **values | changes)


def served_files() -> set[str]:
    return {file.name for file in (static_files.ROOT / "a" / "served" / "static").iterdir()}


def live() -> str | None:
    return symlinks.link_target(static_files.ROOT / "a" / "live")


def test_files_come_from_the_first_server_after_all_have_staged_and_before_anything_is_switched(
    fleet: FleetWithBalancer,
) -> None:
    up(fleet, 2)
    did = [f"{machine} {verb}" for machine, verb in fleet.calls]
    put = did.index("front put")
    assert did[put - 2 : put + 2] == ["front status", "a-1 static", "front put", "a-1 task"]
    assert set(did[: put - 2]) == {f"{name} {verb}" for name in NAMES for verb in ("status", "stage")}
    assert did.index("a-1 switch") > put
    assert did.index("front point") > max(place for place, each in enumerate(did) if each.endswith(" switch"))
    assert did[-1] == "front prune"


def test_the_old_release_is_served_until_the_new_one_is_everywhere_and_beside_it_after(
    fleet: FleetWithBalancer,
) -> None:
    old, new = release(1).id, release(2).id
    seen: list[tuple[str | None, set[str]]] = []
    fleet.before = lambda _, verb: seen.append((live(), served_files())) if verb == "switch" else None
    up(fleet, 2)
    assert seen == [(old, {old, new})] * 3
    assert (live(), served_files()) == (new, {old, new})


@pytest.mark.parametrize(
    ("machine", "verb", "failure", "message"),
    [
        ("a-1", "static", "static.folder: public: no such folder", "a-1, static files: static.folder: public"),
        ("a-1", "sends", "no base64!", "a-1, static files: what it sent is no archive"),
        ("front", "put", "No space left on device", "balancer, static files: No space left"),
        ("front", "status", Unreachable("no route"), "balancer, static files: unreachable: no route"),
    ],
)
def test_files_that_do_not_get_there_switch_nothing(
    fleet: FleetWithBalancer, machine: str, verb: str, failure: str | Exception, message: str
) -> None:
    fleet.fails[machine, verb] = failure
    with pytest.raises(RolloutError) as error:
        up(fleet, 2)
    assert message in str(error.value)
    assert fleet.did("switch") == fleet.did("task") == []
    assert (live(), served_files()) == (release(1).id, {release(1).id})


def test_a_release_that_is_not_taken_leaves_no_files_served(fleet: FleetWithBalancer) -> None:
    fleet.fails["a-2", f"switch {release(2).id}"] = "GET /healthz was not 200"
    with pytest.raises(RolloutError, match="GET /healthz was not 200"):
        up(fleet, 2)
    assert (live(), served_files()) == (release(1).id, {release(1).id})
    assert fleet.did("drop") == ["front"]


def test_a_balancer_that_fails_after_the_switch_is_looked_at_by_the_next_up(fleet: FleetWithBalancer) -> None:
    fleet.fails["front", "point"] = Unreachable("no route")
    new = up(fleet, 2)
    assert fleet.live == dict.fromkeys(NAMES, new)
    assert served_files() == {release(1).id, new}
    newest = next(entries(fleet.store))
    assert (newest.result, newest.missing, newest.is_settled) == ("done", ("balancer",), False)
    fleet.fails.clear()
    up(fleet, 2)
    assert live() == new
    assert next(entries(fleet.store)).is_settled


def test_files_that_are_there_are_not_sent_again_but_another_balancer_gets_those_of_what_serves(
    fleet: FleetWithBalancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(fleet, 1)
    assert (fleet.did("static"), fleet.did("put")) == ([], ["front"])
    monkeypatch.setattr(static_files, "ROOT", tmp_path / "another")
    up(fleet, 1)
    assert (live(), served_files()) == (release(1).id, {release(1).id})


def test_a_release_without_static_files_and_a_fleet_without_a_balancer_touch_none(fleet: FleetWithBalancer) -> None:
    up(fleet, 2, release=release(2, static=None))
    up(fleet, 3, balancer=None)
    assert "front" not in [machine for machine, _ in fleet.calls]


def test_who_goes_back_gets_the_files_of_that_release_first_among_as_many_as_servers_keep(
    fleet: FleetWithBalancer,
) -> None:
    _, old, new = (up(fleet, number, keep_releases=2) for number in (2, 3, 4))
    assert {each.name for each in (static_files.ROOT / "a" / "releases").iterdir()} == {old, new}
    fleet.calls.clear()
    assert go_back(fleet, balancer=BALANCER) == old
    did = [f"{machine} {verb}" for machine, verb in fleet.calls]
    assert (did[:2], did[-1]) == (["front status", "front put"], "front point")
    assert (live(), served_files()) == (old, {old, new})


def test_who_goes_back_is_not_held_up_by_a_balancer_that_fails(fleet: FleetWithBalancer) -> None:
    old = release(1).id
    up(fleet, 2)
    fleet.fails["front", "status"] = fleet.fails["front", "point"] = "the disk is full"
    assert go_back(fleet, balancer=BALANCER) == old
    assert fleet.live == dict.fromkeys(NAMES, old)
    assert not next(entries(fleet.store)).is_settled


def test_a_way_back_that_fails_leaves_the_files_as_they_were(fleet: FleetWithBalancer) -> None:
    old, new = release(1).id, up(fleet, 2)
    up(fleet, 3)
    fleet.fails["a-2", f"switch {old}"] = "GET /healthz was 500"
    with pytest.raises(RollbackError, match="GET /healthz was 500"):
        go_back(fleet, old, balancer=BALANCER)
    assert fleet.did("drop") == ["front"]
    assert live() == release(3).id
    assert served_files() == {release(3).id, new}


def test_what_a_balancer_fetches_by_itself_stands_beside_the_releases_and_goes_with_them(
    fleet: FleetWithBalancer,
) -> None:
    _, old, new = (up(fleet, number, keep_releases=2, keeps_static=True) for number in (2, 3, 4))

    def kept() -> set[str]:
        return {key for key in fleet.store.keys("releases/") if key.endswith("/static.tar.gz")}

    assert kept() == {f"releases/{each}/static.tar.gz" for each in (old, new)}
    fleet.store.delete(f"releases/{old}/static.tar.gz")
    assert go_back(fleet, balancer=BALANCER, keeps_static=True) == old
    assert len(kept()) == 2
