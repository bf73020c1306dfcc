"""The way back over a fake fleet."""

from __future__ import annotations

import pytest

from platforms.transport import Unreachable
from releases import lock, pointers
from releases.journal import entries, read_movement
from releases.pointers import current
from releases.rollback import RollbackError
from releases.rollout import RolloutError
from tests.unit.fake_fleet import NAMES, FakeFleet, MemoryStore, go_back, roll_out


def three_releases() -> tuple[FakeFleet, list[str]]:
    fleet = FakeFleet(MemoryStore())
    ids = [roll_out(fleet, number) for number in (1, 2, 3)]
    fleet.calls.clear()
    return fleet, ids


def test_without_an_id_the_release_before_serves_again_on_every_server() -> None:
    fleet, (_, second, third) = three_releases()
    assert go_back(fleet) == current(fleet.store) == second
    assert (fleet.live, fleet.did("stage")) == (dict.fromkeys(NAMES, second), [])
    assert pointers.rejection(fleet.store, third) is not None
    newest = next(entries(fleet.store))
    assert (newest.release, newest.is_rollback, newest.result) == (second, True, "done")


def test_the_journal_of_a_rollback_tells_when_each_server_switched() -> None:
    fleet, _ = three_releases()
    movement = read_movement(fleet.store, go_back(fleet))
    assert movement is not None
    begin, *switches, end = movement.events
    assert (begin["servers"], end["event"]) == (list(NAMES), "done")
    assert {(each["event"], each["server"]) for each in switches} == {("switched", name) for name in NAMES}
    assert all(begin["after_s"] <= each["began_s"] <= each["after_s"] <= end["after_s"] for each in switches)


def test_twice_goes_two_releases_back_and_to_a_rejected_one_only_by_name() -> None:
    fleet, (first, _, third) = three_releases()
    go_back(fleet)
    assert go_back(fleet) == first
    with pytest.raises(RollbackError, match=f"there is no release before {first}"):
        go_back(fleet)
    assert go_back(fleet, third) == third
    assert pointers.rejection(fleet.store, third) is None


def test_an_id_may_be_shortened_and_an_unknown_one_is_told_with_those_there_are() -> None:
    fleet, (first, second, third) = three_releases()
    with pytest.raises(RollbackError, match=f"no release zzz; these can be gone back to: {second}, {first}"):
        go_back(fleet, "zzz")
    with pytest.raises(RollbackError, match=f"{third} serves already"):
        go_back(fleet, third)
    assert go_back(fleet, first[:6]) == first


def test_the_next_up_notices_and_refuses_what_was_rejected() -> None:
    fleet, (_, second, _) = three_releases()
    number = pointers.manual_changes(fleet.store)
    go_back(fleet)
    assert pointers.manual_changes(fleet.store) == number + 1
    with pytest.raises(RolloutError, match="was rejected"):
        roll_out(fleet, 3)
    assert roll_out(fleet, 2) == second
    assert roll_out(fleet, 4) == current(fleet.store)


def test_a_server_that_cannot_go_back_leaves_all_on_the_release_that_served() -> None:
    fleet, (_, second, third) = three_releases()
    fleet.fails["a-2", f"switch {second}"] = "GET /healthz was 500"
    with pytest.raises(RollbackError, match=rf"a-2, switch: GET /healthz was 500\nrelease {third} still serves"):
        go_back(fleet)
    assert (fleet.live, current(fleet.store)) == (dict.fromkeys(NAMES, third), third)
    movement = read_movement(fleet.store, second)
    assert movement is not None
    events = [(each["event"], each.get("server")) for each in movement.events]
    assert sorted(events[1:3]) == [("switched", "a-1"), ("switched", "a-3")]
    assert sorted(events[3:-1]) == [("went back", name) for name in NAMES]
    assert (events[0][0], events[-1][0]) == ("begin", "failed")


def test_a_server_that_is_away_takes_it_when_it_boots() -> None:
    fleet, (_, second, third) = three_releases()
    fleet.fails["a-2", "status"] = Unreachable("no route")
    assert go_back(fleet) == second
    assert fleet.live == {"a-1": second, "a-2": third, "a-3": second}
    newest = next(entries(fleet.store))
    # So the next up looks at it again.
    assert (newest.missing, newest.is_settled) == (("a-2",), False)


def test_a_journal_that_cannot_be_written_keeps_no_server_from_its_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, (_, second, _) = three_releases()
    write = fleet.store.write

    def write_once(key: str, content: bytes) -> None:
        if key.startswith("journal/") and key in fleet.store.keys("journal/"):
            raise PermissionError(key)
        write(key, content)

    monkeypatch.setattr(fleet.store, "write", write_once)
    with pytest.raises(PermissionError):
        go_back(fleet)
    assert (fleet.live, current(fleet.store)) == (dict.fromkeys(NAMES, second), second)


@pytest.mark.parametrize("is_rollback", [False, True])
def test_a_journal_that_fails_while_servers_switch_is_whole_with_the_next_event(
    monkeypatch: pytest.MonkeyPatch, *, is_rollback: bool
) -> None:
    fleet, _ = three_releases()
    write = fleet.store.write

    def write_other_events(key: str, content: bytes) -> None:
        if key.startswith("journal/") and b'"switched"' in content.splitlines()[-1]:
            raise PermissionError(key)
        write(key, content)

    monkeypatch.setattr(fleet.store, "write", write_other_events)
    id_ = go_back(fleet) if is_rollback else roll_out(fleet, 4)
    assert (fleet.live, current(fleet.store)) == (dict.fromkeys(NAMES, id_), id_)
    movement = read_movement(fleet.store, id_)
    assert movement is not None
    assert sorted(each["server"] for each in movement.events if each["event"] == "switched") == list(NAMES)


def test_a_server_that_has_not_staged_it_stages_it_with_the_secrets_it_has() -> None:
    fleet, (_, second, _) = three_releases()
    fleet.staged["a-3"].discard(second)
    go_back(fleet)
    assert fleet.did("stage") == ["a-3"]
    assert fleet.secrets["a-3"] is None


def test_it_waits_for_nobody_who_is_at_work() -> None:
    fleet, _ = three_releases()
    with lock.acquire(fleet.store, "release x", print), pytest.raises(RollbackError, match="is at work"):
        go_back(fleet)
