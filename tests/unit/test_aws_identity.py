"""What machines of platform aws may do in the account, and what keeps them from being lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from harness.mock_engine import Build, Registered
from platforms.aws.partition import Partition, partition_of
from tests.unit.test_aws import ASSOCIATION, BUCKET, EIP, INSTANCE, STEP, built, given

ROLE, POLICY = "aws:iam/role:Role", "aws:iam/rolePolicy:RolePolicy"
ATTACHED, PROFILE = "aws:iam/rolePolicyAttachment:RolePolicyAttachment", "aws:iam/instanceProfile:InstanceProfile"
PARAMETERS = "pulumi-python:dynamic/aws:SecretParameters"
KEY = "arn:aws:kms:eu-central-1:123456789012:key/12345678-1234-1234-1234-123456789012"
READS = [
    {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::releases-b0b0b0b/prod/hello/*"},
    {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": "arn:aws:s3:::releases-b0b0b0b",
        "Condition": {"StringLikeIfExists": {"s3:prefix": "prod/hello/*"}},
    },
    {
        "Effect": "Allow",
        "Action": "ssm:GetParametersByPath",
        "Resource": "arn:aws:ssm:eu-central-1:*:parameter/wsgi-fleet/prod/hello/*",
    },
]


@pytest.fixture(scope="module")
def plain() -> Build:
    return built()


@pytest.fixture(scope="module")
def protected() -> Build:
    return built(protect=True)


def statements(made: Registered) -> list[dict[str, Any]]:
    return json.loads(made.inputs["policy"])["Statement"]


def test_an_app_server_reads_releases_and_secrets_of_its_application_and_can_do_nothing_else(plain: Build) -> None:
    policy = plain.one(POLICY)
    assert statements(policy) == READS
    assert policy.inputs["role"] == plain.one(PROFILE).inputs["role"] == "app-hello-0c0c0c0"
    assert plain.of(ATTACHED) == []
    role = plain.one(ROLE)
    assert role.name == "app-hello"
    (trust,) = json.loads(role.inputs["assumeRolePolicy"])["Statement"]
    assert trust == {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    assert "managedPolicyArns" not in role.inputs


def test_the_servers_of_an_application_share_a_role_and_wait_for_what_it_may_do(plain: Build) -> None:
    servers = plain.of(INSTANCE)[1:]
    assert [each.inputs["iamInstanceProfile"] for each in servers] == ["app-hello-0d0d0d0"] * 3
    for waited in (plain.one(POLICY), plain.one(BUCKET), plain.one(PARAMETERS)):
        assert [each.name for each in servers if not each.depends_on(waited)] == []


def test_the_balancer_has_no_role(plain: Build) -> None:
    assert "iamInstanceProfile" not in plain.one(INSTANCE, "balancer").inputs


def test_systems_manager_is_let_in_on_both_tiers_where_it_is_asked_for() -> None:
    made = built(ssm=True)
    core = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    attached = [(each.name, each.inputs["role"], each.inputs["policyArn"]) for each in made.of(ATTACHED)]
    assert attached == [("app-hello-ssm", "app-hello-0c0c0c0", core), ("balancer-ssm", "balancer-0c0c0c0", core)]
    # The balancer still reads nothing.
    assert [each.name for each in made.of(POLICY)] == ["app-hello"]
    profiles = [each.inputs["iamInstanceProfile"] for each in made.of(INSTANCE)]
    assert profiles == ["balancer-0d0d0d0"] + ["app-hello-0d0d0d0"] * 3


def test_a_key_opens_the_applications_parameters_alone_and_only_through_systems_manager() -> None:
    made = built(kms_key_arn=KEY)
    *others, decrypt = statements(made.one(POLICY))
    assert others == READS
    assert decrypt == {
        "Effect": "Allow",
        "Action": "kms:Decrypt",
        "Resource": KEY,
        "Condition": {
            "StringEquals": {"kms:ViaService": "ssm.eu-central-1.amazonaws.com"},
            "StringLike": {
                "kms:EncryptionContext:PARAMETER_ARN": READS[2]["Resource"],
            },
        },
    }
    assert made.exports["store"]["secrets"]["kms_key_arn"] == KEY


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
    made = built(region=region, release_bucket="releases", ssm=True)
    text = json.dumps([each.inputs for each in (*made.of(ROLE), *made.of(POLICY), *made.of(ATTACHED))])
    arns = {part.split(":")[0] for part in text.split("arn:")[1:]}
    assert arns == {name}
    assert f"ec2.{domain}" in text


def test_the_secrets_of_a_stack_go_with_it_after_everything_that_reads_them(plain: Build) -> None:
    made = plain.one(PARAMETERS)
    assert (made.inputs["path"], made.inputs["region"]) == ("/wsgi-fleet/prod", "eu-central-1")
    assert plain.exports["store"]["secrets"]["path"] == "/wsgi-fleet/prod"
    assert not made.protect


def test_machines_recover_from_a_failed_host_by_themselves(plain: Build) -> None:
    assert [each.inputs["maintenanceOptions"] for each in plain.of(INSTANCE)] == [{"autoRecovery": "default"}] * 4


def test_nothing_is_protected_unless_it_is_asked_for(plain: Build) -> None:
    assert [each.name for each in plain.resources if each.protect] == []
    assert {each.inputs["disableApiTermination"] for each in plain.of(INSTANCE)} == {False}


def test_a_protected_stack_keeps_its_address_and_its_bucket_and_people_from_ending_machines(protected: Build) -> None:
    bucket = protected.one(BUCKET)
    # What belongs to the bucket inherits it.
    kept = [protected.one(EIP, "address"), bucket, *protected.children(bucket)]
    assert {each.urn for each in protected.resources if each.protect} == {each.urn for each in kept}
    for machine in protected.of(INSTANCE):
        # The second lets the engine replace and remove machines all the same.
        assert (machine.inputs["disableApiTermination"], machine.inputs["forceDestroy"]) == (True, True)
    assert not protected.one(ASSOCIATION).protect
    assert not any(each.protect for each in protected.of(STEP))


def test_the_bucket_forgets_what_was_deleted_and_never_what_is_kept(plain: Build) -> None:
    (rule,) = plain.one("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration").inputs["rules"]
    assert rule == {
        "id": "forget",
        "status": "Enabled",
        "filter": {"prefix": ""},
        "noncurrentVersionExpiration": {"noncurrentDays": 30},
        "expiration": {"expiredObjectDeleteMarker": True},
        "abortIncompleteMultipartUpload": {"daysAfterInitiation": 1},
    }


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (KEY.replace("central", "west"), "kms_key_arn: is in eu-west-1"),
        ("alias/aws/ssm", "should match pattern"),
        (KEY + '"}', "should match pattern"),
        (KEY + "\n", "should match pattern"),
    ],
)
def test_a_key_that_machines_could_not_use_is_refused(key: str, told: str) -> None:
    with pytest.raises(ValidationError) as error:
        given(kms_key_arn=key)
    assert told in str(error.value)
