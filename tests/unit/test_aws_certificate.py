"""A certificate that is requested of ACM, and the records that prove its names."""

from __future__ import annotations

import pulumi
import pytest

from harness.mock_aws import OUTPUTS
from harness.mock_engine import Build, build
from platforms.aws.certificate import request_certificate

NAMES = [["example.org"], ["example.org", "*.example.org"], ["*.example.org"]]


def requested(*hostnames: str) -> Build:
    def program() -> None:
        request_certificate("certificate", hostnames, "Z1", pulumi.ResourceOptions())

    return build(program, outputs=OUTPUTS)


@pytest.mark.parametrize("hostnames", NAMES, ids=" ".join)
def test_the_record_of_a_name_stays_when_the_wildcard_below_it_comes_or_goes(hostnames: list[str]) -> None:
    (record,) = requested(*hostnames).of("aws:route53/record:Record")
    assert (record.name, record.inputs["name"]) == ("certificate-example.org", "_0a.example.org")


def test_it_is_requested_for_the_first_name_that_is_short_enough() -> None:
    long = f"{'a' * 53}.example.org"
    given = requested(long, "shop.example.org", "docs.example.org").one("aws:acm/certificate:Certificate").inputs
    assert (len(long), given["domainName"]) == (65, "shop.example.org")
    assert given["subjectAlternativeNames"] == [long, "docs.example.org"]
    assert (
        requested(long[1:], "shop.example.org").one("aws:acm/certificate:Certificate").inputs["domainName"] == long[1:]
    )
