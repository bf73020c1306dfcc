"""Zones of subnets that are there: what AWS would refuse in the middle of an `up`, or not say at all."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from harness import mock_aws
from tests.unit.aws_fleet import planned
from tests.unit.test_alb_settings import stack
from tests.unit.test_capacity_settings import group

GET_SUBNET = "aws:ec2/getSubnet:getSubnet"
# The last letter of these ids is their zone's.
PUBLIC, PRIVATE = "subnet-0000000{}", "subnet-1111111{}"


def logs_of(public: str, private: str) -> list[tuple[str, str]]:
    """Return what a preview with a group logs. public, private: letters of zones, one for each subnet."""
    there = {
        "vpc": None,
        "vpc_id": "vpc-0123456a",
        "app_subnet_ids": [PRIVATE.format(letter) for letter in private],
        "protect": False,
    }
    # Two subnets of a zone have other ids.
    ids = [PUBLIC.format(f"{number}{letter}") for number, letter in enumerate(public)]
    blocks = stack({"subnet_ids": ids}, there, apps={"hello": group()})

    def subnet(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"cidrBlock": "10.0.9.0/24", "availabilityZone": f"eu-central-1{arguments['id'][-1]}"}

    lookups = {**mock_aws.LOOKUPS, GET_SUBNET: subnet}
    errors: list[str] = []
    with (
        mock.patch("harness.mock_aws.lookups", return_value=lookups),
        mock.patch("pulumi.log.error", errors.append),
    ):
        try:
            return [each for each in planned(preview=True, **blocks).logs if "zone" in each[1]]
        except SystemExit:
            return [("error", line) for line in errors[0].splitlines()]


@pytest.mark.parametrize(
    ("public", "private", "severity", "message"),
    [
        (
            "aa", "a", "error",
            "balancer.alb.subnet_ids: subnet-00000000a, subnet-00000001a: are all in eu-central-1a, and an ALB takes",
        ),
        ("ab", "ac", "error", "aws.app_subnet_ids: subnet-1111111c: is in eu-central-1c, and balancer.alb.subnet_ids"),
        ("ab", "b", "warning", "aws.app_subnet_ids: the servers of a group stand in eu-central-1b alone (apps.hello."),
        ("ab", "ab", "", ""),
    ],
)  # fmt: skip
def test_a_preview_says_where_subnets_stand_in_the_wrong_zones(
    public: str, private: str, severity: str, message: str
) -> None:
    found = logs_of(public, private)
    assert [(each, text[: len(message)]) for each, text in found] == ([(severity, message)] if message else [])
