"""The stand-in of AWS itself: it refuses what EC2 refuses, and tells the engine exactly what changes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from tests.aws.account import Account, Unknown, Unsupported
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
SUBNET = "aws:ec2/subnet:Subnet"
BALANCER, GROUP_OF_TARGETS = "aws:lb/loadBalancer:LoadBalancer", "aws:lb/targetGroup:TargetGroup"
LISTENER, AMI = "aws:lb/listener:Listener", "ami-0123456789abcdef0"


@pytest.mark.parametrize(
    ("type_", "inputs", "error"),
    [
        ("aws:rds/instance:Instance", {}, "type aws:rds/instance:Instance"),
        (BUCKET, {"versioning": {"enabled": True}, "acl": "private"}, "Bucket: acl, versioning"),
        (BUCKET, {"region": "us-east-1"}, "region us-east-1"),
        (INSTANCE, {"ami": AMI, "metadataOptions": {"httpToken": "required"}}, "HttpToken"),
        # moto takes what does not exist; AWS does not.
        (GROUP, {"vpcId": "vpc-00000000", "description": "d"}, "InvalidVpcID.NotFound"),
        (INSTANCE, {"ami": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        ("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "lost", "policy": "{}"}, "404"),
        (LISTENER, {"loadBalancerArn": "lost", "port": 80, "protocol": "HTTP"}, "LoadBalancerNotFound"),
        (GROUP_OF_TARGETS, {"healthCheck": {"path": "/"}, "lambdaMultiValueHeadersEnabled": True}, "lambdaMulti"),
    ],
)
def test_what_aws_or_nobody_knows_is_refused(account: Account, type_: str, inputs: dict[str, Any], error: str) -> None:
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


def test_a_protected_load_balancer_stays_and_one_in_use_keeps_its_subnets(account: Account) -> None:
    vpc = account.create("aws:ec2/vpc:Vpc", {"cidrBlock": "10.9.0.0/16"})[0]
    given = {"vpcId": vpc, "cidrBlock": "10.9.0.0/20", "availabilityZone": f"{REGION}a"}
    subnet, of_subnet = account.create(SUBNET, given)
    made, _ = account.create(GROUP, {"vpcId": vpc, "description": "d"})
    inputs = {"loadBalancerType": "application", "subnets": [subnet], "securityGroups": [made]}
    id_, state = account.create(BALANCER, inputs | {"internal": False, "enableDeletionProtection": True})
    with pytest.raises(RuntimeError, match="OperationNotPermitted"):
        account.delete(BALANCER, id_, state)
    with pytest.raises(RuntimeError, match="DependencyViolation"):
        account.delete(SUBNET, subnet, of_subnet)
    account.update(BALANCER, id_, state, {**inputs, "internal": False, "enableDeletionProtection": False})
    account.delete(BALANCER, id_, state)
    account.delete(SUBNET, subnet, of_subnet)
