"""Alarms on machines of platform aws."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from harness.mock_engine import Build
from settings.watch import Alarms
from tests.unit.test_aws import INSTANCE, STEP, built, given

ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
TOPIC = "arn:aws:sns:eu-central-1:123456789012:fleet"
ROLES = ("balancer", "hello-1", "hello-2", "hello-3")


@pytest.fixture(scope="module")
def watched() -> Build:
    return built(alarms=Alarms(sns_topic_arn=TOPIC))


def test_there_are_no_alarms_unless_a_topic_is_given() -> None:
    assert built().of(ALARM) == []


def test_every_machine_is_watched_and_its_alarms_follow_it(watched: Build) -> None:
    every = {role: {"cpu", "disk", "host", "system"} for role in ROLES}
    every["balancer"] |= {"errors", "members"}
    assert {each.name for each in watched.of(ALARM)} == {f"{role}-{what}" for role in ROLES for what in every[role]}
    for role in ROLES:
        mine = watched.children(watched.one(INSTANCE, role))
        assert {each.name.removeprefix(f"{role}-") for each in mine} == every[role]
        assert {json.dumps(each.inputs["dimensions"]) for each in mine} == {f'{{"InstanceId": "{role}-id"}}'}


def test_a_topic_is_told_when_an_alarm_goes_off_and_when_it_is_over(watched: Build) -> None:
    for alarm in watched.of(ALARM):
        assert alarm.inputs["alarmActions"][-1] == TOPIC
        assert alarm.inputs["okActions"] == [TOPIC]
        assert "actionsEnabled" not in alarm.inputs


def test_a_failed_host_and_nothing_else_moves_the_machine(watched: Build) -> None:
    recover = "arn:aws:automate:eu-central-1:ec2:recover"
    moved = {each.inputs["metricName"] for each in watched.of(ALARM) if recover in each.inputs["alarmActions"]}
    assert moved == {"StatusCheckFailed_System"}


def limits(made: Build, namespace: str) -> set[tuple[Any, ...]]:
    """Return (metric, statistic, threshold, minutes, what silence means) of the alarms on a namespace."""
    keys = ("metricName", "statistic", "threshold", "evaluationPeriods", "treatMissingData")
    mine = [each.inputs for each in made.of(ALARM) if each.inputs["namespace"] == namespace]
    return {tuple(each[key] for key in keys) for each in mine}


def test_what_is_bad_and_for_how_long(watched: Build) -> None:
    assert limits(watched, "AWS/EC2") == {
        ("StatusCheckFailed_System", "Maximum", 1, 2, "missing"),
        ("StatusCheckFailed_Instance", "Maximum", 1, 3, "missing"),
        ("CPUUtilization", "Average", 90, 15, "missing"),
    }
    # A machine that reports nothing is no machine that is well.
    assert limits(watched, "wsgi-fleet/prod") == {
        ("DiskUsedPercent", "Maximum", 85, 5, "breaching"),
        ("Errors5xxPercent", "Average", 5, 5, "breaching"),
        ("UnhealthyMembers", "Maximum", 1, 3, "breaching"),
    }
    alike = {(each.inputs["comparisonOperator"], each.inputs["period"]) for each in watched.of(ALARM)}
    assert alike == {("GreaterThanOrEqualToThreshold", 60)}
    assert watched.one(ALARM, "hello-1-cpu").inputs["alarmDescription"].startswith("hello-1 of stack prod: ")


def test_thresholds_are_the_users(watched: Build) -> None:
    made = built(alarms=Alarms(sns_topic_arn=TOPIC, errors_5xx_percent=50, disk_percent=60))
    moved = limits(made, "wsgi-fleet/prod") - limits(watched, "wsgi-fleet/prod")
    assert {each[:3] for each in moved} == {("DiskUsedPercent", "Maximum", 60), ("Errors5xxPercent", "Average", 50)}


def test_an_alarm_on_what_a_machine_reports_waits_for_its_first_report(watched: Build) -> None:
    for each in watched.of(ALARM):
        role, _, what = each.name.rpartition("-")
        waits = each.depends_on(watched.one(STEP, f"{role}-monitoring"))
        assert waits == (what in ("disk", "errors", "members")), each.name


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"errors_5xx_percent": 0}, "greater than or equal to 1"),
        ({"errors_5xx_percent": 101}, "less than or equal to 100"),
        ({"disk_percent": 100}, "less than or equal to 99"),
        ({"disk_percent": "85"}, "valid integer"),
        ({"errors_percent": 5}, "Extra inputs"),
    ],
)
def test_a_threshold_that_means_nothing_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Alarms.model_validate({"sns_topic_arn": TOPIC, **changed})


def test_the_action_is_of_the_partition() -> None:
    topic = TOPIC.replace("arn:aws:sns:eu-central-1", "arn:aws-cn:sns:cn-north-1")
    made = built(region="cn-north-1", alarms=Alarms(sns_topic_arn=topic))
    actions = made.one(ALARM, "balancer-host").inputs["alarmActions"]
    assert actions == ["arn:aws-cn:automate:cn-north-1:ec2:recover", topic]


@pytest.mark.parametrize(
    "topic", ["", "fleet", "arn:aws:sqs:eu-central-1:123456789012:fleet", f"{TOPIC} ", f"{TOPIC}\n", f"{TOPIC}.fifo"]
)
def test_what_is_no_topic_is_refused(topic: str) -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        Alarms(sns_topic_arn=topic)


def test_a_topic_of_another_region_is_refused() -> None:
    told = r"alarms.sns_topic_arn: is in us-east-1; take one in region \(eu-central-1\)"
    with pytest.raises(ValidationError, match=told):
        given(alarms=Alarms(sns_topic_arn=TOPIC.replace("eu-central-1", "us-east-1")))
