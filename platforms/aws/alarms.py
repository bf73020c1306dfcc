"""CloudWatch alarms: on what EC2 sees of a machine, and on the metrics of cloudwatch_metrics.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pulumi
import pulumi_aws as aws

from platforms import Machine
from platforms.aws.partition import partition_of
from settings.aws import Aws
from settings.cloudwatch import Alarms


@dataclass(frozen=True)
class _AlarmSpec:
    """A metric and when it is bad. minutes: in a row. description: what a person reads.

    action: of EC2 on the machine, "" for none. is_reported: by the machine itself; then silence is bad as well.
    """

    name: str
    metric: str
    statistic: str
    at_least: float
    minutes: int
    description: str
    action: str = ""
    is_reported: bool = False


_CPU = _AlarmSpec(
    "cpu", "CPUUtilization", "Average", 90, 15, "its CPU is used up; add servers or a larger instance_type"
)
# Two and three minutes as in docs.aws.amazon.com/AWSEC2/latest/UserGuide/UsingAlarmActions.html: not both at a time.
_EC2_ALARMS = (
    _AlarmSpec(
        "host", "StatusCheckFailed_System", "Maximum", 1, 2, "its host failed; EC2 moves it to another", "recover"
    ),
    _AlarmSpec(
        "system", "StatusCheckFailed_Instance", "Maximum", 1, 3, "it does not respond; EC2 restarts it", "reboot"
    ),
    _CPU,
)
# Metrics of a group that its alarm reads; they are free, and off by default.
GROUP_METRICS = {"least": "GroupMinSize", "serving": "GroupInServiceInstances"}
# Minutes in which a group replaces a server, even if one launch fails. Not measured on AWS.
GROUP_MINUTES = 15
_GROUP_CPU = replace(
    _CPU, description="the CPU of its servers is used up; raise fleet.capacity.max or take a larger instance_type"
)
_SILENCE = ", or it has stopped reporting"


def agent_metrics(alarms: Alarms, *, balancer: bool) -> Sequence[_AlarmSpec]:
    """Return the metrics that a machine reports each minute. Five minutes outlast a restart, and three a release."""
    disk = _AlarmSpec(
        "disk",
        "DiskUsedPercent",
        "Maximum",
        alarms.disk_percent,
        5,
        f"its disk is nearly full; see ./fleet doctor{_SILENCE}",
        is_reported=True,
    )
    if not balancer:
        return (disk,)
    errors = _AlarmSpec(
        "errors",
        "Errors5xxPercent",
        "Average",
        alarms.errors_5xx_percent,
        5,
        f"clients get errors; see ./fleet status and ./fleet logs{_SILENCE}",
        is_reported=True,
    )
    servers = _AlarmSpec(
        "servers",
        "UnhealthyServers",
        "Maximum",
        1,
        3,
        f"a server that it sends requests to does not respond; see ./fleet status{_SILENCE}",
        is_reported=True,
    )
    return disk, errors, servers


class MachineAlarms:
    """The alarms of a stack. They notify its topic, where there is one.

    namespace: of the metrics that machines report.
    """

    def __init__(self, config: Aws, stack: str, provider: aws.Provider, *, namespace: str) -> None:
        self._config, self._stack, self._provider, self._namespace = config, stack, provider, namespace

    def create_ec2_alarms(self, name: str, role: str, instance: aws.ec2.Instance) -> None:
        """Create the alarms on what EC2 sees of a machine."""
        opts = pulumi.ResourceOptions(parent=instance, provider=self._provider)
        for alarm in _EC2_ALARMS if self._config.alarms else ():
            self._create_alarm(f"{name}-{alarm.name}", role, {"InstanceId": instance.id}, alarm, opts)

    def create_agent_alarms(
        self,
        name: str,
        role: str,
        machine: Machine,
        reports: pulumi.Resource,
        *,
        balancer: bool,
        is_group: bool = False,
    ) -> None:
        """Create the alarms on what a machine reports of itself. is_group: its id is the name of a group of one.

        They wait for the step that begins its reports, and so for its first report.
        """
        opts = pulumi.ResourceOptions(parent=machine.resource, provider=self._provider, depends_on=[reports])
        about = {"AutoScalingGroupName" if is_group else "InstanceId": machine.id}
        for alarm in agent_metrics(self._config.alarms, balancer=balancer) if self._config.alarms else ():
            self._create_alarm(f"{name}-{alarm.name}", role, about, alarm, opts)

    def create_load_balancer_alarms(
        self, name: str, balancer: aws.lb.LoadBalancer, groups: Mapping[str, aws.lb.TargetGroup]
    ) -> None:
        """Create the alarms on what a load balancer counts: those that a balancer of the stack's own reports."""
        alarms = self._config.alarms
        if alarms is None:
            return
        opts = pulumi.ResourceOptions(parent=balancer, provider=self._provider)
        front: dict[str, pulumi.Input[str]] = {"LoadBalancer": balancer.arn_suffix}
        # Without requests nothing is counted.
        common: dict[str, Any] = _threshold_args(alarms) | {"treat_missing_data": "notBreaching", "opts": opts}
        counted = {"all": "RequestCount", "own": "HTTPCode_ELB_5XX_Count", "targets": "HTTPCode_Target_5XX_Count"}
        queries: list[Any] = [
            {
                "id": id_,
                "metric": {
                    "namespace": "AWS/ApplicationELB",
                    "metric_name": metric,
                    "dimensions": front,
                    "stat": "Sum",
                    "period": 60,
                },
            }
            for id_, metric in counted.items()
        ]
        # RequestCount does not contain its own responses.
        share = "100 * (FILL(own, 0) + FILL(targets, 0)) / (FILL(all, 0) + FILL(own, 0))"
        aws.cloudwatch.MetricAlarm(
            f"{name}-errors",
            alarm_description=f"load balancer of stack {self._stack}: clients get errors; see ./fleet status and logs",
            metric_queries=[{"id": "share", "expression": share, "label": "5xx (%)", "return_data": True}, *queries],
            threshold=alarms.errors_5xx_percent,
            evaluation_periods=5,
            **common,
        )
        for app, group in groups.items():
            aws.cloudwatch.MetricAlarm(
                f"{name}-servers-{app}",
                alarm_description=f"{app} of stack {self._stack}: a server is unhealthy; see ./fleet status",
                namespace="AWS/ApplicationELB",
                metric_name="UnHealthyHostCount",
                dimensions={**front, "TargetGroup": group.arn_suffix},
                statistic="Maximum",
                period=60,
                threshold=1,
                evaluation_periods=3,
                **common,
            )

    def create_group_alarms(self, name: str, group: aws.autoscaling.Group) -> None:
        """Create the alarms on a group: A failed server raises no alarm, because AWS replaces it."""
        alarms = self._config.alarms
        if alarms is None:
            return
        opts = pulumi.ResourceOptions(parent=group, provider=self._provider)
        dimensions: dict[str, pulumi.Input[str]] = {"AutoScalingGroupName": group.name}
        # Schedules change the least number, so it is read as well.
        queries: list[Any] = [
            {
                "id": id_,
                "metric": {
                    "namespace": "AWS/AutoScaling",
                    "metric_name": metric,
                    "dimensions": dimensions,
                    "stat": "Minimum",
                    "period": 60,
                },
            }
            for id_, metric in GROUP_METRICS.items()
        ]
        missing: Any = {
            "id": "missing",
            "expression": "least - serving",
            "label": "servers missing",
            "return_data": True,
        }
        aws.cloudwatch.MetricAlarm(
            f"{name}-missing",
            alarm_description=f"{name} of stack {self._stack}: fewer servers than min serve, and the group brings no "
            "others; see ./fleet status",
            metric_queries=[missing, *queries],
            threshold=1,
            evaluation_periods=GROUP_MINUTES,
            treat_missing_data="missing",
            opts=opts,
            **_threshold_args(alarms),
        )
        self._create_alarm(f"{name}-cpu", name, dimensions, _GROUP_CPU, opts)

    def _create_alarm(
        self,
        name: str,
        subject: str,
        dimensions: Mapping[str, pulumi.Input[str]],
        alarm: _AlarmSpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        """Create an alarm with an action (FSBP CloudWatch.15). subject: machine or group, as a person reads it."""
        topic = self._config.alarms.sns_topic_arn if self._config.alarms else ""
        actions = f"arn:{partition_of(self._config.region).name}:automate:{self._config.region}:ec2"
        aws.cloudwatch.MetricAlarm(
            name,
            alarm_description=f"{subject} of stack {self._stack}: {alarm.description}",
            namespace=self._namespace if alarm.is_reported else "AWS/EC2",
            metric_name=alarm.metric,
            dimensions=dimensions,
            statistic=alarm.statistic,
            comparison_operator="GreaterThanOrEqualToThreshold",
            threshold=alarm.at_least,
            # A value a minute: EC2's, for machines have detailed monitoring, and their own.
            period=60,
            evaluation_periods=alarm.minutes,
            # Of EC2 a machine that was just made has no values yet. Of its own it has one before it has an alarm.
            treat_missing_data="breaching" if alarm.is_reported else "missing",
            alarm_actions=[*([f"{actions}:{alarm.action}"] if alarm.action else []), topic],
            ok_actions=[topic],
            opts=opts,
        )


def _threshold_args(alarms: Alarms) -> dict[str, Any]:
    """Return what alarms have in common that go off at a threshold and above."""
    return {
        "comparison_operator": "GreaterThanOrEqualToThreshold",
        "alarm_actions": [alarms.sns_topic_arn],
        "ok_actions": [alarms.sns_topic_arn],
    }
