"""The roles of machines: what each tier may do in the account, and nothing else.

CIS AWS 5.0 1.17 (machines use roles, not keys), FSBP IAM.1 and IAM.21 (no wildcard of actions), KMS.2 (one key).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from platforms import MachineArgs
from platforms.aws.bucket import ReleaseStore
from platforms.aws.cloudwatch import Monitoring
from platforms.aws.partition import Partition, partition_of
from platforms.aws.ssm import BALANCER, parameter_path
from settings.aws import Aws

Statement = Mapping[str, Any]


@dataclass(frozen=True)
class Role:
    """The role of machines. ready: what a machine waits for before it boots.

    profile: name of the instance profile that carries it.
    """

    profile: pulumi.Output[str]
    ready: Sequence[pulumi.Resource]


class Roles:
    """The roles of a stack: one for all machines of a tier, none for a tier without permissions."""

    def __init__(self, config: Aws, stack: str, provider: aws.Provider, monitoring: Monitoring) -> None:
        self._config, self._stack, self._provider, self._monitoring = config, stack, provider, monitoring
        self._made: dict[str, Role | None] = {}

    def of(
        self,
        machine: MachineArgs,
        releases: ReleaseStore | None,
        opts: pulumi.ResourceOptions,
        *,
        group: str | None = None,
        address: pulumi.Output[str] | None = None,
    ) -> Role | None:
        """Return the role of a machine. releases: what it reads, None for a machine that reads none.

        group: name of the Auto Scaling group that it is in. address: allocation of the Elastic IP that it takes.
        """
        name = f"app-{machine.app}" if machine.app else machine.role
        if name not in self._made:
            statements = self._own_statements(machine, releases)
            if group:
                statements.append(pulumi.Output.from_input([_lifecycle_statement(group, self._config.region)]))
            if group and address:
                statements.append(
                    address.apply(lambda id_: address_statements(id_, group, self._stack, self._config.region))
                )
            self._made[name] = self._role(name, statements, releases, opts) if statements or self._config.ssm else None
        return self._made[name]

    def _own_statements(
        self, machine: MachineArgs, releases: ReleaseStore | None
    ) -> list[pulumi.Output[Sequence[Statement]]]:
        reads = (
            releases.bucket.apply(
                lambda bucket: release_statements(bucket, self._stack, machine.app or BALANCER, self._config)
            )
            if releases
            else None
        )
        groups = (
            pulumi.Output.from_input(group_statements(machine.watches, self._config.region))
            if machine.watches
            else None
        )
        static = (
            releases.bucket.apply(
                lambda bucket: [_static_statement(bucket, self._stack, machine.static_of, self._config.region)]
            )
            if releases and machine.static_of
            else None
        )
        return [*filter(None, (reads, groups, static)), *self._monitoring.statements(machine)]

    def _role(
        self,
        name: str,
        statements: Sequence[pulumi.Output[Sequence[Statement]]],
        releases: ReleaseStore | None,
        opts: pulumi.ResourceOptions,
    ) -> Role:
        """Create a role for EC2 machines with these statements alone (and Systems Manager's, where it is on)."""
        partition = partition_of(self._config.region)
        trust = {"Effect": "Allow", "Principal": {"Service": f"ec2.{partition.domain}"}, "Action": "sts:AssumeRole"}
        role = aws.iam.Role(
            name,
            assume_role_policy=_document([trust]),
            opts=pulumi.ResourceOptions(parent=opts.parent, provider=self._provider),
        )
        child = pulumi.ResourceOptions(parent=role, provider=self._provider)
        ready: list[pulumi.Resource] = [*(releases.ready if releases else ())]
        if statements:
            policy = pulumi.Output.all(*statements).apply(
                lambda parts: _document([statement for part in parts for statement in part])
            )
            ready.append(aws.iam.RolePolicy(name, role=role.name, policy=policy, opts=child))
        if self._config.ssm:
            # FSBP SSM.1: machines are managed by Systems Manager.
            core = f"arn:{partition.name}:iam::aws:policy/AmazonSSMManagedInstanceCore"
            ready.append(aws.iam.RolePolicyAttachment(f"{name}-ssm", role=role.name, policy_arn=core, opts=child))
        return Role(aws.iam.InstanceProfile(name, role=role.name, opts=child).name, ready)


def release_statements(bucket: str, stack: str, app: str, config: Aws) -> list[Statement]:
    """Return statements that let an app server read the releases and the secrets of its own application."""
    partition = partition_of(config.region)
    prefix = f"{stack}/{app}/*"
    statements: list[Statement] = [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:{partition.name}:s3:::{bucket}/{prefix}"},
        # With it a key that is not there is a 404 and not a 403. "IfExists", for nothing says that GetObject of a
        # missing key brings a prefix along. The price: names (not contents) of a shared bucket can be listed.
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": f"arn:{partition.name}:s3:::{bucket}",
            "Condition": {"StringLikeIfExists": {"s3:prefix": prefix}},
        },
        # Any account, for a role acts in its own alone. The key aws/ssm needs no statement: its policy lets in
        # everybody of the account who comes through Systems Manager.
        {
            "Effect": "Allow",
            "Action": "ssm:GetParametersByPath",
            "Resource": f"arn:{partition.name}:ssm:{config.region}:*:parameter{parameter_path(stack)}/{app}/*",
        },
    ]
    if config.kms_key_arn:
        statements.append(
            _decryption_statement(config.kms_key_arn, f"{parameter_path(stack)}/{app}/*", config.region, partition)
        )
    return statements


