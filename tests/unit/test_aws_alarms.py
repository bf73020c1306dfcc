"""Alarms on machines of platform aws."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from settings.aws import Alarms
from tests.unit.engine import Build
from tests.unit.test_aws import INSTANCE, built, given

ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
TOPIC = "arn:aws:sns:eu-central-1:123456789012:fleet"
ROLES = ("balancer", "hello-1", "hello-2", "hello-3")


@pytest.fixture(scope="module")
def watched() -> Build:
    return built(alarms=Alarms(sns_topic_arn=TOPIC))


def test_there_are_no_alarms_unless_a_topic_is_given() -> None:
    assert built().of(ALARM) == []


def test_every_machine_is_watched_and_its_alarms_follow_it(watched: Build) -> None:
    names = [f"{role}-{what}" for role in ROLES for what in ("cpu", "host", "system")]
    assert [each.name for each in watched.of(ALARM)] == names
    for role in ROLES:
        mine = watched.children(watched.one(INSTANCE, role))
        assert {each.inputs["dimensions"]["InstanceId"] for each in mine} == {f"{role}-id"}
        assert len(mine) == 3


def test_a_topic_is_told_when_an_alarm_goes_off_and_when_it_is_over(watched: Build) -> None:
    for alarm in watched.of(ALARM):
        assert alarm.inputs["alarmActions"][-1] == TOPIC
        assert alarm.inputs["okActions"] == [TOPIC]
        assert "actionsEnabled" not in alarm.inputs


def test_a_failed_host_and_nothing_else_moves_the_machine(watched: Build) -> None:
    recover = "arn:aws:automate:eu-central-1:ec2:recover"
    moved = {each.inputs["metricName"] for each in watched.of(ALARM) if recover in each.inputs["alarmActions"]}
    assert moved == {"StatusCheckFailed_System"}


def test_what_is_bad_and_for_how_long(watched: Build) -> None:
    limits = {
        (
            each.inputs["metricName"],
            each.inputs["statistic"],
            each.inputs["threshold"],
            each.inputs["evaluationPeriods"],
        )
        for each in watched.of(ALARM)
    }
    assert limits == {
        ("StatusCheckFailed_System", "Maximum", 1, 2),
        ("StatusCheckFailed_Instance", "Maximum", 1, 3),
        ("CPUUtilization", "Average", 90, 15),
    }
    alike = {
        (each.inputs["namespace"], each.inputs["comparisonOperator"], each.inputs["period"])
        for each in watched.of(ALARM)
    }
    assert alike == {("AWS/EC2", "GreaterThanOrEqualToThreshold", 60)}
    assert watched.one(ALARM, "hello-1-cpu").inputs["alarmDescription"].startswith("hello-1 of stack prod: ")


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
    told = r"alarms.sns_topic_arn: is in us-east-1; should be in region \(eu-central-1\)"
    with pytest.raises(ValidationError, match=told):
        given(alarms=Alarms(sns_topic_arn=TOPIC.replace("eu-central-1", "us-east-1")))
