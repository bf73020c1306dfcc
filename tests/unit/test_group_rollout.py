"""The rollout over a group that moves: who comes late, who goes meanwhile, and what the group is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from platforms.server_group import Phase, ServerGroupError
from platforms.transport import Unreachable
from releases import live
from releases.group_rollout import NO_SERVERS, GroupRollout
from releases.journal import entries
from releases.live import LiveServers
from releases.plan import Plan
from releases.pointers import current
from releases.release import Release
from releases.rollback import roll_back
from releases.rollout import RolloutError
from tests.unit.fake_fleet import FakeFleet, MemoryStore, release
from tests.unit.fake_group import FakeGroup, L, S, W


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_S", 0.0)
    monkeypatch.setattr(live, "MEMBERS_TIMEOUT_S", 0.2)
    monkeypatch.setattr(live, "HEALTH_TIMEOUT_S", 0.2)


def at(number: int) -> str:
    """Return the target of the number-th machine that the group has had."""
    return f"i-{number}@10.0.0.{number}"


class Moving:
    """A group of an application, its machines, and what a rollout said."""

    def __init__(self, **phases: Phase) -> None:
        self.group = FakeGroup({name.replace("_", "-"): phase for name, phase in phases.items()})
        machines = [at(number) for number in range(1, 6)]
        self.fleet = FakeFleet(MemoryStore(), live=dict.fromkeys(machines), staged={each: set() for each in machines})
        self.said: list[str] = []
        self.live = LiveServers("a", self.group, self.said.append)

    def roll_out(self, number: int, **changes: Any) -> str:
        fields = ("stage_timeout_s", "start_timeout_s", "drain_timeout_s", "task_timeout_s")
        values: dict[str, Any] = dict.fromkeys(fields, 10) | {"app": "a", "secrets": {}}
        values |= {"release": release(number, changes.pop("task", None)), "servers": self.live.wait()}
        values |= {"allow_unreachable": 0, "keep_releases": 5, "batch_size": 1, "bake_s": 0} | changes
        rollout = GroupRollout(Plan(**values), self.fleet, self.fleet.store, self.said.append, live=self.live)
        rollout.run()
        return values["release"].id

    def on(self, verb: str, then: Callable[[str], object]) -> None:
        """Do something before the first time that a machine gets this verb."""
        left = [then]

        def before(machine: str, called: str) -> None:
            if called == verb and left:
                left.pop()(machine)

        self.fleet.before = before

    def lose(self, machine: str) -> None:
        """Have a machine be gone, as the group and as the network have it."""
        self.group.phases[machine.partition("@")[0]] = L
        for verb in ("status", "stage", "switch", "prune", "task", "bake", "-c"):
            self.fleet.fails[machine, verb] = Unreachable("no route")


def test_it_goes_to_those_that_serve_first_and_to_those_that_wait_and_to_no_other() -> None:
    moving = Moving(i_1=W, i_2=S, i_3=L)
    first = moving.roll_out(1)
    assert {machine for machine, id_ in moving.fleet.live.items() if id_ == first} == {at(1), at(2)}
    moving.fleet.calls.clear()
    moving.roll_out(2)
    assert moving.fleet.did("switch") == [at(2), at(1)]


def test_servers_are_held_while_they_switch_and_let_go_after_a_failure_as_well() -> None:
    moving = Moving(i_1=S, i_2=S)
    protected: list[set[str]] = []
    moving.on("switch", lambda _: protected.append({*moving.group.protected}))
    moving.roll_out(1)
    assert (protected, moving.group.protected) == ([{"i-1", "i-2"}], set())
    moving.fleet.fails[at(2), "switch"] = "it does not start"
    with pytest.raises(RolloutError, match="it does not start"):
        moving.roll_out(2)
    assert moving.group.protected == set()


def test_one_that_comes_meanwhile_takes_the_release_although_it_booted_the_one_before() -> None:
    moving = Moving(i_1=S)
    old = moving.roll_out(1)

    def come(_machine: str) -> None:
        moving.group.phases["i-2"] = S
        moving.fleet.live[at(2)] = old

    moving.on("switch", come)
    new = moving.roll_out(2)
    assert moving.fleet.live[at(2)] == new
    assert moving.group.replaced == []
    assert next(entries(moving.fleet.store)).result == "done"


def test_a_late_one_that_cannot_take_the_release_is_replaced_and_the_release_serves() -> None:
    moving = Moving(i_1=S)
    moving.on("switch", lambda _: moving.group.phases.update({"i-2": S}))
    moving.fleet.fails[at(2), "stage"] = "the disk is full"
    new = moving.roll_out(1)
    assert (moving.group.replaced, current(moving.fleet.store)) == (["i-2"], new)
    assert any("a-i-2 did not take the release and is replaced: " in line for line in moving.said)


@pytest.mark.parametrize("verb", ["-c", "status", "stage", "switch", "prune"])
def test_one_that_goes_meanwhile_is_no_failure(verb: str) -> None:
    moving = Moving(i_1=S, i_2=S, i_3=S)
    moving.roll_out(1)
    moving.on(verb, lambda _: moving.lose(at(1)))
    new = moving.roll_out(2)
    assert [moving.fleet.live[at(number)] for number in (2, 3)] == [new, new]
    assert current(moving.fleet.store) == new
    assert next(entries(moving.fleet.store)).is_settled


def test_the_others_stage_though_the_one_goes_that_installs_for_them() -> None:
    moving = Moving(i_1=S, i_2=S)
    moving.roll_out(1)
    made = release(2)
    keeps = Release(json.dumps(json.loads(made.manifest) | {"wheels": True}).encode(), made.archive)
    moving.on("stage", lambda _: moving.lose(at(1)))
    new = moving.roll_out(2, release=keeps)
    assert (moving.fleet.live[at(2)], current(moving.fleet.store)) == (new, new)


def test_one_that_fails_and_is_still_there_is_a_failure_as_ever() -> None:
    moving = Moving(i_1=S, i_2=S)
    old = moving.roll_out(1)
    moving.fleet.fails[at(2), "switch"] = Unreachable("no route")
    with pytest.raises(RolloutError, match="a-i-2"):
        moving.roll_out(2)
    assert (moving.fleet.live[at(1)], current(moving.fleet.store)) == (old, old)


def test_a_release_of_which_no_server_is_left_is_not_taken() -> None:
    moving = Moving(i_1=S)
    old = moving.roll_out(1)
    moving.on("switch", lambda _: moving.lose(at(1)))
    with pytest.raises(RolloutError, match=NO_SERVERS):
        moving.roll_out(2)
    assert current(moving.fleet.store) == old


def test_a_release_task_is_run_by_another_one_where_its_server_goes() -> None:
    moving = Moving(i_1=S, i_2=S)
    moving.roll_out(1)
    moving.on("task", lambda _: moving.lose(at(1)))
    new = moving.roll_out(2, task="migrate")
    assert moving.fleet.did("task") == [at(1), at(2)]
    assert current(moving.fleet.store) == new


def test_a_group_that_gets_no_servers_says_why() -> None:
    moving = Moving()
    with pytest.raises(ServerGroupError, match=r"^0 of 1 servers came in .* s: no capacity for t3\.small"):
        moving.live.wait()


def test_a_release_is_done_once_the_load_balancer_finds_enough_of_it_healthy() -> None:
    moving = Moving(i_1=W)
    with pytest.raises(RolloutError, match="0 of 1 servers get requests"):
        moving.roll_out(1)
    moving.group.phases["i-1"] = S
    moving.roll_out(1)


def test_a_rollback_reaches_those_that_come_meanwhile() -> None:
    moving = Moving(i_1=S)
    old, new = moving.roll_out(1), moving.roll_out(2)

    def come(_machine: str) -> None:
        moving.group.phases["i-2"] = S
        moving.fleet.live[at(2)] = new

    moving.on("switch", come)
    servers = moving.live.servers()
    hands = GroupRollout(
        Plan("a", release(2), servers, {}, 10, 10, 10, 10, 1, 0, 0, 5),
        moving.fleet,
        moving.fleet.store,
        print,
        live=moving.live,
    ).fleet
    assert roll_back(hands, moving.fleet.store, servers, None, print, live=moving.live) == old
    assert {moving.fleet.live[at(number)] for number in (1, 2)} == {old}
