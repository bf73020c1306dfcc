"""What an app server does with its releases: which one it boots, how it changes over, what it keeps."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import app_status
import common
import pytest
import release
import symlinks
from common import AppServerError
from fetch import FetchError

from tests.unit.app_server import AppServer, lay_out

RETRY = "systemd-run --unit=app-boot-retry-{} --collect --on-active=60 {} retry"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppServer:
    """Create a server with the releases r1, which serves, and r2, both staged."""
    made = lay_out(tmp_path, monkeypatch)
    made.place("r1")
    made.place("r2")
    made.serves("r1")
    return made


class Store:
    """What stands in for fetch and stage. holds: the pointer, or why it cannot be read or the release not be staged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.holds: bytes | Exception = b""
        self.fails: Exception | None = None
        self.staged: list[tuple[str, Any]] = []
        (common.CONFIG / "store").write_text("file:///srv/store/hello\n")
        monkeypatch.setattr(release, "fetch", self.fetch)
        monkeypatch.setattr(release, "stage", self.stage)

    def fetch(self, store: str, key: str, *, missing_ok: bool) -> bytes:
        assert (store, key, missing_ok) == ("file:///srv/store/hello", "pointer", True)
        if isinstance(self.holds, Exception):
            raise self.holds
        return self.holds

    def stage(self, name: str, secrets: dict[str, str] | None) -> None:
        if self.fails:
            raise self.fails
        self.staged.append((name, secrets))


