"""A release is judged by what clients see of it: what is too bad, what says too little, and where it leads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from platforms.transport import Unreachable
from releases.client_watch import BEFORE_S, ClientLimits, judge, slices
from releases.fleet import Server
from releases.pointers import current
from releases.rollout import RolloutError
from releases.status import Summary
from tests.unit.fake_fleet import NAMES, FakeFleet, a_fleet_on, release, roll_out

ADDRESSES = {name: f"10.0.0.{number}" for number, name in enumerate(NAMES, 1)}
GOOD: Summary = (100, 0, 10.0, 20.0)
BAD: Summary = (100, 30, 10.0, 20.0)


def limits(percent: float | None = 10, ratio: float | None = None) -> ClientLimits:
    return ClientLimits(Server("balancer", "balancer"), ADDRESSES, percent, ratio)


@pytest.mark.parametrize(
    ("new", "old", "percent", "ratio", "fault"),
    [
        # 5xx: the points above the release before count, not the share alone.
        (BAD, GOOD, 10, None, "max_error_percent (10)"),
        (BAD, (100, 25, 1.0, 1.0), 10, None, ""),
        ((100, 11, 1.0, 1.0), GOOD, 10, None, "max_error_percent (10)"),
        ((100, 10, 1.0, 1.0), GOOD, 10, None, ""),
        ((1000, 6, 1.0, 1.0), (1000, 0, 1.0, 1.0), 0.5, None, "max_error_percent (0.5)"),
        (BAD, GOOD, None, None, ""),
        # One lone error, or two, stop nothing, whatever the limit.
        ((50, 2, 1.0, 1.0), GOOD, 0, None, ""),
        ((50, 3, 1.0, 1.0), GOOD, 0, None, "max_error_percent (0)"),
        # Too few requests of either release.
        ((49, 49, None, None), GOOD, 10, None, ""),
        (BAD, (49, 0, 1.0, 1.0), 10, None, ""),
        ((0, 0, None, None), (0, 0, None, None), 0, 1.1, ""),
        # p99: by the ratio, from 100 requests on, and by 20 ms at least.
        ((100, 0, 5.0, 61.0), GOOD, None, 3, "max_latency_ratio (3)"),
        ((100, 0, 5.0, 60.0), GOOD, None, 3, ""),
        ((99, 0, 5.0, 900.0), GOOD, None, 3, ""),
        ((100, 0, 5.0, 19.0), (100, 0, 1.0, 2.0), None, 3, ""),
        ((100, 0, None, None), GOOD, None, 3, ""),
        ((100, 0, 5.0, 900.0), (100, 100, None, None), None, 3, ""),
        ((100, 0, 5.0, 900.0), GOOD, 10, None, ""),
    ],
)
def test_a_release_is_worse_only_by_more_than_its_limits_and_by_requests_enough(
    new: Summary, old: Summary, percent: float | None, ratio: float | None, fault: str
) -> None:
    found = judge(new, old, limits(percent, ratio))
    assert fault in found
    assert bool(found) == bool(fault)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(2, [2]), (10, [10]), (25, [10, 10, 5]), (600, [60] * 10), (0.5, [0.5])]
)
def test_a_long_watch_looks_at_clients_at_most_ten_times_and_not_more_often_than_each_ten_seconds(
    seconds: float, expected: Sequence[float]
) -> None:
    assert slices(seconds) == expected


def responses(new: Summary, side: Summary = GOOD, past: Summary = GOOD) -> Callable[[FakeFleet], Any]:
    """Return what the balancer says while servers switch: new of each that has, and the others as given."""

    def of(servers: Any, each: Summary) -> Any:
        return {"all": each, "servers": dict.fromkeys(servers, each)}

    def respond(fleet: FakeFleet) -> Any:
        asked = fleet.asked[-1]
        return {
            "groups": {name: of(asked[name], each) for name, each in (("new", new), ("side", side), ("past", past))}
        }

    return respond


def test_a_release_that_fails_clients_on_the_first_server_goes_back_and_reaches_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet, old = a_fleet_on(1)
    fleet.traffic = responses(BAD)
    with pytest.raises(RolloutError) as caught:
        roll_out(fleet, 2, bake_s=1, client_limits=limits())
    new = release(2).id
    assert str(caught.value) == (
        f"a: clients of release {new}: 30 of 100 requests got 5xx (30.0 %), p99 20 ms; of the release before in the "
        "same time: 0 of 100 requests got 5xx (0.0 %), p99 20 ms; 5xx are more than rollout.max_error_percent (10) "
        "percentage points above those of the one before (a-1: 30 of 100 requests got 5xx (30.0 %), p99 20 ms). "
        "`./fleet logs --server a-1` may say why; a higher limit, or null, takes it as it is\n"
        f"release {new} was not taken: release {old} still serves.\n"
        "Mend the cause and run the same command again (`pulumi up` or `make local`)."
    )
    assert (fleet.live, current(fleet.store), set(fleet.did("switch"))) == (dict.fromkeys(NAMES, old), old, {"a-1"})
    lines = [json.loads(line) for line in fleet.store.files[fleet.store.keys("journal/")[-1]].splitlines()]
    assert [line["event"] for line in lines[-4:]] == ["watched", "switch failed", "went back", "failed"]
    assert lines[-4]["clients"] == {"new": [*BAD], "old": [*GOOD], "beside": True}
    assert f"a: clients of release {new}: 30 of 100" in capsys.readouterr().out


def test_what_shows_only_after_the_last_batch_takes_all_servers_back() -> None:
    fleet, old = a_fleet_on(1)

    def respond(fleet: FakeFleet) -> Any:
        is_last = len(fleet.asked[-1]["new"]) == 3
        return responses(BAD if is_last else GOOD, (0, 0, None, None) if is_last else GOOD)(fleet)

    fleet.traffic = respond
    with pytest.raises(
        RolloutError, match=re.escape(f"of the release before in the {BEFORE_S:.0f} s before: 0 of 100")
    ):
        roll_out(fleet, 2, batch_size=2, client_limits=limits())
    assert fleet.live == dict.fromkeys(NAMES, old)


def test_each_server_is_asked_for_since_its_switch_and_those_before_beside_it_and_before_it() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.traffic = responses(GOOD)
    roll_out(fleet, 2, bake_s=1, client_limits=limits())
    assert fleet.did("groups") == ["balancer"] * 3
    first, _, last = fleet.asked
    assert ({*first["new"]}, {*first["side"]}, {*first["past"]}) == (
        {"10.0.0.1"}, {"10.0.0.2", "10.0.0.3"}, {*ADDRESSES.values()},
    )  # fmt: skip
    assert ({*last["new"]}, last["side"]) == ({*ADDRESSES.values()}, {})
    assert last["new"]["10.0.0.1"][0] > last["new"]["10.0.0.3"][0] >= last["new"]["10.0.0.3"][1] == 0
    from_s, until_s = last["past"]["10.0.0.2"]
    assert from_s - until_s == BEFORE_S
    assert until_s >= last["new"]["10.0.0.1"][0]


def test_a_server_of_a_group_is_known_by_the_address_in_its_target() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.traffic = responses(GOOD)
    names = ["i-1@10.0.0.7"]
    fleet.live, fleet.staged = {names[0]: release(1).id}, {names[0]: {release(1).id}}
    roll_out(fleet, 2, names=names, bake_s=1, client_limits=limits())
    assert [*fleet.asked[0]["new"]] == ["10.0.0.7"]


def test_too_few_requests_are_told_with_how_many_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    fleet, _ = a_fleet_on(1)
    fleet.traffic = responses((12, 12, None, None), GOOD)
    id_ = roll_out(fleet, 2, client_limits=limits())
    said = f"a: clients of release {id_}: 12 of 12 requests got 5xx (100.0 %); the release before: 100"
    assert f"{said}; to judge it 50 of each are needed" in capsys.readouterr().out
    assert current(fleet.store) == id_


def test_a_release_that_nobody_visits_is_not_told_so_at_each_look(capsys: pytest.CaptureFixture[str]) -> None:
    fleet, _ = a_fleet_on(1)
    fleet.traffic = responses((0, 0, None, None), (0, 0, None, None))
    roll_out(fleet, 2, bake_s=20, client_limits=limits())
    assert len(fleet.asked) > 2
    assert capsys.readouterr().out.count("0 of 0 requests") == 1


@pytest.mark.parametrize(
    "failure", [Unreachable("no route"), TimeoutError(), "No such file or directory", {"groups": {}}, {"groups": 1}, []]
)
def test_a_balancer_that_cannot_be_asked_fails_no_release_and_is_asked_once(
    failure: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, _ = a_fleet_on(1)
    if isinstance(failure, str | Exception):
        fleet.fails["balancer", "groups"] = failure
    else:
        fleet.traffic = lambda _: failure
    id_ = roll_out(fleet, 2, bake_s=1, client_limits=limits())
    assert (current(fleet.store), fleet.did("groups")) == (id_, ["balancer"])
    assert "a: what clients see is not known, and the release goes on without it: " in capsys.readouterr().out


def test_nobody_is_asked_without_limits_for_a_first_release_or_where_servers_come_to_the_one_that_serves() -> None:
    fleet, _ = a_fleet_on(1)
    roll_out(fleet, 2)
    fleet.live["a-3"] = release(1).id
    roll_out(fleet, 2, client_limits=limits())
    fleet.live = dict.fromkeys(NAMES)
    roll_out(fleet, 3, client_limits=limits())
    assert fleet.did("groups") == []


def test_a_server_that_a_killed_rollout_left_on_the_release_is_watched_as_well() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.staged["a-2"].add(release(2).id)
    fleet.live["a-2"] = release(2).id
    fleet.traffic = responses(BAD)
    with pytest.raises(RolloutError, match="a-1: 30 of 100 requests got 5xx"):
        roll_out(fleet, 2, bake_s=1, client_limits=limits())
    assert {*fleet.asked[0]["new"]} == {"10.0.0.1", "10.0.0.2"}
    assert fleet.live == dict.fromkeys(NAMES, release(1).id)


def test_a_first_server_that_a_killed_rollout_left_on_the_release_is_watched_before_any_other_switches() -> None:
    fleet, old = a_fleet_on(1)
    fleet.staged["a-1"].add(release(2).id)
    fleet.live["a-1"] = release(2).id
    fleet.traffic = responses(BAD)
    fleet.calls.clear()
    with pytest.raises(RolloutError, match="a-1: 30 of 100 requests got 5xx"):
        roll_out(fleet, 2, bake_s=1, client_limits=limits())
    assert (fleet.did("bake"), {*fleet.did("switch")}) == (["a-1"], {"a-1"})
    assert fleet.live == dict.fromkeys(NAMES, old)


def test_a_release_that_serves_is_not_watched_again_for_a_server_that_comes() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.live["a-3"] = None
    fleet.calls.clear()
    roll_out(fleet, 1, bake_s=1, client_limits=limits())
    assert fleet.did("bake") == []