def _static_statement(bucket: str, stack: str, apps: Sequence[str], region: str) -> Statement:
    """Return a statement that lets a balancer read which release serves, and the static files of releases."""
    own = f"arn:{partition_of(region).name}:s3:::{bucket}/{stack}"
    keys = [f"{own}/{app}/{key}" for app in apps for key in ("pointer", "releases/*/static.tar.gz")]
    return {"Effect": "Allow", "Action": "s3:GetObject", "Resource": keys}


def group_statements(groups: Sequence[str], region: str) -> list[Statement]:
    """Return statements that let a balancer list the machines of groups, and report those of its own groups as dead."""
    return [
        {
            "Effect": "Allow",
            # They know no resources (service authorization references of EC2 Auto Scaling and EC2).
            "Action": ["autoscaling:DescribeAutoScalingGroups", "ec2:DescribeInstances"],
            "Resource": "*",
        },
        {
            "Effect": "Allow",
            "Action": "autoscaling:SetInstanceHealth",
            "Resource": [_group_arn(group, region) for group in groups],
        },
    ]


def _group_arn(group: str, region: str) -> str:
    """Return a pattern of the ARN of a group."""
    # Its id, which only AWS knows, stands before the name. Any account, for a role acts in its own alone.
    return f"arn:{partition_of(region).name}:autoscaling:{region}:*:autoScalingGroup:*:autoScalingGroupName/{group}"


def _lifecycle_statement(group: str, region: str) -> Statement:
    """Return a statement that lets a machine complete the lifecycle hooks of its group."""
    return {
        "Effect": "Allow",
        "Action": ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"],
        "Resource": _group_arn(group, region),
    }


def address_statements(allocation: str, group: str, stack: str, region: str) -> list[Statement]:
    """Return statements that let the balancer of a group of one lead its address to itself, and call itself dead.

    EC2 asks for both ends: the address, and the instance or its interface. Those are found by tags that the launch
    template gives them.
    """
    own = f"arn:{partition_of(region).name}:ec2:{region}:*"
    tags = {"aws:ResourceTag/wsgi-fleet:stack": stack, "aws:ResourceTag/Name": f"{stack}-balancer"}
    return [
        {"Effect": "Allow", "Action": "ec2:AssociateAddress", "Resource": f"{own}:elastic-ip/{allocation}"},
        {
            "Effect": "Allow",
            "Action": "ec2:AssociateAddress",
            "Resource": [f"{own}:instance/*", f"{own}:network-interface/*"],
            "Condition": {"StringEquals": tags},
        },
        {"Effect": "Allow", "Action": "autoscaling:SetInstanceHealth", "Resource": _group_arn(group, region)},
        # It knows no resources (service authorization reference of EC2 Auto Scaling).
        {"Effect": "Allow", "Action": "autoscaling:DescribeAutoScalingGroups", "Resource": "*"},
    ]


def _decryption_statement(key: str, parameters: str, region: str, partition: Partition) -> Statement:
    """Return a statement that allows decryption with that key below that path, through Systems Manager only."""
    return {
        "Effect": "Allow",
        "Action": "kms:Decrypt",
        "Resource": key,
        "Condition": {
            "StringEquals": {"kms:ViaService": f"ssm.{region}.{partition.domain}"},
            # What Systems Manager binds each value to (docs.aws.amazon.com/kms/latest/developerguide).
            "StringLike": {
                "kms:EncryptionContext:PARAMETER_ARN": f"arn:{partition.name}:ssm:{region}:*:parameter{parameters}"
            },
        },
    }


def _document(statements: Sequence[Statement]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
