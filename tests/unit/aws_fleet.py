"""A balancer and three app servers on platform aws, as the components describe them, run by the mock engine."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
from pydantic import SecretStr

from harness.mock_aws import KEY, LOOKUPS, OUTPUTS
from harness.mock_engine import Build, LookupResult, Registered, build
from harness.program import plan, project
from platforms import Ingress, MachineArgs, RemoteCommandArgs
from platforms.aws.image import DEFAULT_IMAGE, ImageKind
from platforms.aws.platform import AwsPlatform
from settings.aws import Aws
from settings.size import Size
from settings.vpc import Vpc

INSTANCE, GROUP = "aws:ec2/instance:Instance", "aws:ec2/securityGroup:SecurityGroup"
IN = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
OUT = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
BUCKET, STEP = "aws:s3/bucket:Bucket", "command:remote:Command"
EIP, ASSOCIATION = "aws:ec2/eip:Eip", "aws:ec2/eipAssociation:EipAssociation"
ROLE, POLICY = "aws:iam/role:Role", "aws:iam/rolePolicy:RolePolicy"
LOG_GROUP = "aws:cloudwatch/logGroup:LogGroup"
SERVERS = ("hello-1", "hello-2", "hello-3")
ROLES = ("balancer", *SERVERS)
TOPIC = "arn:aws:sns:eu-central-1:123456789012:fleet"
KMS_KEY = "arn:aws:kms:eu-central-1:123456789012:key/12345678-1234-1234-1234-123456789012"
NONE = pulumi.ResourceOptions()
_BUILDS: dict[str, Build] = {}


def given(**changes: Any) -> Aws:
    base: dict[str, Any] = {
        "region": "eu-central-1",
        "ami": "ami-0123456789abcdef0",
        "vpc_id": "vpc-01234567",
        "balancer_subnet_id": "subnet-0000000a",
        "app_subnet_ids": ["subnet-0000000b", "subnet-0000000c"],
        "admin_cidrs": ["192.0.2.0/24"],
        "ssh_key_name": "ops",
        "ssh_private_key": SecretStr(KEY),
        "tags": {"cost-center": "42"},
    }
    return Aws(**{**base, **changes})


def vpc(*letters: str, **changes: Any) -> dict[str, Any]:
    """Return the settings of a VPC of the stack's own over these zones."""
    zones = [f"eu-central-1{letter}" for letter in letters]
    made = Vpc(cidr="10.20.0.0/16", zones=zones, **changes)
    return {"vpc": made, "vpc_id": None, "balancer_subnet_id": None, "app_subnet_ids": []}


def fleet(aws: Aws, image: ImageKind = DEFAULT_IMAGE) -> None:
    """Register what the components do, in their order: app servers before the balancer they are reached through."""
    platform = AwsPlatform(aws, stack="prod", project_name="wsgi-fleet", image=image)
    balancers = platform.security_group("balancer", [Ingress(80)], isolated=False, opts=NONE)
    apps = platform.security_group("app-hello", [Ingress(8000, source=balancers)], isolated=True, opts=NONE)
    store = platform.store("releases", opts=NONE)
    for zone, role in enumerate(SERVERS):
        args = MachineArgs(role, "#cloud-config\n", apps, Size(disk_gib=20), zone=zone, app="hello")
        machine = platform.machine(role, args, store=store, opts=NONE)
        stdin = pulumi.Output.concat("store ", store.machine_url, "\nkey ", pulumi.Output.secret("opensesame"))
        step = RemoteCommandArgs(machine, ["/opt/booted", "two words"], stdin, timeout_s=60)
        booted = platform.remote_command(f"{role}-booted", step, opts=NONE)
        platform.enable_monitoring(role, machine, args, opts=pulumi.ResourceOptions(depends_on=[booted]))
    pulumi.export("early", dict(platform.reach().spec))
    pulumi.export("store", dict(store.spec))
    args = MachineArgs("balancer", "#cloud-config\n", balancers, Size(), public=True)
    balancer = platform.machine("balancer", args, store=None, opts=NONE)
    platform.enable_monitoring("balancer", balancer, args, opts=NONE)
    step = RemoteCommandArgs(balancer, ["/opt/site"], "server 10.0.0.1;")
    site = platform.remote_command("site", step, opts=NONE)
    address = platform.public_address("address", balancer, opts=pulumi.ResourceOptions(depends_on=[site]))
    pulumi.export("url", address.url)
    pulumi.export("target", balancer.target)
    pulumi.export("late", dict(platform.reach().spec))
    pulumi.export("logs", dict(platform.log_groups))


def run(aws: Aws, *, lookups: Mapping[str, LookupResult] | None = None, preview: bool = False) -> Build:
    responses = {**LOOKUPS, **(lookups or {})}
    return build(lambda: fleet(aws), lookups=responses, outputs=OUTPUTS, stack="prod", preview=preview)


def built(**changes: Any) -> Build:
    """Return the fleet with changed settings; equal ones are run once. Nobody may change a Build."""
    key = repr(changes)
    if key not in _BUILDS:
        _BUILDS[key] = run(given(**changes))
    return _BUILDS[key]


def planned(*, preview: bool = False, name: str | None = None, **blocks: Any) -> Build:
    """Return what the whole program asks for with these blocks in the place of prod's own, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(project(Path(folder))):
        return plan("prod", preview=preview, name=name, **blocks)


def statements(policy: str) -> list[dict[str, Any]]:
    return json.loads(policy)["Statement"]


def names(found: list[Registered]) -> list[str]:
    return [each.name for each in found]
