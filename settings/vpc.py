"""The settings of a VPC of the stack's own, and which addresses its subnets have."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from settings.constraint import IPV4_NETWORK, matching
from settings.model import Model, reject

# RFC 1918. AWS takes others as well, but to those a machine would no longer find its way outside.
PRIVATE = tuple(IPv4Network(block) for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
# AWS takes /16 to /28 (docs.aws.amazon.com/vpc/latest/userguide/vpc-cidr-blocks.html); below /22 subnets get too small.
LARGEST, SMALLEST = 16, 22
# A VPC is cut into 16 subnets: the first eight are private, the others public, by the letter of the zone.
SUBNET_BITS, PUBLIC = 4, 8
# No region has more zones (us-east-1).
ZONE_LETTERS = "abcdef"
# Addresses that AWS keeps in each subnet (docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html).
AWS_RESERVED_ADDRESSES = 5
# Interface endpoints: each has an address in each private subnet. Those of Systems Manager's agent, and without a NAT
# gateway those that machines ask: for secrets (ssm), and to ship logs and metrics.
SSM_SERVICES = ("ssm", "ssmmessages", "ec2messages")
MAX_ENDPOINTS = len({*SSM_SERVICES, "logs", "monitoring"})


def _private_network(cidr: str) -> str:
    try:
        network = IPv4Network(cidr, strict=False)
    except ValueError:
        raise ValueError(f"{json.dumps(cidr)}: is no IPv4 network; write one such as 10.20.0.0/16") from None
    if str(network) != cidr:
        raise ValueError(f"{json.dumps(cidr)}: is an address in a network; write the network, {network}")
    if not LARGEST <= network.prefixlen <= SMALLEST or not any(network.subnet_of(block) for block in PRIVATE):
        blocks = ", ".join(map(str, PRIVATE))
        raise ValueError(f"{json.dumps(cidr)}: should be a /{LARGEST} to /{SMALLEST} within {blocks}; take another one")
    return cidr


def _each_once(zones: list[str]) -> list[str]:
    twice = sorted({zone for zone in zones if zones.count(zone) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: is named twice; name each zone once")
    return zones


Zone = Annotated[
    str, matching(rf"^[a-z]{{2}}(-[a-z]+)+-\d[{ZONE_LETTERS}]$", "an availability zone such as eu-central-1a")
]
# Days that CloudWatch can keep logs (PutRetentionPolicy of its API).
RetentionDays = Literal[
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653
]  # fmt: skip


class Vpc(Model):
    """A VPC that is made for the stack: in each zone a public and a private subnet."""

    cidr: Annotated[str, IPV4_NETWORK, AfterValidator(_private_network)] = Field(
        description="addresses of the VPC, a private network of /16 to /22; it cannot be changed later"
    )
    zones: Annotated[list[Zone], Field(min_length=1, max_length=len(ZONE_LETTERS)), AfterValidator(_each_once)] = Field(
        description="availability zones of the region; the balancer is in the first"
    )
    nat_gateways: Literal["single", "one_per_az", "none"] = Field(
        default="single",
        description="one in the first zone, or one in each, which outlives a zone; none: by IPv6 alone",
    )
    ipv6_egress: bool = Field(
        default=False, description="app servers connect to the internet by IPv6 where they can, past NAT gateways"
    )
    ssm_endpoints: bool = Field(
        default=False, description="Systems Manager is reached inside of the VPC, by interface endpoints"
    )
    flow_log_days: RetentionDays | None = Field(
        default=90, description="days that refused connections are kept in CloudWatch; null logs none"
    )

    def subnet(self, zone: str, *, public: bool) -> str:
        """Return the CIDR of a zone's subnet: a sixteenth of the VPC.

        It goes by the letter of the zone, so that no zone moves another.
        """
        letter = ZONE_LETTERS.index(zone[-1])
        pieces = list(IPv4Network(self.cidr).subnets(prefixlen_diff=SUBNET_BITS))
        return str(pieces[PUBLIC + letter if public else letter])

    @property
    def servers_per_zone(self) -> int:
        """Return how many app servers a private subnet has room for.

        They get half of its addresses, for the new stand beside the old.
        """
        addresses = IPv4Network(self.subnet(self.zones[0], public=False)).num_addresses
        return (addresses - AWS_RESERVED_ADDRESSES - MAX_ENDPOINTS) // 2

    @model_validator(mode="after")
    def _check_egress(self) -> Vpc:
        if self.nat_gateways == "none" and not self.ipv6_egress:
            reject(
                "nat_gateways: none: leaves app servers no way to install packages; set ipv6_egress: true, which costs "
                "nothing, or take single"
            )
        return self
