"""An instance refresh that is started, watched, and taken back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import tests.aws.instance_refresh as stand_in
from platforms.aws import instance_refresh
from platforms.aws.instance_refresh import Refresh, RefreshError
from tests.aws.group_calls import Groups
from tests.aws.scaling_group import Group, Instance

WANTED = {"LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": "2"}}
PROPS = {"region": "eu-central-1", "group": "g", "layout": "uwsgi, systemd 2", "configuration": json.dumps(WANTED)}
NOW = datetime.now(UTC)


class Api:
    """What boto3 would answer. states: of the refresh, one for each look. failed: launches that failed."""

    def __init__(self, *states: tuple[str, str], there: Sequence[dict[str, Any]] = (), failed: int = 0) -> None:
        self.states, self.there, self.failed = list(states), list(there), failed
        self.calls: list[str] = []
        self.started: dict[str, Any] = {}

    def describe_instance_refreshes(self, **given: Any) -> Any:
        if "InstanceRefreshIds" not in given:
            return {"InstanceRefreshes": self.there}
        status, why = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        found = {"Status": status, "PercentageComplete": 50, "InstancesToUpdate": 1, "StartTime": NOW}
        return {"InstanceRefreshes": [found | ({"StatusReason": why} if why else {})]}

    def start_instance_refresh(self, **given: Any) -> Any:
        self.calls.append("start")
        self.started = given
        return {"InstanceRefreshId": "r-1"}

    def rollback_instance_refresh(self, **_: Any) -> None:
        self.calls.append("rollback")
        self.states = [("RollbackInProgress", ""), ("RollbackSuccessful", "")]

    def describe_scaling_activities(self, **_: Any) -> Any:
        one = {
            "StatusCode": "Cancelled",
            "Description": "Launching a new EC2 instance: i-1",
            "StatusMessage": "abandoned",
        }
        old = {**one, "StartTime": NOW - timedelta(minutes=5)}
        new = {**one, "StartTime": NOW + timedelta(seconds=5)}
        return {"Activities": [*([new] * self.failed), old, old]}


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(instance_refresh, "LOOK_S", 0.0)
    monkeypatch.setattr(instance_refresh, "log", lines.append)
    return lines


def run(api: Api) -> None:
    refresh = Refresh("eu-central-1", "g")
    refresh.__dict__["client"] = api
    refresh.run(WANTED)


def test_each_step_is_told_and_one_that_succeeds_is_all(output: list[str]) -> None:
    api = Api(("Pending", ""), ("InProgress", ""), ("InProgress", ""), ("Successful", ""))
    run(api)
    assert output == [
        "g: Pending, 50 %, 1 to go",
        "g: InProgress, 50 %, 1 to go",
        "g: every server is of the new launch template",
    ]
    assert (api.calls, api.started["DesiredConfiguration"]) == (["start"], WANTED)
    asked = {"MinHealthyPercentage": 100, "SkipMatching": True, "AutoRollback": True}
    assert asked.items() <= api.started["Preferences"].items()


def test_it_goes_back_when_servers_of_it_do_not_come_and_says_why(output: list[str]) -> None:
    api = Api(("InProgress", ""), failed=2)
    with pytest.raises(
        RefreshError,
        match=r"^g: its servers were not replaced \(RollbackSuccessful\): 2 servers did not come: abandoned",
    ):
        run(api)
    assert api.calls == ["start", "rollback"]
    assert "g: goes back: 2 servers did not come: abandoned" in output


def test_one_launch_that_fails_or_older_ones_are_no_reason(output: list[str]) -> None:
    del output
    api = Api(("InProgress", ""), ("InProgress", ""), ("Successful", ""), failed=1)
    run(api)
    assert api.calls == ["start"]


def test_what_aws_ends_is_a_failure_with_its_words(output: list[str]) -> None:
    del output
    with pytest.raises(RefreshError, match=r"\(Cancelled\): by a user\nlook at it"):
        run(Api(("Cancelled", "by a user")))


def test_one_that_a_killed_up_began_is_watched_on_and_another_one_is_refused(output: list[str]) -> None:
    del output
    mine = {"InstanceRefreshId": "r-1", "Status": "InProgress", "DesiredConfiguration": WANTED}
    api = Api(("Successful", ""), there=[mine])
    run(api)
    assert api.calls == []
    with pytest.raises(RefreshError, match="another instance refresh is InProgress"):
        run(Api(("Successful", ""), there=[{**mine, "DesiredConfiguration": {}}]))


def test_another_template_is_a_refresh_and_another_gateway_is_refused_in_a_preview() -> None:
    provider = instance_refresh._Provider()  # pyright: ignore[reportPrivateUsage]
    assert provider.create(PROPS).outs == PROPS
    assert provider.diff("g", PROPS, dict(PROPS)).changes is False
    found = provider.diff("g", PROPS, PROPS | {"configuration": "{}"})
    assert (found.changes, found.replaces) == (True, [])
    assert not provider.check(PROPS, dict(PROPS)).failures
    assert not provider.check({}, dict(PROPS)).failures
    (failure,) = provider.check(PROPS, PROPS | {"layout": "uwsgi, systemd 4"}).failures
    assert "made for uwsgi, systemd 2 and not for uwsgi, systemd 4" in failure.reason


def test_a_drained_server_does_not_hold_it_up_and_the_stand_in_takes_nothing_else() -> None:
    assert instance_refresh.PREFERENCES["StandbyInstances"] == "Terminate"
    assert instance_refresh.PREFERENCES == stand_in.PREFERENCES


def test_the_stand_in_terminates_servers_on_standby_of_the_template_before() -> None:
    aws: Any = None
    refreshes, now, before = stand_in.Refreshes(aws, Groups(aws)), {"Version": "2"}, {"Version": "1"}
    running = stand_in.Refresh("g", WANTED, {}, status="InProgress", template=now)
    refreshes._made.append(running)  # pyright: ignore[reportPrivateUsage]
    group = Group("g", "arn:g", {}, min=1, max=3, desired=1)
    for number, (template, state) in enumerate(((now, "InService"), (before, "EnteringStandby"), (now, "Standby"))):
        group.instances[f"i-{number}"] = Instance(f"i-{number}", "t4g.small", "a", template, number, state=state)
    drained = group.instances["i-1"]
    for state, after in (("EnteringStandby", "EnteringStandby"), ("Standby", "Terminating")):
        drained.state = state
        refreshes.step(group, {"i-0"})
        assert (running.status, drained.state) == ("InProgress", after)
    refreshes.step(group, {"i-0"})
    assert (running.status, group.instances["i-2"].state) == ("Successful", "Standby")
