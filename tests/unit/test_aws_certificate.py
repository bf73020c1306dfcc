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
