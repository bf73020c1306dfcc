"""The account that programs are carried out on: every type it knows lives through its life, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import asyncssh
import pulumi
import pytest
from botocore.exceptions import ClientError, ParamValidationError

from harness.mock_engine import build
from harness.program import project
from tests.aws.account import KINDS, Account, Unknown, Unsupported
from tests.aws.program import carry_out
from tests.aws.server import image, prepared, serving

pytestmark = pytest.mark.aws

GROUP, RULE = "aws:ec2/securityGroup:SecurityGroup", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
BUCKET, INSTANCE = "aws:s3/bucket:Bucket", "aws:ec2/instance:Instance"
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
)
READS = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}
)
KEY = cast("Any", asyncssh).generate_private_key("ssh-ed25519").export_public_key().decode()
ALL = {"protocol": "-1", "fromPort": 0, "toPort": 0, "cidrBlocks": ["0.0.0.0/0"]}
# Resources that lean on one another in this order: type, inputs ($type: the id of the one before), what changes later.
STORY: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("aws:ec2/vpc:Vpc", {"cidrBlock": "10.9.0.0/16", "enableDnsHostnames": True}, {"enableDnsSupport": True}),
    ("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", {"vpcId": "$Vpc", "egress": [ALL]}, {"egress": []}),
    (
        "aws:ec2/subnet:Subnet",
        {"vpcId": "$Vpc", "cidrBlock": "10.9.1.0/24", "availabilityZone": "eu-central-1b"},
        {"mapPublicIpOnLaunch": False},
    ),
    ("aws:ec2/internetGateway:InternetGateway", {"vpcId": "$Vpc"}, {}),
    ("aws:ec2/eip:Eip", {"domain": "vpc"}, {}),
    ("aws:ec2/natGateway:NatGateway", {"allocationId": "$Eip", "subnetId": "$Subnet"}, {}),
    ("aws:ec2/routeTable:RouteTable", {"vpcId": "$Vpc"}, {}),
    (
        "aws:ec2/route:Route",
        {"routeTableId": "$RouteTable", "destinationCidrBlock": "0.0.0.0/0", "gatewayId": "$InternetGateway"},
        {},
    ),
    (
        "aws:ec2/routeTableAssociation:RouteTableAssociation",
        {"routeTableId": "$RouteTable", "subnetId": "$Subnet"},
        {},
    ),
    (
        "aws:ec2/vpcEndpoint:VpcEndpoint",
        {
            "vpcId": "$Vpc",
            "serviceName": "com.amazonaws.eu-central-1.s3",
            "vpcEndpointType": "Gateway",
            "routeTableIds": ["$RouteTable"],
        },
        {"policy": READS},
    ),
    ("aws:cloudwatch/logGroup:LogGroup", {"retentionInDays": 30}, {"retentionInDays": 90}),
    ("aws:iam/role:Role", {"assumeRolePolicy": TRUST}, {"description": "reads"}),
    (
        "aws:iam/rolePolicy:RolePolicy",
        {"role": "$Role", "policy": READS},
        {"policy": READS.replace("*", "arn:aws:s3:::a/*")},
    ),
    (
        "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
        {"role": "$Role", "policyArn": "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"},
        {},
    ),
    ("aws:iam/instanceProfile:InstanceProfile", {"role": "$Role"}, {}),
    (
        "aws:ec2/flowLog:FlowLog",
        {
            "vpcId": "$Vpc",
            "trafficType": "REJECT",
            "logDestination": "arn:aws:logs:eu-central-1:123456789012:log-group:$LogGroup",
            "iamRoleArn": "arn:aws:iam::123456789012:role/$Role",
            "maxAggregationInterval": 600,
        },
        {},
    ),
    (GROUP, {"vpcId": "$Vpc", "description": "a group"}, {}),
    (
        RULE,
        {
            "securityGroupId": "$SecurityGroup",
            "ipProtocol": "tcp",
            "fromPort": 1,
            "toPort": 2,
            "cidrIpv4": "10.0.0.0/8",
        },
        {"toPort": 3},
    ),
    (
        "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
        {
            "securityGroupId": "$SecurityGroup",
            "ipProtocol": "tcp",
            "fromPort": 443,
            "toPort": 443,
            "referencedSecurityGroupId": "$SecurityGroup",
        },
        {"description": "itself"},
    ),
    ("aws:ec2/keyPair:KeyPair", {"publicKey": KEY}, {}),
    (
        INSTANCE,
        {
            "ami": "ami-0123456789abcdef0",
            "instanceType": "t3.medium",
            "keyName": "$KeyPair",
            "subnetId": "$Subnet",
            "vpcSecurityGroupIds": ["$SecurityGroup"],
            "associatePublicIpAddress": True,
            "iamInstanceProfile": "$InstanceProfile",
            "userDataBase64": "I2Nsb3VkLWNvbmZpZwo=",
            "userDataReplaceOnChange": True,
            "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 1},
            "rootBlockDevice": {"encrypted": True, "volumeType": "gp3", "volumeSize": 8, "tags": {"Name": "disk"}},
            "monitoring": True,
            "maintenanceOptions": {"autoRecovery": "default"},
            "disableApiTermination": True,
        },
        {"disableApiTermination": False},
    ),
    ("aws:ec2/eipAssociation:EipAssociation", {"allocationId": "$Eip", "instanceId": "$Instance"}, {}),
    (BUCKET, {"forceDestroy": True}, {}),
    (
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
        {"bucket": "$Bucket", "blockPublicAcls": True},
        {"blockPublicPolicy": True},
    ),
    (
        "aws:s3/bucketOwnershipControls:BucketOwnershipControls",
        {"bucket": "$Bucket", "rule": {"objectOwnership": "BucketOwnerEnforced"}},
        {},
    ),
    (
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
        {"bucket": "$Bucket", "rules": [{"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}]},
        {},
    ),
    (
        "aws:s3/bucketVersioning:BucketVersioning",
        {"bucket": "$Bucket", "versioningConfiguration": {"status": "Enabled"}},
        {},
    ),
    (
        "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
        {
            "bucket": "$Bucket",
            "rules": [
                {
                    "id": "forget",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "noncurrentVersionExpiration": {"noncurrentDays": 30},
                    "abortIncompleteMultipartUpload": {"daysAfterInitiation": 1},
                }
            ],
        },
        {},
    ),
    ("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "$Bucket", "policy": READS}, {}),
    (
        "aws:cloudwatch/metricAlarm:MetricAlarm",
        {
            "comparisonOperator": "GreaterThanThreshold",
            "evaluationPeriods": 2,
            "metricName": "StatusCheckFailed",
            "namespace": "AWS/EC2",
            "period": 60,
            "statistic": "Maximum",
            "threshold": 0,
            "dimensions": {"InstanceId": "$Instance"},
        },
        {"threshold": 1},
    ),
    (
        "aws:route53/record:Record",
        {"zoneId": "$zone", "name": "www.example.com", "type": "A", "ttl": 60, "records": ["192.0.2.1"]},
        {"records": ["192.0.2.2"]},
    ),
    (
        "aws:ssm/parameter:Parameter",
        {"name": "/fleet/key", "type": "SecureString", "value": "sesame"},
        {"value": "open"},
    ),
]


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with serving() as endpoint:
        made = Account(endpoint, "eu-central-1", {"stack": "test"})
        image(made)
        yield made


def test_every_type_is_made_read_changed_and_deleted(account: Account) -> None:
    zone = account.aws.route53.create_hosted_zone(Name="example.com", CallerReference="1")["HostedZone"]["Id"]
    ids = {"zone": zone.rpartition("/")[2]}
    lives: list[tuple[str, str, dict[str, Any]]] = []
    for type_, given, later in STORY:
        inputs = resolved(given, ids)
        id_, state = account.create(type_, inputs)
        ids[type_.rpartition(":")[2]] = id_
        assert {key: state[key] for key in inputs} == inputs
        assert account.read(type_, id_, state) == state, type_
        after = account.update(type_, id_, state, inputs | later)
        # A parameter of Systems Manager counts its versions.
        assert {**after, "version": 0} == {**state, **later, "version": 0}, type_
        lives.append((type_, id_, after))
    for type_, id_, state in reversed(lives):
        account.delete(type_, id_, state)
        if "defaultSecurityGroup" not in type_:
            assert account.read(type_, id_, state) is None, type_
        account.delete(type_, id_, state)
    assert {type_ for type_, _, _ in STORY} == set(KINDS)


def resolved(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: resolved(item, ids) for key, item in value.items()}  # pyright: ignore
    if isinstance(value, list):
        return [resolved(item, ids) for item in value]  # pyright: ignore
    if isinstance(value, str) and "$" in value:
        head, _, name = value.partition("$")
        return head + ids[name]
    return value


def test_a_type_that_nobody_described_is_refused(account: Account) -> None:
    with pytest.raises(Unknown, match="type aws:rds/instance:Instance"):
        account.create("aws:rds/instance:Instance", {})


def test_a_property_that_nobody_described_is_refused_by_name(account: Account) -> None:
    with pytest.raises(Unknown, match="Bucket: acl, versioning"):
        account.create(BUCKET, {"versioning": {"enabled": True}, "acl": "private"})


def test_a_parameter_that_aws_does_not_have_is_refused_by_its_own_description(account: Account) -> None:
    group, _ = account.create(GROUP, {"vpcId": vpc(account), "description": "d"})
    with pytest.raises(ParamValidationError, match="HttpToken"):
        account.create(
            INSTANCE,
            {
                "ami": "ami-0123456789abcdef0",
                "vpcSecurityGroupIds": [group],
                "metadataOptions": {"httpToken": "required"},
            },
        )


@pytest.mark.parametrize(
    ("type_", "inputs", "error"),
    [
        (GROUP, {"vpcId": "vpc-00000000", "description": "d"}, "InvalidVpcID.NotFound"),
        (
            RULE,
            {"securityGroupId": "sg-0123", "ipProtocol": "tcp", "fromPort": 1, "toPort": 1, "cidrIpv4": "10.0.0.0/8"},
            "InvalidGroup.NotFound",
        ),
        (INSTANCE, {"ami": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        (INSTANCE, {"ami": "ami-0123456789abcdef0", "keyName": "lost"}, "InvalidKeyPair.NotFound"),
        (INSTANCE, {"ami": "ami-0123456789abcdef0", "iamInstanceProfile": "lost"}, "NoSuchEntity"),
        (INSTANCE, {"ami": "ami-0123456789abcdef0", "vpcSecurityGroupIds": ["sg-0123"]}, "InvalidGroup.NotFound"),
        ("aws:iam/rolePolicy:RolePolicy", {"role": "lost", "policy": READS}, "NoSuchEntity"),
        ("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "lost", "policy": READS}, "404"),
    ],
)
def test_what_does_not_exist_cannot_be_named(account: Account, type_: str, inputs: dict[str, Any], error: str) -> None:
    with pytest.raises(ClientError, match=error):
        account.create(type_, inputs)


def test_a_rule_can_not_name_a_group_that_is_gone(account: Account) -> None:
    mine, _ = account.create(GROUP, {"vpcId": vpc(account), "description": "d"})
    with pytest.raises(ClientError, match=r"InvalidGroup\.NotFound"):
        account.create(
            RULE,
            {
                "securityGroupId": mine,
                "ipProtocol": "tcp",
                "fromPort": 22,
                "toPort": 22,
                "referencedSecurityGroupId": "sg-0123456789abcdef0",
            },
        )


def test_a_group_in_use_is_not_deleted(account: Account) -> None:
    home = vpc(account)
    used, state = account.create(GROUP, {"vpcId": home, "description": "d"})
    user, _ = account.create(GROUP, {"vpcId": home, "description": "d"})
    rule = {"securityGroupId": user, "ipProtocol": "-1", "referencedSecurityGroupId": used}
    account.create(RULE, rule)
    with pytest.raises(RuntimeError, match="DependencyViolation"):
        account.delete(GROUP, used, state)


def test_a_new_group_lets_nothing_out(account: Account) -> None:
    id_, _ = account.create(GROUP, {"vpcId": vpc(account), "description": "d"})
    (found,) = account.aws.ec2.describe_security_groups(GroupIds=[id_])["SecurityGroups"]
    assert (found["IpPermissions"], found["IpPermissionsEgress"]) == ([], [])


def test_what_cannot_change_in_place_says_so(account: Account) -> None:
    inputs = {"vpcId": vpc(account), "description": "d"}
    id_, state = account.create(GROUP, inputs)
    assert account.replaces(GROUP, "description")
    with pytest.raises(Unsupported, match="description"):
        account.update(GROUP, id_, state, inputs | {"description": "another"})


def test_tags_are_those_of_provider_and_resource_and_go_when_they_are_taken_away(account: Account) -> None:
    inputs = {"vpcId": vpc(account), "description": "d", "tags": {"Name": "a", "old": "1"}}
    id_, state = account.create(GROUP, inputs)
    assert state["tagsAll"] == {"stack": "test", "Name": "a", "old": "1"}
    account.update(GROUP, id_, state, inputs | {"tags": {"Name": "b"}})
    (found,) = account.aws.ec2.describe_security_groups(GroupIds=[id_])["SecurityGroups"]
    assert {each["Key"]: each["Value"] for each in found["Tags"]} == {"stack": "test", "Name": "b"}
    assert not account.replaces(GROUP, "tags")


def test_a_resource_of_another_region_is_refused(account: Account) -> None:
    with pytest.raises(Unknown, match="region us-east-1"):
        account.create(BUCKET, {"region": "us-east-1"})


def test_a_bucket_with_objects_stays_unless_it_is_forced(account: Account) -> None:
    id_, state = account.create(BUCKET, {})
    account.aws.s3.put_object(Bucket=id_, Key="a", Body=b"1")
    with pytest.raises(ClientError, match="BucketNotEmpty"):
        account.delete(BUCKET, id_, state)
    account.delete(BUCKET, id_, state | {"forceDestroy": True})
    assert account.read(BUCKET, id_, state) is None


def test_lookups_find_debians_image_and_refuse_what_nobody_described(account: Account) -> None:
    asked = {"owners": ["136693071363"], "mostRecent": True, "filters": [{"name": "name", "values": ["debian-12-*"]}]}
    assert account.invoke("aws:ec2/getAmi:getAmi", asked)["id"] == "ami-0123456789abcdef0"
    with pytest.raises(Unknown, match="getFish"):
        account.invoke("aws:ec2/getFish:getFish", {})


def test_a_program_that_registers_what_nobody_described_fails(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path))
    monkeypatch.delitem(KINDS, "aws:ec2/eip:Eip")
    with pytest.raises(Unknown, match="type aws:ec2/eip:Eip"):
        carry_out("dev", account)
    # What the failed one left waiting is not waited for by the next one.
    assert build(lambda: pulumi.export("a", 1)).exports == {"a": 1}


def test_a_program_that_names_an_image_that_is_not_there_fails(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path))

    def unprepared(_: Account, aws: dict[str, Any]) -> dict[str, Any]:
        return {**prepared(account, aws), "ami": "ami-0fedcba9876543210"}

    monkeypatch.setattr("tests.aws.program.prepared", unprepared)
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        carry_out("dev", account)


def vpc(account: Account) -> str:
    return str(account.aws.ec2.describe_vpcs()["Vpcs"][0]["VpcId"])
