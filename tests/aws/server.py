"""A moto server of this process, and what an account contains before a stack comes."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import secrets
from collections.abc import Generator, Mapping
from ipaddress import IPv4Network
from typing import Any, cast
from unittest import mock

import asyncssh

from harness.mock_aws import image_name
from platforms.aws.image import DEBIAN_OWNER, DEFAULT_IMAGE, EC2_ARCHITECTURES, ImageKind
from tests.aws.account import Account

# The disk of Debian's images.
ROOT_DEVICE = "/dev/xvda"
NOT_BY_TLS = {"Bool": {"aws:SecureTransport": "false"}}


@contextlib.contextmanager
def serving(address: str = "127.0.0.1") -> Generator[str]:
    """Serve an empty AWS on a free port of the address, and yield its endpoint."""
    # moto takes seconds to load: only who asks for it pays.
    config: Any = importlib.import_module("moto.core.config")
    config.default_user_config["iam"]["load_aws_managed_policies"] = True
    backends: Any = importlib.import_module("moto.backends")
    server: Any = importlib.import_module("moto.server").ThreadedMotoServer(address, 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for name in ("ec2", "s3", "iam", "ssm", "logs", "cloudwatch", "route53", "sts", "elbv2", "acm"):
        backends.get_backend(name).reset()
    server.start()
    try:
        host, port = server.get_host_and_port()
        # A thousand images that nobody asks for.
        with (
            mock.patch.dict(os.environ, {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false"}),
            mock.patch("moto.route53.models.create_route53_zone_id", _zone_id),
            mock.patch("moto.s3.models.FakeBucket.get_permission", _bucket_policy),
        ):
            yield f"http://{host}:{port}"
    finally:
        server.stop()


def _zone_id(*_: object, **__: object) -> str:
    """Return an id as Route 53 makes them; moto's may begin with any letter."""
    return f"Z{secrets.token_hex(10).upper()}"


def _bucket_policy(bucket: Any, action: str, resource: str) -> Any:
    """Return what the bucket's policy decides.

    moto takes a condition that it does not know for met; all here count as TLS.
    """
    control: Any = importlib.import_module("moto.iam.access_control")
    statements = json.loads(bucket.policy or '{"Statement": []}')["Statement"]
    met = [each for each in statements if each.get("Condition") != NOT_BY_TLS]
    return control.IAMPolicy(json.dumps({"Statement": met})).is_action_permitted(action, resource)


def prepared(
    account: Account, aws: Mapping[str, Any], *, block: str = "10.77.0.0/16", kind: ImageKind = DEFAULT_IMAGE
) -> dict[str, Any]:
    """Return the `aws` block of a stack file with the ids of what it names.

    That is made in the account: image, VPC, subnets, key. block: the addresses of the VPC, a /16. kind: of the image.
    """
    # The stack file's own is an example.
    found = dict(aws)
    if aws.get("admin_cidrs"):
        found["admin_cidrs"] = ["198.51.100.0/24"]
    ec2 = account.aws.ec2
    found["ami"] = image(account, kind)
    if "vpc_id" in aws:
        found["vpc_id"] = vpc = ec2.create_vpc(CidrBlock=block)["Vpc"]["VpcId"]
        zones = [each["ZoneName"] for each in ec2.describe_availability_zones()["AvailabilityZones"]]
        nets = [
            ec2.create_subnet(VpcId=vpc, CidrBlock=str(cidr), AvailabilityZone=zones[number % len(zones)])["Subnet"][
                "SubnetId"
            ]
            for number, cidr in zip(
                range(1 + len(aws["app_subnet_ids"])), IPv4Network(block).subnets(new_prefix=20), strict=False
            )
        ]
        found["balancer_subnet_id"], *found["app_subnet_ids"] = nets
    if aws.get("ssh_key_name"):
        key = asyncssh.import_private_key(private_key())
        ec2.delete_key_pair(KeyName=aws["ssh_key_name"])
        ec2.import_key_pair(KeyName=aws["ssh_key_name"], PublicKeyMaterial=key.export_public_key())
        found["ssh_private_key"] = key.export_private_key().decode()
    if aws.get("route53_zone_id"):
        zone = account.aws.route53.create_hosted_zone(Name="example.com", CallerReference=block)
        found["route53_zone_id"] = zone["HostedZone"]["Id"].rpartition("/")[2]
    return found


def private_key() -> str:
    """Return a new private key, as people have them in files."""
    return cast("str", cast("Any", asyncssh).generate_private_key("ssh-ed25519").export_private_key().decode())


def image(account: Account, kind: ImageKind = DEFAULT_IMAGE) -> str:
    """Register an image as Debian publishes it, and return its id.

    It is made in this process, for no client can register one for another account.
    """
    amis: Any = importlib.import_module("moto.ec2.models.amis")
    models: Any = importlib.import_module("moto.ec2.models")
    caller = account.aws.sts.get_caller_identity()["Account"]
    backend = models.ec2_backends[caller][account.region]
    id_ = "ami-0123456789abcdef0"
    backend.amis[id_] = amis.Ami(
        backend,
        id_,
        name=(name := image_name(kind.name_pattern)),
        owner_id=DEBIAN_OWNER,
        public=True,
        architecture=EC2_ARCHITECTURES[kind.architecture],
        virtualization_type="hvm",
        hypervisor="xen",
        root_device_type="ebs",
        root_device_name=ROOT_DEVICE,
        image_location=f"{DEBIAN_OWNER}/{name}",
        region_name=f"{account.region}a",
    )
    return cast("str", id_)
