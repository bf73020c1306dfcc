"""Reach EC2 machines by SSH, the store in S3, and secrets in Systems Manager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from platforms.diagnosis import Finding
from platforms.load_balancer import LoadBalancer
from platforms.server_group import ServerGroup
from platforms.terminal import Terminal
from platforms.transport import SecretStore, Store, Transport


def transport(spec: Mapping[str, Any]) -> Transport:
    """Return the transport by SSH, through the balancer or an endpoint."""
    from platforms.aws.ssh import SshTransport

    return SshTransport.from_spec(spec)


def store(spec: Mapping[str, Any]) -> Store:
    """Return the store in a bucket."""
    from platforms.aws.s3 import S3Store

    return S3Store.from_spec(spec)


def secrets(spec: Mapping[str, Any], app: str) -> SecretStore | None:
    """Return the parameters from which an application's servers read secrets at boot; None where a spec has none."""
    from platforms.aws.ssm import SsmSecrets

    return SsmSecrets.from_spec(spec["secrets"], app) if spec.get("secrets") else None


def load_balancer(spec: Mapping[str, Any]) -> LoadBalancer:
    """Return the Application Load Balancer."""
    from platforms.aws.elb import AlbOperator

    return AlbOperator.from_spec(spec)


def server_group(spec: Mapping[str, Any]) -> ServerGroup:
    """Return the Auto Scaling group."""
    from platforms.aws.scaling import ScalingGroup

    return ScalingGroup.from_spec(spec)


def terminal(spec: Mapping[str, Any], machine: str, command: Sequence[str]) -> Terminal:
    """Return the `ssh` that opens a terminal on a machine."""
    from platforms.aws import terminal as ssh

    return ssh.terminal(spec, machine, command)


def check_host(blocks: Mapping[str, Any], *, stack: str, project: Path) -> list[Finding]:  # noqa: ARG001  as Operator
    """Check the plugins, the settings, the credentials and the image. Nothing is changed."""
    from platforms.aws import diagnosis

    return diagnosis.check_host(blocks, stack=stack)


def check_connection(spec: Mapping[str, Any]) -> list[Finding]:
    """Check whether the balancer's port 22 responds from here, or whether the endpoint takes tunnels."""
    from platforms.aws import diagnosis

    return [diagnosis.check_endpoint(spec) if "endpoint" in spec else diagnosis.check_ssh(spec)]
