"""What machines of platform aws may do in the account, and nothing more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from platforms.aws.partition import Partition, partition_of
from settings.cloudwatch import Alarms, Logs
from tests.unit.aws_fleet import BUCKET, INSTANCE, KMS_KEY, LOG_GROUP, POLICY, ROLE, TOPIC, built, statements

ATTACHED, PROFILE = "aws:iam/rolePolicyAttachment:RolePolicyAttachment", "aws:iam/instanceProfile:InstanceProfile"
PARAMETERS = "arn:aws:ssm:eu-central-1:*:parameter/wsgi-fleet/prod/hello/*"
READS = [
    {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::releases-b0b0b0b/prod/hello/*"},
    {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": "arn:aws:s3:::releases-b0b0b0b",
        "Condition": {"StringLikeIfExists": {"s3:prefix": "prod/hello/*"}},
    },
    {"Effect": "Allow", "Action": "ssm:GetParametersByPath", "Resource": PARAMETERS},
]
DECRYPTS = {
    "Effect": "Allow",
    "Action": "kms:Decrypt",
    "Resource": KMS_KEY,
    "Condition": {
        "StringEquals": {"kms:ViaService": "ssm.eu-central-1.amazonaws.com"},
        "StringLike": {"kms:EncryptionContext:PARAMETER_ARN": PARAMETERS},
    },
}
REPORTS = {
    "Effect": "Allow",
    "Action": "cloudwatch:PutMetricData",
    "Resource": "*",
    "Condition": {"StringEquals": {"cloudwatch:namespace": "wsgi-fleet/prod"}},
}


def ships(group: str) -> dict[str, Any]:
    actions = ["logs:CreateLogStream", "logs:PutLogEvents"]
    return {"Effect": "Allow", "Action": actions, "Resource": f"arn:aws:logs:::log-group:{group}:*"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"app-hello": READS}),
        ({"kms_key_arn": KMS_KEY}, {"app-hello": [*READS, DECRYPTS]}),
        # The balancer still reads nothing.
        ({"ssm": True}, {"app-hello": READS}),
        ({"logs": Logs()}, {"app-hello": [*READS, ships("hello-log")], "balancer": [ships("balancer-log")]}),
        ({"alarms": Alarms(sns_topic_arn=TOPIC)}, {"app-hello": [*READS, REPORTS], "balancer": [REPORTS]}),
        (
            {"alarms": Alarms(sns_topic_arn=TOPIC), "logs": Logs(retention_days=30)},
            {"app-hello": [*READS, REPORTS, ships("hello-log")], "balancer": [REPORTS, ships("balancer-log")]},
        ),
    ],
    ids=["plain", "key", "ssm", "logs", "alarms", "both"],
)
def test_each_tier_may_do_what_it_is_there_for_and_nothing_more(changes: Any, expected: Any) -> None:
    made = built(**changes)
    assert {each.name: statements(each.inputs["policy"]) for each in made.of(POLICY)} == expected
    core = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore" if changes.get("ssm") else ""
    roles = ["app-hello", "balancer"] if core else list(expected)
    attached = [(each.name, each.inputs["role"], each.inputs["policyArn"]) for each in made.of(ATTACHED)]
    assert attached == [(f"{role}-ssm", f"{role}-0c0c0c0", core) for role in roles if core]
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    for role, profile in zip(made.of(ROLE), made.of(PROFILE), strict=True):
        assert role.inputs.keys() == {"assumeRolePolicy"}
        assert statements(role.inputs["assumeRolePolicy"]) == [trust]
        assert profile.inputs == {"role": f"{role.name}-0c0c0c0"}
    carried = {each.name: each.inputs.get("iamInstanceProfile") for each in made.of(INSTANCE)}
    balancer = "balancer-0d0d0d0" if "balancer" in roles else None
    servers = dict.fromkeys(("hello-1", "hello-2", "hello-3"), "app-hello-0d0d0d0")
    assert carried == {"balancer": balancer, **servers}


def test_servers_wait_for_what_they_may_do_and_for_what_they_read() -> None:
    prod = built()
    for waited in (prod.one(POLICY), prod.one(BUCKET), prod.one("pulumi-python:dynamic/aws:SecretParameters")):
        assert [each.name for each in prod.of(INSTANCE) if not each.depends_on(waited)] == ["balancer"]


@pytest.mark.parametrize(
    ("region", "name", "domain"),
    [
        ("cn-north-1", "aws-cn", "amazonaws.com.cn"),
        ("us-gov-west-1", "aws-us-gov", "amazonaws.com"),
        ("eu-central-1", "aws", "amazonaws.com"),
    ],
)
def test_every_partition_has_its_own_names(region: str, name: str, domain: str) -> None:
    assert partition_of(region) == Partition(name, domain)
    topic = f"arn:{name}:sns:{region}:123456789012:fleet"
    made = built(region=region, release_bucket="releases", ssm=True, alarms=Alarms(sns_topic_arn=topic))
    text = json.dumps([each.inputs for type_ in (ROLE, POLICY, ATTACHED) for each in made.of(type_)])
    assert {part.split(":")[0] for part in text.split("arn:")[1:]} == {name}
    assert f"ec2.{domain}" in text
    alarm = made.one("aws:cloudwatch/metricAlarm:MetricAlarm", "balancer-host")
    assert alarm.inputs["alarmActions"] == [f"arn:{name}:automate:{region}:ec2:recover", topic]


def test_logs_have_a_place_for_each_tier_that_keeps_them_so_long() -> None:
    made = built(alarms=Alarms(sns_topic_arn=TOPIC), logs=Logs(retention_days=30))
    assert {each.name: each.inputs for each in made.of(LOG_GROUP)} == {
        "hello-log": {"retentionInDays": 30},
        "balancer-log": {"retentionInDays": 30},
    }
    assert made.exports["logs"] == {"hello": "hello-log-0e0e0e0", "balancer": "balancer-log-0e0e0e0"}
    encrypted = built(logs=Logs(kms_key_arn=KMS_KEY))
    assert [each.inputs["kmsKeyId"] for each in encrypted.of(LOG_GROUP)] == [KMS_KEY] * 2
    assert (built().of(LOG_GROUP), built().exports["logs"]) == ([], {})
    assert built(kms_key_arn=KMS_KEY).exports["store"]["secrets"]["kms_key_arn"] == KMS_KEY
