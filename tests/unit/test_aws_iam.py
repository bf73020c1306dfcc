"""The judge of policies: what it says is what IAM says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.aws.policy import allows


def policy(effect: str, action: str, resource: str, **condition: Any) -> str:
    statement = {"Effect": effect, "Action": action, "Resource": resource, "Condition": condition}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.mark.parametrize(
    ("documents", "context", "allowed"),
    [
        ([policy("Allow", "s3:Get*", "arn:aws:s3:::b/*")], {}, True),
        ([policy("Allow", "s3:Put*", "arn:aws:s3:::b/*")], {}, False),
        ([policy("Allow", "s3:GetObject", "arn:aws:s3:::c/*")], {}, False),
        ([policy("Allow", "*", "*"), policy("Deny", "s3:GetObject", "*")], {}, False),
        ([], {}, False),
        ([policy("Allow", "*", "*", StringLike={"k": "a*"})], {"k": "ab"}, True),
        ([policy("Allow", "*", "*", StringLike={"k": "a*"})], {"k": "ba"}, False),
        ([policy("Allow", "*", "*", StringLike={"k": "a*"})], {}, False),
        ([policy("Allow", "*", "*", StringLikeIfExists={"k": "a*"})], {}, True),
        ([policy("Allow", "*", "*", StringEquals={"k": "a*"})], {"K": "ab"}, False),
        ([policy("Allow", "*", "*", Bool={"k": "false"})], {"k": "False"}, True),
    ],
)
def test_policies_are_judged_as_iam_does(documents: list[str], context: dict[str, str], allowed: bool) -> None:
    assert allows(documents, "s3:GetObject", "arn:aws:s3:::b/key", context) is allowed


def test_a_condition_that_cannot_be_judged_is_an_error() -> None:
    with pytest.raises(ValueError, match="operator IpAddress"):
        allows([policy("Allow", "*", "*", IpAddress={"aws:SourceIp": "10.0.0.0/8"})], "s3:GetObject", "*")
