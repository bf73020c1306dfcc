"""What `up` asks before it says that nothing changed, and what of the store may be damaged without hurting anybody."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from commands.observation import rollout_of
from commands.releases import history
from platforms import operator
from platforms.transport import Unreachable
from releases import lock, pointers
from releases.drift import UNKNOWN, find_damage, find_drift, find_strays
from releases.journal import DAMAGED, entries
from tests.unit.fake_fleet import NAMES, MemoryStore, a_fleet_on, roll_out

BALANCER = {"name": "balancer", "target": "m-9", "unit": "nginx.service"}
SERVERS = [{"name": name, "target": name} for name in NAMES]


def newest_journal(store: MemoryStore) -> str:
    return store.keys("journal/")[-1]


DAMAGES = {
    "pointer": b"",
    "manual-changes": b"\xff\x00",
    "releases/{}/manifest.json": b"{",
    "releases/{}/code.tar.gz": b"\x1f\x8b\x08\x00damaged",
    "journal": b'{"event": "begin',
    "lock": b"garbage",
}


@pytest.mark.parametrize("key", DAMAGES)
@pytest.mark.parametrize("is_gone", [False, True], ids=["damaged", "gone"])
def test_one_file_of_the_store_that_is_damaged_is_noticed_and_mended_by_the_next_up(key: str, is_gone: bool) -> None:
    fleet, release = a_fleet_on(1)
    store = fleet.store
    pointers.count_manual_change(store)
    assert (find_drift(store, release, 1), find_damage(store)) == ("", "")
    path = newest_journal(store) if key == "journal" else key.format(release)
    if is_gone:
        store.delete(path)
    else:
        store.write(path, DAMAGES[key])
    # Without a lock no rollout is running. Without a number or a journal the fleet differs from the state.
    assert (find_drift(store, release, 1) != "") == (key != "lock" or not is_gone)
    if not is_gone:
        assert find_damage(store, release).startswith(f"{path} in the store ")
    assert roll_out(fleet, 1) == release
    number = pointers.manual_changes(store)
    if number < 0:
        pointers.count_manual_change(store)
    assert find_drift(store, release, pointers.manual_changes(store)) == ""


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": 1}', b"\xff"])
def test_a_lock_that_does_not_read_is_nobodys(content: bytes) -> None:
    fleet, _ = a_fleet_on(1)
    fleet.store.write(lock.KEY, content)
    assert rollout_of(lock.parse(content), time.time()) is None
    roll_out(fleet, 2)
    assert fleet.store.read(lock.KEY) is None


def test_a_journal_that_does_not_read_is_listed_as_damaged_and_counts_for_nothing() -> None:
    fleet, first = a_fleet_on(1)
    second = roll_out(fleet, 2)
    fleet.store.write(newest_journal(fleet.store), b"{")
    newest, before = entries(fleet.store)
    assert (newest.release, newest.result, before.release) == (second, DAMAGED, first)
    assert "is damaged" in history(cast("Any", fleet.store))[0]["why"]


def test_a_pointer_that_does_not_read_names_nothing_and_a_rejection_stays_one() -> None:
    store = MemoryStore()
    store.write(pointers.POINTER, b"\xff\xfe/../x")
    assert pointers.current(store) is None
    store.write(f"{pointers.REJECTED}r1", b"{")
    assert str(pointers.rejection(store, "r1")).startswith("release r1 was rejected by somebody at a time")


def test_a_server_that_serves_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, release = a_fleet_on(1)
    monkeypatch.setattr(operator, "transport", lambda _: fleet)  # pyright: ignore

    def strays(**host: str) -> list[str]:
        return list(find_strays({"platform": "lxd", **host}, SERVERS, BALANCER, release))

    assert strays() == []
    fleet.live |= {"a-2": "older", "a-3": None}
    assert strays() == ["a-2 serves older", "a-3 serves nothing"]
    # One that does not respond is not for a release to mend, and what is not known cannot be asked.
    fleet.fails = {("a-2", "status"): Unreachable("gone"), ("a-3", "status"): TimeoutError()}
    assert strays() == []
    fleet.proxy = "inactive"
    assert strays() == ["balancer does not serve: nginx.service is inactive"]
    fleet.fails["m-9", "is-active"] = Unreachable("gone")
    assert strays() == []
    fleet.calls.clear()
    assert (strays(host=UNKNOWN), fleet.calls) == ([], [])
