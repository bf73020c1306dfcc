"""What a server's own words mean in one word, and what a person is told to do about it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from commands.observation import observe, rollout_of, server_view, slot_of
from commands.report import Report
from commands.status import format_age
from commands.verdict import State, Verdict, judge
from platforms.server_group import Phase
from releases.fleet import Server
from releases.status import BalancerStatus
from tests.unit.fake_stack import NEW, OLD, facts, front, host_status, make, slots

LOGS = "`./fleet logs --server a-1` says why"
RESTART = "restart the machine (`./fleet shell --server a-1`, then `reboot`)"


SICK = {"path": "/healthz", "status": 500, "line": "boom"}
QUOTED = {"path": "/healthz", "status": 500, "line": '"down"'}
HUNG = {"path": "/healthz", "status": 0, "line": "no response in 3 s"}


GREEN = {"live": NEW, "slots": slots("inactive", "active", of_green=NEW)}
BRINGS = "`pulumi up`, or a restart of the machine, brings it there"
WAIT, SLOW = "wait for it", f"if that takes long, {LOGS}"
UNRELEASED = {"live": None, "slots": slots("inactive", of_blue=None), "queue": None, "health": None}
BOOTING = {"slots": slots("inactive"), "machine": host_status(system="starting")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (State.SERVING,)),
        ({"boot": "activating"}, (State.STARTING, "it has booted and makes itself the current release", WAIT)),
        (UNRELEASED, (State.EMPTY, "no release is here yet", "`pulumi up` brings one")),
        (BOOTING, (State.STARTING, "the machine boots", WAIT)),
        ({"slots": slots("activating")}, (State.STARTING, "the application is being started", SLOW)),
        ({"slots": slots("failed")}, (State.FAILED, "app@blue failed", LOGS)),
        ({"slots": slots("failed", "failed")}, (State.FAILED, "app@blue and app@green failed", LOGS)),
        (
            {"slots": slots("inactive")},
            (State.STOPPED, "no slot runs", f"{RESTART}: it comes back on the current release"),
        ),
        ({"queue": None}, (State.FAILED, "nothing listens on its port", f"{RESTART}; {LOGS}")),
        ({"health": SICK}, (State.FAILED, "GET /healthz is not 200 but: 500 boom", LOGS)),
        ({"health": QUOTED}, (State.FAILED, 'GET /healthz is not 200 but: 500: "down"', LOGS)),
        ({"health": HUNG}, (State.FAILED, "GET /healthz is not 200 but: no response in 3 s", LOGS)),
        (GREEN, (State.OUTDATED, f"it serves {NEW}, the current release is {OLD}", BRINGS)),
        ({"live": NEW, "health": None}, (State.OUTDATED, f"it runs {OLD} and should run {NEW}", BRINGS)),
        # In the middle of a switch both run.
        ({"slots": slots("active", "activating", of_green=NEW)}, (State.SERVING,)),
        ({"slots": slots("active", "active", of_green=NEW)}, (State.SERVING,)),
    ],
)
def test_a_server_is_in_one_state_with_its_cause_and_remedy(changes: dict[str, Any], expected: Any) -> None:
    assert judge("a-1", facts(**changes), OLD, is_moving=False) == Verdict(*expected)


@pytest.mark.parametrize("is_moving", [False, True])
def test_a_server_with_the_release_of_an_interrupted_rollout_is_ahead_with_both_ways_on(is_moving: bool) -> None:
    remedy = f"`pulumi up` or `make local` ends that rollout; a restart of the machine brings it back to {OLD}"
    cause = f"it serves {NEW} of a rollout that has not ended, the current release is {OLD}"
    verdict = Verdict(State.AHEAD, cause, "wait: a rollout is at work" if is_moving else remedy)
    assert judge("a-1", facts(**GREEN), OLD, is_moving=is_moving, unfinished=NEW) == verdict


def test_who_is_behind_while_a_rollout_works_need_only_wait() -> None:
    assert judge("a-1", facts(), NEW, is_moving=True).remedy == "wait: a rollout is at work"


def test_the_slot_that_is_told_is_the_one_with_the_live_release() -> None:
    both = facts(live=NEW, slots=slots("active", "active", of_green=NEW))
    assert slot_of(both) == "green"
    assert slot_of(facts(live=NEW)) == "blue"
    assert slot_of(facts(slots=slots("inactive"))) is None


def make_view(changes: dict[str, Any], balancer: BalancerStatus | None, phase: Phase | None = None) -> Any:
    report = Report(facts(**changes), "", 0, 0)
    return server_view(Server("a-1", "m"), "10.0.0.1", report, balancer, OLD, is_moving=False, phase=phase)


def test_what_waits_is_the_larger_of_what_the_kernel_and_the_gateway_count() -> None:
    gateway = {"blue": facts().gateway["blue"].model_copy(update={"listen_queue": 9})}
    assert [make_view({"queue": queue, "gateway": gateway}, None).listen_queue for queue in (0, 9, 28)] == [9, 9, 28]


def test_a_drained_server_that_does_not_run_is_drained_and_says_the_rest() -> None:
    view = make_view({"slots": slots("inactive")}, front(drained=["10.0.0.1"], active=["10.0.0.2"]))
    assert view.state is State.DRAINED
    assert view.cause == "it was drained by hand; else it would be stopped: no slot runs"
    assert view.remedy == "`./fleet admit a-1` sends it requests again"


HANGS = "GET /healthz was not 200 for 4 s: no response in 2 s"


@pytest.mark.parametrize(
    ("changes", "active", "expected"),
    [
        ({}, ["10.0.0.2"], f"{HANGS}; it gets no requests"),
        ({}, ["10.0.0.1"], f"{HANGS}; the balancer still sends it requests, because no other server is healthy"),
        ({"queue": None}, ["10.0.0.2"], f"{HANGS}; it gets no requests; nothing listens on its port"),
    ],
)
def test_a_server_that_the_balancer_finds_unhealthy_is_so_and_says_why(
    changes: dict[str, Any], active: list[str], expected: str
) -> None:
    health = {"age_s": 1.0, "servers": {"10.0.0.1": {"healthy": False, "why": HANGS}}, "problem": ""}
    view = make_view(changes, front(health=health, active=active))
    assert (view.state, view.cause, view.remedy) == (State.UNHEALTHY, expected, LOGS)
    # What it says of itself says more.
    assert make_view({"slots": slots("inactive")}, front(health=health)).state is State.STOPPED
    assert make_view({}, front(health=health, drained=["10.0.0.1"])).state is State.DRAINED


@pytest.mark.parametrize(
    ("phase", "state", "cause"),
    [
        (Phase.WAITING, State.STARTING, "its group waits until it serves the current release"),
        (
            Phase.SERVING,
            State.STARTING,
            "the balancer does not know this server yet; it reads the list of the group's servers every 5 s",
        ),
        (Phase.STANDBY, State.DRAINED, "its group has it on standby"),
        (None, State.STOPPED, "the balancer sends it no requests"),
    ],
)
def test_a_server_that_serves_and_that_the_balancer_does_not_know_is_on_its_way(
    phase: Phase | None, state: State, cause: str
) -> None:
    view = make_view({}, front(active=["10.0.0.2"]), phase=phase)
    assert (view.state, view.cause) == (state, cause)


def test_a_balancer_that_does_not_know_its_groups_has_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = make(monkeypatch)
    health: dict[str, Any] = {"age_s": 1.0, "servers": {}, "problem": "AWS has no Auto Scaling group g"}
    stack.machines.traffic(front(health=health))
    assert observe(stack.target()).balancer_problem == "AWS has no Auto Scaling group g"


def test_what_the_balancer_cannot_tell_is_not_known_and_ages_are_by_the_machines_own_clock() -> None:
    view = make_view({"live_since_s": 1000.0, "machine": host_status(clock_s=1090.5)}, None)
    assert (view.state, view.requests_per_s, view.errors_5xx) == (State.SERVING, None, None)
    assert view.release_age_s == 90.5
    quiet = make_view({}, front(upstreams={}))
    assert (quiet.requests_per_s, quiet.errors_5xx, quiet.p50_ms) == (0.0, 0, None)


@pytest.mark.parametrize(("beat_ago_s", "lives"), [(0, True), (59, True), (61, False)])
def test_a_rollout_whose_process_was_killed_is_no_rollout(beat_ago_s: float, lives: bool) -> None:
    now = time.time()
    lock = {"who": "ann@build", "since": "2026-11-24T20:00:00+00:00", "what": "release x", "beat": now - beat_ago_s}
    lock |= {"token": "secret", "process": 1, "host": "build"}
    holder: dict[str, Any] = {
        "who": "ann@build",
        "since": "2026-11-24T20:00:00+00:00",
        "what": "release x",
        "servers": {},
    }
    assert rollout_of(lock, now) == (holder if lives else None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 s"), (119.9, "120 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_a_duration_is_told_in_its_largest_whole_unit(seconds: float | None, text: str) -> None:
    assert format_age(seconds) == text
