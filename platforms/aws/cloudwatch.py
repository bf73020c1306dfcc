"""Metrics and logs that machines send to CloudWatch by themselves: where to, what for, and what they may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_aws as aws

from platforms import MachineArgs
from rendering.cloudwatch import monitoring_files
from settings.aws import Aws

Statement = Mapping[str, Any]


class Monitoring:
    """The metrics and logs of a stack.

    namespace: of its metrics; it is in the policies, so that no stack can report for another.
    """

    def __init__(self, config: Aws, stack: str, provider: aws.Provider) -> None:
        self._config, self._provider = config, provider
        self.namespace = f"wsgi-fleet/{stack}"
        self._groups: dict[str, aws.cloudwatch.LogGroup] = {}

    @property
    def log_groups(self) -> Mapping[str, pulumi.Output[str]]:
        """Return the names of the log groups by source, for the machines that were asked about so far."""
        return {name: group.name for name, group in self._groups.items()}

    def statements(self, machine: MachineArgs) -> list[pulumi.Output[Sequence[Statement]]]:
        """Return the statements that let a machine report its metrics and ship its logs."""
        found: list[pulumi.Output[Sequence[Statement]]] = []
        if self._config.alarms:
            found.append(pulumi.Output.from_input([_reports(self.namespace)]))
        if group := self._group(machine):
            found.append(group.arn.apply(lambda arn: [_ship_statement(arn)]))
        return found

    def agent_files(self, machine: MachineArgs, *, group: str | None = None) -> pulumi.Output[str]:
        """Return the input of the step that installs the scripts on a machine.

        group: the Auto Scaling group for which it reports; None: it reports for itself.
        """
        namespace = self.namespace if self._config.alarms else None
        logs = self._group(machine)
        name = logs.name if logs else pulumi.Output.from_input(None)
        return name.apply(
            lambda name: monitoring_files(balancer=not machine.app, namespace=namespace, log_group=name, group=group)
        )

    def _group(self, machine: MachineArgs) -> aws.cloudwatch.LogGroup | None:
        """Return the log group: one for the balancer and one for each application.

        FSBP CloudWatch.16: it says how long it keeps.
        """
        logs, what = self._config.logs, machine.app or machine.role
        if logs is None:
            return None
        if what not in self._groups:
            self._groups[what] = aws.cloudwatch.LogGroup(
                f"{what}-log",
                retention_in_days=logs.retention_days,
                kms_key_id=logs.kms_key_arn,
                opts=pulumi.ResourceOptions(provider=self._provider),
            )
        return self._groups[what]


def _reports(namespace: str) -> Statement:
    """Return a statement that allows PutMetricData. It knows no resources; the namespace is what narrows it."""
    return {
        "Effect": "Allow",
        "Action": "cloudwatch:PutMetricData",
        "Resource": "*",
        "Condition": {"StringEquals": {"cloudwatch:namespace": namespace}},
    }


def _ship_statement(log_group: str) -> Statement:
    """Return a statement that allows shipping into that group.

    It lacks logs:CreateLogGroup, by which a last line would bring back a deleted group. CreateLogStream is asked of the
    group, PutLogEvents of a stream in it (service authorization reference of CloudWatch Logs). The ARN that ends with
    `:*` means both.
    """
    return {
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": f"{log_group}:*",
    }