@pytest.fixture
def store(host: AppServer, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return the store of a server that boots: nothing serves yet."""
    host.states = {"app.socket": "active"}
    (common.SLOTS / "blue").unlink()
    return Store(monkeypatch)


def links() -> tuple[str | None, ...]:
    """Return what live, blue and green name."""
    return tuple(map(symlinks.link_target, (common.LIVE, common.SLOTS / "blue", common.SLOTS / "green")))


def test_the_old_slot_may_drain_as_long_as_its_release_says(host: AppServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[tuple[str, float]] = []

    def stop(name: str, drain_s: float) -> None:
        stopped.append((name, drain_s))

    monkeypatch.setattr(release, "stop", stop)
    release.switch("r2")
    assert stopped == [("blue", 75)]
    assert host.states["app@green"] == "active"


@pytest.mark.parametrize("pointer", [b"", b"r1\n"])
def test_a_server_boots_what_was_live_when_the_store_names_it_or_nothing(
    host: AppServer, store: Store, pointer: bytes
) -> None:
    store.holds = pointer
    release.boot()
    assert links() == ("r1", "r1", None)
    assert (store.staged, host.others) == ([], [])


def test_a_server_that_was_away_boots_what_the_store_names_with_the_secrets_it_knows(store: Store) -> None:
    store.holds = b"r2\n"
    release.boot()
    assert store.staged == [("r2", None)]
    assert links() == ("r2", "r2", None)


def test_a_new_server_without_a_store_boots_nothing(host: AppServer, store: Store) -> None:
    (common.CONFIG / "store").unlink()
    common.LIVE.unlink()
    store.holds = AssertionError("asked a store that nobody named")
    release.boot()
    assert list(common.SLOTS.iterdir()) == []
    assert host.others == []


@pytest.mark.parametrize(
    "trouble",
    [
        (FetchError("the store does not respond"), None),
        (OSError("no route"), None),
        (b"r2", AppServerError("its secrets changed while this server was away")),
        (b"r2", FetchError("the store has no manifest")),
        (b"r2", TimeoutError("pip install did not finish")),
    ],
)
def test_a_server_that_cannot_take_what_the_store_names_boots_what_was_live_and_tries_again(
    host: AppServer,
    store: Store,
    trouble: tuple[bytes | Exception, Exception | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.holds, store.fails = trouble
    monkeypatch.setattr("time.time_ns", iter([17, 18]).__next__)
    release.boot()
    release.boot()
    assert links() == ("r1", "r1", None)
    assert host.others == [RETRY.format(number, release.__file__) for number in (17, 18)]
    assert capsys.readouterr().out.startswith("keeping r1, next try in 60 s: ")


def test_a_boot_leaves_a_slot_that_serves_alone(host: AppServer, store: Store) -> None:
    store.holds = b"r1"
    host.serves("r1", "green")
    release.boot()
    assert links() == ("r1", None, "r1")
    assert host.events == []


def test_a_second_try_changes_over_to_what_it_found(host: AppServer, store: Store) -> None:
    host.serves("r1")
    store.holds = b"r2"
    release.retry()
    assert links() == ("r2", "r1", "r2")
    assert host.events == ["start app@green, live r1", "stop app@blue, live r2"]


def test_the_new_slot_is_healthy_and_live_before_the_old_one_drains(host: AppServer) -> None:
    release.switch("r2")
    assert host.events == ["start app@green, live r1", "stop app@blue, live r2"]
    assert links() == ("r2", "r1", "r2")
    assert host.applied == ["r2"]
    release.switch("r1")
    assert host.events[2:] == ["start app@blue, live r2", "stop app@green, live r1"]


def test_a_release_that_does_not_get_healthy_is_stopped_and_the_old_one_serves_on(host: AppServer) -> None:
    host.starts = [1]
    with pytest.raises(AppServerError, match="wsgi:app did not start"):
        release.switch("r2")
    assert host.events == ["start app@green, live r1", "stop app@green, live r1"]
    assert links()[0] == "r1"
    assert host.states["app@blue"] == "active"


def test_a_release_that_serves_is_left_and_what_an_interrupted_switch_left_is_stopped(host: AppServer) -> None:
    symlinks.atomic_symlink(common.SLOTS / "green", common.RELEASES / "r2")
    host.states["app@green"] = "active"
    release.switch("r1")
    assert host.events == ["stop app@green, live r1"]


def test_a_release_that_does_not_answer_any_more_is_started_anew(host: AppServer) -> None:
    host.answers = [ConnectionRefusedError()]
    release.switch("r1")
    assert host.events == ["start app@green, live r1", "stop app@blue, live r1"]


def test_only_a_staged_release_can_serve(host: AppServer) -> None:
    (common.RELEASES / "r2" / ".staged").unlink()
    with pytest.raises(AppServerError, match="r2 is not staged here; stage it first"):
        release.switch("r2")
    assert host.events == []


def test_pruning_keeps_what_is_named_what_is_live_and_what_still_serves(host: AppServer) -> None:
    for name in ("r3", "r4", "r5", ".r6.partial"):
        host.place(name)
    for name, venv in {"r1": "v1", "r2": "v1", "r3": "v2", "r4": "v3"}.items():
        (common.VENVS / venv).mkdir(exist_ok=True)
        (common.RELEASES / name / "venv").symlink_to(common.VENVS / venv)
    symlinks.atomic_symlink(common.SLOTS / "green", common.RELEASES / "r3")
    host.states = {"app@green": "active"}
    release.prune(["r5"])
    assert sorted(each.name for each in common.RELEASES.iterdir()) == ["r1", "r3", "r5"]
    assert sorted(each.name for each in common.VENVS.iterdir()) == ["v1", "v2"]


@pytest.mark.usefixtures("host")
def test_the_status_says_what_serves_and_what_is_staged() -> None:
    (common.RELEASES / "r2" / ".staged").unlink()
    found = app_status.app_status()
    assert (found["live"], found["staged"]) == ("r1", ["r1"])
    assert found["slots"] == {
        "blue": {"state": "active", "release": "r1"},
        "green": {"state": "inactive", "release": None},
    }


@pytest.mark.usefixtures("host")
def test_a_link_is_moved_at_once_whatever_a_killed_run_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app" / ".live.new").symlink_to("nowhere")
    seen: list[tuple[str | None, str]] = []
    rename = Path.rename

    def rename_and_look(self: Path, target: Path) -> Path:
        seen.append((symlinks.link_target(common.LIVE), self.resolve().name))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_and_look)
    symlinks.atomic_symlink(common.LIVE, common.RELEASES / "r2")
    assert seen == [("r1", "r2")]
    assert sorted(each.name for each in (tmp_path / "app").iterdir()) == ["live", "releases", "slots", "venvs"]


@pytest.mark.usefixtures("host")
def test_one_verb_runs_at_a_time() -> None:
    with (common.RUN / "wsgi-fleet.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            pytest.raises(AppServerError, match=r"has the lock of this server for 0 s; wait .* run the same"),
            common.lock(0),
        ):
            pass
    with common.lock(0):
        pass


@pytest.mark.parametrize("state", ["failed", "inactive"])
def test_a_socket_that_failed_is_started_anew_with_the_slot_that_held_its_port(host: AppServer, state: str) -> None:
    host.states["app.socket"] = state
    release.switch("r2")
    assert host.events == [
        "stop app@blue, live r1",
        "start app.socket, live r1",
        "start app@blue, live r1",
        "start app@green, live r1",
        "stop app@blue, live r2",
    ]
    assert host.states == {"app.socket": "active", "app@blue": "inactive", "app@green": "active"}


def test_a_boot_by_hand_mends_a_socket_that_failed(host: AppServer, store: Store) -> None:
    store.holds = b"r1"
    host.serves("r1")
    host.states["app.socket"] = "failed"
    release.boot()
    assert host.events == ["stop app@blue, live r1", "start app.socket, live r1", "start app@blue, live r1"]


def test_a_socket_that_failed_while_nothing_serves_is_left_to_the_slot_that_starts(host: AppServer) -> None:
    host.states = {"app.socket": "failed", "app@blue": "failed"}
    release.switch("r2")
    assert host.events == ["start app@blue, live r1"]
