"""The rollout over a fake fleet: every failure at every phase, and what serves after it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from releases.release import Release
from releases.rollout import Plan, Rollout, RolloutError, Server, current
from releases.transport import Result, Unreachable

NAMES = ["a-1", "a-2", "a-3"]


class MemoryStore:
    """The Store protocol over a dict."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, key: str) -> bytes | None:
        return self.files.get(key)

    def write(self, key: str, content: bytes) -> None:
        self.files[key] = content

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.files if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self.files.pop(key, None)


@dataclass
class FakeFleet:
    """A Transport whose servers keep the promises of machine/release.py.

    fails: (server, verb) -> what happens instead: a text (exit 1), or an exception. A failure with "once" in it
    happens once.
    """

    store: MemoryStore
    live: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(NAMES))
    staged: dict[str, set[str]] = field(default_factory=lambda: {name: set[str]() for name in NAMES})
    fails: dict[tuple[str, str], str | Exception] = field(default_factory=dict[tuple[str, str], "str | Exception"])
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    secrets: dict[str, Any] = field(default_factory=dict[str, Any])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def exec(
        self,
        machine: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        del timeout_s, on_line
        verb, *rest = command[1:]
        with self.lock:
            self.calls.append((machine, verb))
            failure = self.fails.get((machine, verb))
            if isinstance(failure, Exception):
                raise failure
            if failure:
                return Result(1, f"working\nerror: {failure}")
            if verb == "status":
                return Result(0, json.dumps({"live": self.live[machine], "staged": sorted(self.staged[machine])}))
            if verb == "stage":
                assert self.store.read(f"releases/{rest[0]}/manifest.json"), "staged before it was published"
                self.secrets[machine] = json.loads(stdin)
                self.staged[machine].add(rest[0])
            if verb == "switch":
                assert rest[0] in self.staged[machine], "switched to what is not staged"
                self.live[machine] = rest[0]
            if verb == "prune":
                self.staged[machine] &= set(rest)
            return Result(0, "done")

    def did(self, verb: str) -> list[str]:
        return [machine for machine, called in self.calls if called == verb]


def release(number: int) -> Release:
    return Release(manifest=f'{{"number": {number}}}'.encode(), archive=b"archive")


def roll_out(
    fleet: FakeFleet, number: int, *, names: Sequence[str] = NAMES, keep: int = 5, allow_unreachable: int = 0
) -> str:
    plan = Plan(
        app="a",
        release=release(number),
        servers=[Server(name, name) for name in names],
        secrets={"PASSWORD": "hunter2"},
        stage_timeout_s=10,
        start_timeout_s=10,
        drain_timeout_s=10,
        allow_unreachable=allow_unreachable,
        keep_releases=keep,
    )
    Rollout(plan, fleet, fleet.store, lambda _line: None).run()
    return plan.release.id


def a_fleet_on(number: int) -> tuple[FakeFleet, str]:
    fleet = FakeFleet(MemoryStore())
    id_ = roll_out(fleet, number)
    fleet.calls.clear()
    return fleet, id_


def test_a_release_is_staged_everywhere_before_it_is_switched_anywhere() -> None:
    fleet = FakeFleet(MemoryStore())
    id_ = roll_out(fleet, 1)
    verbs = [verb for _, verb in fleet.calls]
    assert verbs == ["status"] * 3 + ["stage"] * 3 + ["switch"] * 3 + ["prune"] * 3
    assert fleet.live == dict.fromkeys(NAMES, id_)
    assert current(fleet.store) == id_


def test_servers_are_switched_one_after_the_other_in_order() -> None:
    fleet, _ = a_fleet_on(1)
    roll_out(fleet, 2)
    assert fleet.did("switch") == NAMES


def test_secrets_go_to_the_servers_and_never_to_the_store() -> None:
    fleet, _ = a_fleet_on(1)
    assert fleet.secrets == {name: {"PASSWORD": "hunter2"} for name in NAMES}
    assert not any(b"hunter2" in content for content in fleet.store.files.values())


@pytest.mark.parametrize("server", NAMES)
@pytest.mark.parametrize(
    ("verb", "failure", "told"),
    [
        ("status", Unreachable("no route"), "reach: unreachable: no route"),
        ("stage", "the module does not import", "stage: the module does not import"),
        ("stage", TimeoutError(), "stage: `stage {id}` did not finish in 50 s"),
        ("stage", Unreachable("gone"), "stage: unreachable: gone"),
    ],
)
def test_a_failure_before_the_switch_switches_nothing_and_names_server_and_phase(
    server: str, verb: str, failure: str | Exception, told: str
) -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails[server, verb] = failure
    with pytest.raises(RolloutError) as error:
        roll_out(fleet, 2)
    assert f"{server}, {told.format(id=release(2).id)}" in str(error.value)
    assert f"release {old} still serves" in str(error.value)
    assert fleet.did("switch") == []
    assert fleet.live == dict.fromkeys(NAMES, old)
    assert current(fleet.store) == old


def test_an_unreachable_server_that_is_allowed_is_left_out_and_the_pointer_waits_for_it() -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails["a-2", "status"] = Unreachable("no route")
    new = roll_out(fleet, 2, allow_unreachable=1)
    assert fleet.live == {"a-1": new, "a-2": old, "a-3": new}
    assert current(fleet.store) == new
    assert fleet.did("stage") == ["a-1", "a-3"]


def test_more_unreachable_servers_than_allowed_switch_nothing() -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails = {(name, "status"): Unreachable("no route") for name in NAMES[:2]}
    with pytest.raises(RolloutError, match=r"(?s)a-1, reach.*a-2, reach"):
        roll_out(fleet, 2, allow_unreachable=1)
    assert fleet.live == dict.fromkeys(NAMES, old)


def test_a_fleet_that_is_all_unreachable_is_no_released_fleet() -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails = {(name, "status"): Unreachable("no route") for name in NAMES}
    with pytest.raises(RolloutError, match="no server can be reached"):
        roll_out(fleet, 2, allow_unreachable=3)
    assert current(fleet.store) == old


def test_every_server_that_fails_to_stage_is_in_the_error() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.fails = {("a-1", "stage"): "no disk", ("a-3", "stage"): "no memory"}
    with pytest.raises(RolloutError, match="a-1, stage: no disk\na-3, stage: no memory"):
        roll_out(fleet, 2)


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("failure", ["GET /healthz was not 200", TimeoutError(), Unreachable("gone")])
def test_a_failing_switch_takes_the_servers_before_it_back(failing: int, failure: str | Exception) -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails[NAMES[failing], "switch"] = failure
    with pytest.raises(RolloutError, match=NAMES[failing]):
        roll_out(fleet, 2)
    assert fleet.live == dict.fromkeys(NAMES, old)
    assert current(fleet.store) == old
    assert fleet.did("switch") == NAMES[: failing + 1] + NAMES[:failing][::-1]


def test_a_server_that_cannot_go_back_is_named_as_well() -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails["a-2", "switch"] = "broken"
    switch_once = fleet.exec

    def exec_(machine: str, command: Sequence[str], **rest: Any) -> Result:
        if machine == "a-1" and list(command[1:]) == ["switch", old]:
            raise Unreachable("lost")
        return switch_once(machine, command, **rest)

    fleet.exec = exec_
    with pytest.raises(
        RolloutError,
        match=rf"(?s)a-2, switch: broken.*going back to {old} failed as well: a-1, switch: unreachable: lost",
    ):
        roll_out(fleet, 2)


def test_a_first_release_that_fails_leaves_no_pointer_and_the_mended_one_goes_on() -> None:
    fleet = FakeFleet(MemoryStore(), fails={("a-2", "stage"): "does not import"})
    with pytest.raises(RolloutError, match="no other release was there before"):
        roll_out(fleet, 1)
    assert current(fleet.store) is None
    fleet.fails.clear()
    id_ = roll_out(fleet, 2)
    assert fleet.live == dict.fromkeys(NAMES, id_)


def test_a_rollout_that_was_killed_after_one_switch_is_finished_by_the_next() -> None:
    fleet, _ = a_fleet_on(1)
    new = release(2)
    fleet.store.write(f"releases/{new.id}/manifest.json", new.manifest)
    fleet.staged["a-1"].add(new.id)
    fleet.live["a-1"] = new.id
    roll_out(fleet, 2)
    assert fleet.live == dict.fromkeys(NAMES, new.id)


def test_the_pointer_moves_only_after_the_last_server() -> None:
    fleet, old = a_fleet_on(1)
    seen: list[str | None] = []
    inner = fleet.exec

    def exec_(machine: str, command: Sequence[str], **rest: Any) -> Result:
        seen.append(current(fleet.store))
        return inner(machine, command, **rest)

    fleet.exec = exec_
    new = roll_out(fleet, 2)
    assert set(seen[:-3]) == {old}
    assert current(fleet.store) == new


def test_only_the_newest_releases_are_kept_on_servers_and_in_the_store() -> None:
    fleet = FakeFleet(MemoryStore())
    ids = [roll_out(fleet, number, keep=2) for number in (1, 2, 3)]
    assert fleet.staged == {name: set(ids[1:]) for name in NAMES}
    assert {key.split("/")[1] for key in fleet.store.keys("releases/")} == set(ids[1:])


def test_a_server_that_cannot_prune_does_not_fail_the_release() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.fails["a-1", "prune"] = "busy"
    id_ = roll_out(fleet, 2)
    assert current(fleet.store) == id_


def test_the_journal_says_who_did_what_and_how_it_ended() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.fails["a-2", "switch"] = "broken"
    with pytest.raises(RolloutError):
        roll_out(fleet, 2)
    lines = [json.loads(line) for line in fleet.store.files[fleet.store.keys("journal/")[-1]].splitlines()]
    assert [line["event"] for line in lines] == [
        "begin",
        "published",
        "staged",
        "switched",
        "switch failed",
        "went back",
        "failed",
    ]
    assert lines[0]["release"] == release(2).id
    assert "@" in lines[0]["who"]
    assert "a-2, switch: broken" in lines[-1]["why"]


def test_a_fleet_without_servers_is_refused() -> None:
    with pytest.raises(RolloutError, match="no servers"):
        roll_out(FakeFleet(MemoryStore()), 1, names=[])
