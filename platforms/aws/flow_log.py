"""What a VPC of the stack's own records of connections."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pulumi
import pulumi_aws as aws

from settings.vpc import RetentionDays

# Refused ones are what FSBP EC2.6 and CIS AWS 5.0 3.7 ask for; to keep the others as well costs by the traffic.
RECORDED = "REJECT"


def flow_log(vpc: aws.ec2.Vpc, days: RetentionDays, tags: Mapping[str, str], opts: pulumi.ResourceOptions) -> None:
    """Create a flow log of rejected connections (FSBP EC2.6, CIS AWS 5.0 3.7), kept so many days."""
    group = aws.cloudwatch.LogGroup("flow-log", retention_in_days=days, opts=opts)
    role = aws.iam.Role("flow-log", assume_role_policy=vpc.owner_id.apply(_flow_logs_of), opts=opts)
    policy = aws.iam.RolePolicy("flow-log", role=role.name, policy=group.arn.apply(_write_policy), opts=opts)
    aws.ec2.FlowLog(
        "flow-log",
        vpc_id=vpc.id,
        traffic_type=RECORDED,
        log_destination_type="cloud-watch-logs",
        log_destination=group.arn,
        iam_role_arn=role.arn,
        tags=tags,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[policy])),
    )


def _flow_logs_of(account: str) -> str:
    """Return the policy that lets flow logs of this account alone take the role.

    Source: AWS VPC user guide, flow-logs-iam-role.
    """
    trust = {
        "Effect": "Allow",
        "Principal": {"Service": "vpc-flow-logs.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": account}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [trust]})


def _write_policy(log_group: str) -> str:
    """Return a policy that allows writing into that log group.

    It lacks logs:CreateLogGroup, by which a last record would bring back a deleted group.
    """
    actions = ("CreateLogStream", "PutLogEvents", "DescribeLogGroups", "DescribeLogStreams")
    statement = {
        "Effect": "Allow",
        "Action": [f"logs:{action}" for action in actions],
        "Resource": [log_group, f"{log_group}:*"],
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
