"""Settings of platform aws."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from settings.cloudwatch import Alarms, KeyArn, Logs
from settings.constraint import MASK, AdminCidr, AwsId, PrivateKey, matching
from settings.model import reject
from settings.platform_block import MachineCapacity, PlatformBlock
from settings.size import ARM64, Size
from settings.vpc import Vpc

# GiB for each virtual CPU (docs.aws.amazon.com/ec2/latest/instancetypes): compute, general purpose, memory optimized.
GIB_PER_CPU = {"c": 2, "m": 4, "r": 8}
# Characters, number and lengths of tags that every service takes (docs.aws.amazon.com/tag-editor/latest/userguide/
# best-practices-and-strats.html). Four of the fifty are the stack's own (platforms/aws/platform.py).
TAG_CHARS = re.compile(r"[\w .:/=+@-]*")
MAX_TAGS, TAG_KEY_CHARS, TAG_VALUE_CHARS = 50 - 4, 128, 256
# The burstable families t3, t3a and t4g: (virtual CPUs, GiB).
BURSTABLE = {
    "nano": (2, 0.5), "micro": (2, 1), "small": (2, 2), "medium": (2, 4), "large": (2, 8), "xlarge": (4, 16),
    "2xlarge": (8, 32),
}  # fmt: skip


def _id(prefix: str) -> Any:
    return AwsId(prefix)


class Aws(PlatformBlock):
    """Where the fleet runs on EC2."""

    size: ClassVar = frozenset({"instance_type", "disk_gib"})
    cpus: ClassVar = "instance_type"

    region: Annotated[str, matching(r"^[a-z]{2}(-[a-z]+)+-\d$", "a region such as eu-central-1")] = Field(
        description="AWS region"
    )
    ami: Annotated[str, _id("ami")] = Field(
        description="Debian image of that region, of `os` and for the instance types; never updated"
    )
    image: Literal["debian", "baked"] = Field(
        default="debian",
        description="what machines boot: debian is `ami` itself; baked is an image made of it that has their packages",
    )
    vpc: Vpc | None = Field(default=None, description="a VPC of the stack's own; else one that is there, by its ids")
    vpc_id: Annotated[str, _id("vpc")] | None = Field(default=None, description="existing VPC")
    balancer_subnet_id: Annotated[str, _id("subnet")] | None = Field(
        default=None, description="public subnet of the balancer, in the existing VPC"
    )
    app_subnet_ids: list[Annotated[str, _id("subnet")]] = Field(
        default_factory=list[str],
        description="private subnets of the app servers in the existing VPC, one per zone; they need a way out (NAT)",
    )
    transport: Literal["ssh", "instance_connect_endpoint"] = Field(
        default="ssh",
        description="how machines are reached: ssh through the balancer, or an EC2 Instance Connect Endpoint, to which "
        "alone port 22 is open then",
    )
    instance_connect_endpoint_id: Annotated[str, _id("eice")] | None = Field(
        default=None, description="endpoint of an existing VPC, which the stack does not change; null: create one"
    )
    admin_cidrs: list[AdminCidr] = Field(
        default_factory=list[str],
        description="who may reach port 22 of the balancer (the jump host); with transport ssh alone",
    )
    outbound_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(
        default_factory=list[int], description="TCP ports besides 80 and 443 that machines may connect to, e.g. 5432"
    )
    ssh_key_name: (
        Annotated[
            str,
            matching(
                r"^[A-Za-z0-9 ._@-]{1,255}$",
                "the name of a key pair: letters, digits, blanks and any of . _ @ -; take one that "
                "`aws ec2 describe-key-pairs` lists",
            ),
        ]
        | None
    ) = Field(default=None, description="EC2 key pair of the machines; one is generated when none is given")
    ssh_private_key: PrivateKey | None = Field(
        default=None, description="its private key: pulumi config set --secret --path"
    )
    release_bucket: (
        Annotated[
            str,
            matching(
                r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
                "the name of a bucket: small letters, digits, dots and hyphens; take one that `aws s3 ls` lists",
            ),
        ]
        | None
    ) = Field(default=None, description="S3 bucket of the releases; one is made when it is not given")
    route53_zone_id: (
        Annotated[
            str,
            matching(
                r"^Z[A-Z0-9]{1,31}$",
                "the id of a hosted zone, such as Z0123456789ABC; take one that `aws route53 list-hosted-zones` lists",
            ),
        ]
        | None
    ) = Field(default=None, description="hosted zone in which balancer.hostnames become A records of the Elastic IP")
    kms_key_arn: KeyArn | None = Field(
        default=None, description="KMS key of the secret parameters; null is the account's own key aws/ssm"
    )
    ssm: bool = Field(
        default=False, description="lets machines register with Systems Manager; for an image with the agent in it"
    )
    protect: bool = Field(
        default=False, description="machines, bucket and address cannot be deleted by mistake; off before a destroy"
    )
    alarms: Alarms | None = Field(default=None, description="CloudWatch alarms on all machines; null is none")
    logs: Logs | None = Field(default=None, description="access log and journals to CloudWatch Logs; null is none")
    tags: dict[str, str] = Field(default_factory=dict[str, str], description="tags on everything, e.g. cost-center")

    @staticmethod
    def capacity(size: Size) -> MachineCapacity | None:
        """Return what an instance type has."""
        found = _instance_capacity(size.instance_type)
        return found and MachineCapacity(*found, f"fleet.size.instance_type ({size.instance_type}, {found[1]} MiB)")

    @property
    def has_ipv6(self) -> bool:
        """Return whether app servers connect to the internet by IPv6."""
        return self.vpc is not None and self.vpc.ipv6_egress

    @model_validator(mode="after")
    def _check_network(self) -> Aws:
        ids = {key: getattr(self, key) for key in ("vpc_id", "balancer_subnet_id", "app_subnet_ids")}
        ways = f"set either vpc (created for this stack), or all of {', '.join(ids)} (an existing VPC)"
        if self.vpc and any(ids.values()):
            reject(f"vpc: conflicts with {', '.join(key for key in ids if ids[key])}; {ways}")
        missing = [key for key in ids if not ids[key]]
        # That of the balancer alone is looked for where its kind is known (settings/stack.py).
        if not self.vpc and missing not in ([], ["balancer_subnet_id"]):
            reject(f"{', '.join(missing)}: missing; {ways}")
        return self

    @model_validator(mode="after")
    def _check_admin_access(self) -> Aws:
        by_ssh = self.transport == "ssh"
        if by_ssh and not self.admin_cidrs:
            value = "[]" if "admin_cidrs" in self.model_fields_set else "missing"
            reject(
                f"admin_cidrs: {value}: no operator could reach port 22 of the balancer, which serves setup and "
                "releases; name the network you work from (`curl https://checkip.amazonaws.com` prints your address; "
                "add /32), or set transport: instance_connect_endpoint"
            )
        if self.admin_cidrs and not by_ssh:
            reject(
                f"admin_cidrs: {json.dumps(self.admin_cidrs)}: port 22 is open to the endpoint alone "
                f"(transport: {self.transport}); remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_endpoint(self) -> Aws:
        given = f"instance_connect_endpoint_id: {self.instance_connect_endpoint_id}:"
        if self.instance_connect_endpoint_id and self.transport == "ssh":
            reject(f"{given} nothing goes through it with transport: ssh; set instance_connect_endpoint, or remove it")
        if self.instance_connect_endpoint_id and self.vpc:
            reject(f"{given} is in no VPC that is made for this stack (vpc); remove it, and one is made")
        return self

    @model_validator(mode="after")
    def _check_zones(self) -> Aws:
        elsewhere = [zone for zone in self.vpc.zones if zone[:-1] != self.region] if self.vpc else []
        if elsewhere:
            reject(*[f"vpc.zones: {zone}: is not in aws.region; take one such as {self.region}a" for zone in elsewhere])
        return self

    @model_validator(mode="after")
    def _check_key_pair(self) -> Aws:
        if (self.ssh_key_name is None) != (self.ssh_private_key is None):
            present, missing = ("ssh_key_name", "ssh_private_key")[:: 1 if self.ssh_key_name else -1]
            ways = "give both for a key pair of your own, or neither for one that is generated"
            value = json.dumps(self.ssh_key_name) if self.ssh_key_name else MASK
            reject(f"{present}: {value}: is given without {missing}; {ways}")
        return self

    @model_validator(mode="after")
    def _check_tags(self) -> Aws:
        found = [
            f"tags.{key}: {json.dumps(value, ensure_ascii=False)}: AWS takes no such tag; take a name of 1 to "
            f"{TAG_KEY_CHARS} characters that does not begin with aws:, a value of {TAG_VALUE_CHARS} at most, and in "
            "both letters, digits, blanks and any of _ . : / = + - @"
            for key, value in self.tags.items()
            if not (1 <= len(key) <= TAG_KEY_CHARS and len(value) <= TAG_VALUE_CHARS)
            or key.lower().startswith("aws:")
            or not TAG_CHARS.fullmatch(key + value)
        ]
        if len(self.tags) > MAX_TAGS:
            found.append(
                f"tags: has {len(self.tags)} tags, and AWS takes {MAX_TAGS} besides the stack's own; drop some"
            )
        reject(*found)
        return self

    @model_validator(mode="after")
    def _check_regions(self) -> Aws:
        named = {
            "kms_key_arn": self.kms_key_arn,
            "alarms.sns_topic_arn": self.alarms and self.alarms.sns_topic_arn,
            "logs.kms_key_arn": self.logs and self.logs.kms_key_arn,
        }
        wrong = [
            f"{place}: is in {region}; take one in region ({self.region}), where the machines are"
            for place, arn in named.items()
            if arn and (region := arn.split(":")[3]) != self.region
        ]
        reject(*wrong)
        return self


def _instance_capacity(instance_type: str) -> tuple[int, int] | None:
    family, _, size = instance_type.partition(".")
    if family in ("t3", "t3a", "t4g") and size in BURSTABLE:
        cpus, gib = BURSTABLE[size]
        return cpus, round(gib * 1024)
    kind = re.fullmatch(r"([cmr])[5-8][a-z]*", family)
    times = re.fullmatch(r"(\d*)xlarge", size)
    # Graviton alone has medium.
    small = {"medium": 1, "large": 2} if ARM64.match(instance_type) else {"large": 2}
    if kind is None or not (times or size in small):
        return None
    cpus = 4 * int(times[1] or 1) if times else small[size]
    return cpus, cpus * GIB_PER_CPU[kind[1]] * 1024
