"""The stand-in of AWS itself: it refuses what EC2 refuses, and tells the engine exactly what changes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from tests.aws.account import Account, Unknown, Unsupported
from tests.aws.command import TYPE, RemoteCommands
from tests.aws.plugin import Failed, changes
from tests.aws.server import image, serving

pytestmark = pytest.mark.aws
REGION = "eu-central-1"


@pytest.fixture(scope="module")
def account() -> Generator[Account]:
    with serving() as endpoint:
        made = Account(endpoint, REGION)
        image(made)
        yield made


GROUP, RULE = "aws:ec2/securityGroup:SecurityGroup", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
BUCKET, INSTANCE = "aws:s3/bucket:Bucket", "aws:ec2/instance:Instance"
AMI, PORTS = "ami-0123456789abcdef0", {"ipProtocol": "tcp", "fromPort": 1, "toPort": 1}


@pytest.mark.parametrize(
    ("type_", "inputs", "error"),
    [
        ("aws:rds/instance:Instance", {}, "type aws:rds/instance:Instance"),
        (BUCKET, {"versioning": {"enabled": True}, "acl": "private"}, "Bucket: acl, versioning"),
        (BUCKET, {"region": "us-east-1"}, "region us-east-1"),
        (INSTANCE, {"ami": AMI, "metadataOptions": {"httpToken": "required"}}, "HttpToken"),
        # moto takes what does not exist; AWS does not.
        (GROUP, {"vpcId": "vpc-00000000", "description": "d"}, "InvalidVpcID.NotFound"),
        (RULE, {"securityGroupId": "sg-0123", **PORTS, "cidrIpv4": "10.0.0.0/8"}, "InvalidGroup.NotFound"),
        (RULE, {"securityGroupId": "$group", **PORTS, "referencedSecurityGroupId": "sg-01"}, "InvalidGroup.NotFound"),
        (INSTANCE, {"ami": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        (INSTANCE, {"ami": AMI, "keyName": "lost"}, "InvalidKeyPair.NotFound"),
        (INSTANCE, {"ami": AMI, "iamInstanceProfile": "lost"}, "NoSuchEntity"),
        ("aws:iam/rolePolicy:RolePolicy", {"role": "lost", "policy": "{}"}, "NoSuchEntity"),
        ("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "lost", "policy": "{}"}, "404"),
    ],
)
def test_what_aws_or_nobody_knows_is_refused(account: Account, type_: str, inputs: dict[str, Any], error: str) -> None:
    if inputs.get("securityGroupId") == "$group":
        inputs = inputs | {"securityGroupId": group(account)[0]}
    with pytest.raises((Unknown, ClientError, ParamValidationError), match=error):
        account.create(type_, inputs)


def group(account: Account, **inputs: Any) -> tuple[str, dict[str, Any]]:
    vpc = account.aws.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    return account.create(GROUP, {"vpcId": vpc, "description": "d", **inputs})


def test_a_group_is_closed_at_first_keeps_its_description_and_stays_while_it_is_in_use(account: Account) -> None:
    id_, state = group(account)
    (found,) = account.aws.ec2.describe_security_groups(GroupIds=[id_])["SecurityGroups"]
    assert (found["IpPermissions"], found["IpPermissionsEgress"]) == ([], [])
    assert account.read(GROUP, id_, state) == state
    assert account.replaces(GROUP, "description")
    with pytest.raises(Unsupported, match="description"):
        account.update(GROUP, id_, state, {"vpcId": state["vpcId"], "description": "another"})
    user, _ = group(account)
    account.create(RULE, {"securityGroupId": user, "ipProtocol": "-1", "referencedSecurityGroupId": id_})
    with pytest.raises(RuntimeError, match="DependencyViolation"):
        account.delete(GROUP, id_, state)


def test_tags_are_those_of_provider_and_resource_and_go_when_they_are_taken_away(account: Account) -> None:
    tagged = Account(account.endpoint, REGION, {"stack": "test"})
    id_, state = group(tagged, tags={"Name": "a", "old": "1"})
    assert state["tagsAll"] == {"stack": "test", "Name": "a", "old": "1"}
    tagged.update(GROUP, id_, state, {"vpcId": state["vpcId"], "description": "d", "tags": {"Name": "b"}})
    (found,) = account.aws.ec2.describe_security_groups(GroupIds=[id_])["SecurityGroups"]
    assert {each["Key"]: each["Value"] for each in found["Tags"]} == {"stack": "test", "Name": "b"}
    assert not account.replaces(GROUP, "tags")


def test_a_bucket_with_objects_stays_unless_it_is_forced(account: Account) -> None:
    id_, state = account.create(BUCKET, {})
    account.aws.s3.put_object(Bucket=id_, Key="a", Body=b"1")
    with pytest.raises(ClientError, match="BucketNotEmpty"):
        account.delete(BUCKET, id_, state)
    account.delete(BUCKET, id_, state | {"forceDestroy": True})
    assert account.read(BUCKET, id_, state) is None


def test_a_look_up_that_nobody_described_is_refused(account: Account) -> None:
    with pytest.raises(Unknown, match="getFish"):
        account.invoke("aws:ec2/getFish:getFish", {})


def test_the_engine_is_told_where_two_values_differ() -> None:
    old = {"same": 1, "gone": 1, "block": {"size": 8, "tags": {"a:b": "x"}}, "list": [1, 2]}
    new = {"same": 1, "come": 1, "block": {"size": 9, "tags": {"a:b": "y"}}, "list": [1]}
    assert changes(old, new) == {
        "block.size": "update",
        'block.tags["a:b"]': "update",
        "come": "add",
        "gone": "delete",
        "list": "update",
    }
    assert changes(new, new) == {}


def test_a_command_is_replaced_by_its_triggers_alone() -> None:
    commands = RemoteCommands()
    assert [key for key in ("create", "update", "connection", "triggers") if commands.replaces(TYPE, key)] == [
        "triggers"
    ]
    with pytest.raises(Failed, match="knows no command:remote:Command with interpreter"):
        commands.create(TYPE, {"interpreter": ["sh"]})
