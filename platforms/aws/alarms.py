"""CloudWatch alarms on machines, from what EC2 itself measures: nothing has to run on them."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

import settings
from platforms.aws.partition import partition_of


@dataclass(frozen=True)
class _Watched:
    """A metric of EC2 and when it is bad. minutes: in a row. told: what a person reads."""

    name: str
    metric: str
    statistic: str
    at_least: float
    minutes: int
    told: str
    recovers: bool = False


# Two and three minutes as in docs.aws.amazon.com/AWSEC2/latest/UserGuide/UsingAlarmActions.html.
_WATCHED = (
    _Watched("host", "StatusCheckFailed_System", "Maximum", 1, 2, "its host failed; EC2 moves it to another", True),
    _Watched("system", "StatusCheckFailed_Instance", "Maximum", 1, 3, "it does not answer; see ./fleet status"),
    _Watched("cpu", "CPUUtilization", "Average", 90, 15, "its CPU is used up; add servers or a larger instance_type"),
)


def machine_alarms(
    name: str, role: str, instance: aws.ec2.Instance, given: settings.Aws, provider: aws.Provider
) -> None:
    """Tell the topic, where there is one, what happens to a machine (FSBP CloudWatch.15: an alarm has an action)."""
    if given.alarms is None:
        return
    topic = given.alarms.sns_topic_arn
    recover = f"arn:{partition_of(given.region).name}:automate:{given.region}:ec2:recover"
    for watched in _WATCHED:
        aws.cloudwatch.MetricAlarm(
            f"{name}-{watched.name}",
            alarm_description=f"{role}: {watched.told}",
            namespace="AWS/EC2",
            metric_name=watched.metric,
            dimensions={"InstanceId": instance.id},
            statistic=watched.statistic,
            comparison_operator="GreaterThanOrEqualToThreshold",
            threshold=watched.at_least,
            # Machines have detailed monitoring: a value a minute.
            period=60,
            evaluation_periods=watched.minutes,
            # A machine that was just made has no values yet.
            treat_missing_data="missing",
            alarm_actions=[*([recover] if watched.recovers else []), topic],
            ok_actions=[topic],
            opts=pulumi.ResourceOptions(parent=instance, provider=provider),
        )
