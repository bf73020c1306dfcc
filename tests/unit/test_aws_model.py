"""What the account holds after the program of each AWS stack ran: read back by AWS's own calls."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import jsonschema
import pytest
import yaml

from harness.program import ROOT, project, stack_file
from tests.aws.account import KINDS, Account
from tests.aws.policy import actions, allows
from tests.aws.program import Carried, carry_out
from tests.aws.server import serving

pytestmark = pytest.mark.aws

STACKS = sorted(
    path.name.split(".")[1]
    for path in (ROOT / "stacks").glob("Pulumi.*.yaml")
    if stack_file(path.name.split(".")[1])["platform"] == "aws"
)
EVERYONE = "0.0.0.0/0"
# What a document for cloud-init may say here; the whole schema is cloud-init's own, and machines check it in tests/e2e.
USER_DATA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["write_files", "runcmd"],
    "properties": {
        "ssh_genkeytypes": {"type": "array", "items": {"enum": ["ed25519"]}},
        "write_files": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["path", "permissions", "owner", "content"],
                "properties": {
                    "path": {"type": "string", "pattern": "^/"},
                    "permissions": {"type": "string", "pattern": "^0[0-7]{3}$"},
                    "owner": {"const": "root:root"},
                    "content": {"type": "string"},
                },
            },
        },
        "runcmd": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
    },
}


@dataclass(frozen=True)
class Stack:
    name: str
    carried: Carried

    @property
    def aws(self) -> Any:
        """boto3's clients of the account."""
        return self.carried.account.aws

    @property
    def instances(self) -> dict[str, dict[str, Any]]:
        """Running instances by role: "balancer", "hello-1"."""
        reservations = self.aws.ec2.describe_instances()["Reservations"]
        found = [each for reservation in reservations for each in reservation["Instances"]]
        return {tags(each["Tags"])["Name"].removeprefix(f"{self.name}-"): each for each in found}

    def role_documents(self, role: str) -> list[str]:
        """Return the policies of the role that the machine takes; none when it takes no role."""
        profile = self.instances[role].get("IamInstanceProfile")
        if not profile:
            return []
        name = profile["Arn"].rpartition("/")[2]
        (taken,) = self.aws.iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
        names = self.aws.iam.list_role_policies(RoleName=taken["RoleName"])["PolicyNames"]
        found = [self.aws.iam.get_role_policy(RoleName=taken["RoleName"], PolicyName=each) for each in names]
        return [json.dumps(each["PolicyDocument"]) for each in found]

    def ingress(self, role: str) -> set[tuple[str, int, int, str]]:
        """Return (protocol, first port, last port, CIDR or tier at the other end) of all groups of a machine."""
        tiers: dict[str, str] = {}
        for name, each in self.instances.items():
            tiers |= {group["GroupId"]: name.split("-")[0] for group in groups(each)}
        mine = [group["GroupId"] for group in groups(self.instances[role])]
        rules = self.aws.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": mine}])
        found: set[tuple[str, int, int, str]] = set()
        for rule in rules["SecurityGroupRules"]:
            if not rule["IsEgress"]:
                other: str = rule.get("ReferencedGroupInfo", {}).get("GroupId", "")
                end: str = tiers.get(other, other) or rule.get("CidrIpv4") or rule["CidrIpv6"]
                found.add((rule["IpProtocol"], rule["FromPort"], rule["ToPort"], end))
        return found


def groups(instance: dict[str, Any]) -> list[dict[str, str]]:
    return [group for interface in instance["NetworkInterfaces"] for group in interface["Groups"]]


def tags(pairs: list[dict[str, str]]) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in pairs}


@pytest.fixture(scope="module", params=STACKS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    with pytest.MonkeyPatch.context() as patch, serving() as endpoint:
        patch.chdir(project(tmp_path_factory.mktemp("project")))
        region = stack_file(request.param)["aws"]["region"]
        yield Stack(request.param, carry_out(request.param, Account(endpoint, region)))


def test_every_resource_of_aws_was_made(stack: Stack) -> None:
    registered = {each.urn for each in stack.carried.build.resources if each.type.startswith("aws:")}
    assert set(stack.carried.states) == registered
    apps = stack_file(stack.name)["apps"].items()
    servers = [f"{name}-{number + 1}" for name, app in apps for number in range(app["fleet"]["servers"])]
    assert sorted(stack.instances) == ["balancer", *servers]


def test_the_balancer_takes_its_public_ports_from_everyone_and_ssh_from_the_admins(stack: Stack) -> None:
    public = {80, 443} if stack.carried.settings["balancer"].get("tls") else {80}
    expected = {("tcp", port, port, EVERYONE) for port in public}
    admins = {("tcp", 22, 22, cidr) for cidr in stack.carried.settings["aws"]["admin_cidrs"]}
    assert stack.ingress("balancer") == expected | admins


def test_an_app_server_is_reached_by_the_balancer_alone(stack: Stack) -> None:
    for role in stack.instances.keys() - {"balancer"}:
        assert stack.ingress(role) == {("tcp", 8000, 8000, "balancer"), ("tcp", 22, 22, "balancer")}


def test_no_group_reaches_itself(stack: Stack) -> None:
    for rule in stack.aws.ec2.describe_security_group_rules()["SecurityGroupRules"]:
        assert rule.get("ReferencedGroupInfo", {}).get("GroupId") != rule["GroupId"]


def test_no_rule_lets_in_more_than_one_port_or_ssh_from_everyone(stack: Stack) -> None:
    made = {id_ for id_, _ in stack.carried.states.values()}
    for rule in stack.aws.ec2.describe_security_group_rules()["SecurityGroupRules"]:
        if rule["SecurityGroupRuleId"] in made:
            assert rule["FromPort"] == rule["ToPort"] > 0
            assert (rule["FromPort"], rule.get("CidrIpv4"), rule["IsEgress"]) != (22, EVERYONE, False)


def test_instances_ask_for_a_session_of_the_metadata_service_and_one_hop(stack: Stack) -> None:
    for instance in stack.instances.values():
        options = instance["MetadataOptions"]
        assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)


def test_disks_are_encrypted_gp3_and_go_with_their_machine(stack: Stack) -> None:
    volumes = stack.aws.ec2.describe_volumes()["Volumes"]
    attached = [attachment["InstanceId"] for volume in volumes for attachment in volume["Attachments"]]
    assert sorted(attached) == sorted(each["InstanceId"] for each in stack.instances.values())
    assert {(each["Encrypted"], each["VolumeType"]) for each in volumes} == {(True, "gp3")}
    for instance in stack.instances.values():
        assert [each["Ebs"]["DeleteOnTermination"] for each in instance["BlockDeviceMappings"]] == [True]


def test_only_the_balancer_has_a_public_address_and_it_is_the_elastic_one(stack: Stack) -> None:
    public = {role: each["PublicIpAddress"] for role, each in stack.instances.items() if "PublicIpAddress" in each}
    addresses = stack.aws.ec2.describe_addresses()["Addresses"]
    assert public == {"balancer": next(each["PublicIp"] for each in addresses if each.get("InstanceId"))}
    assert public["balancer"] in stack.carried.build.exports["url"] or stack.carried.settings["balancer"]["tls"]


def test_app_servers_are_spread_over_as_many_zones_as_there_are_subnets(stack: Stack) -> None:
    zones = [each["Placement"]["AvailabilityZone"] for role, each in stack.instances.items() if role != "balancer"]
    subnets = {each["SubnetId"] for role, each in stack.instances.items() if role != "balancer"}
    given = stack.carried.settings["aws"]
    wanted = len(given["vpc"]["zones"]) if given.get("vpc") else len(given["app_subnet_ids"])
    assert len(set(zones)) == len(subnets) == min(wanted, len(zones))
    assert stack.instances["balancer"]["SubnetId"] not in subnets


def test_buckets_are_private_encrypted_versioned_and_take_tls_only(stack: Stack) -> None:
    (bucket,) = [each["Name"] for each in stack.aws.s3.list_buckets()["Buckets"]]
    block = stack.aws.s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    assert len(block) == 4
    rules = stack.aws.s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert [each["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for each in rules] in (["AES256"], ["aws:kms"])
    assert stack.aws.s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    owner = stack.aws.s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert owner == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert stack.aws.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"][0]["Status"] == "Enabled"
    # Even for somebody whom their own policy lets do everything.
    policies = [administrator(), stack.aws.s3.get_bucket_policy(Bucket=bucket)["Policy"]]
    for resource in (f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{stack.name}/pointer"):
        for action in ("s3:GetObject", "s3:PutObject", "s3:ListBucket"):
            assert allows(policies, action, resource, {"aws:SecureTransport": "true"})
            assert not allows(policies, action, resource, {"aws:SecureTransport": "false"})


def administrator() -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})


def test_an_app_server_reads_its_own_releases_and_nothing_else(stack: Stack) -> None:
    (bucket,) = [each["Name"] for each in stack.aws.s3.list_buckets()["Buckets"]]
    documents = stack.role_documents("hello-1")
    objects = f"arn:aws:s3:::{bucket}"

    def may(action: str, resource: str, **context: str) -> bool:
        return allows(documents, action, resource, context)

    assert may("s3:GetObject", f"{objects}/{stack.name}/hello/pointer")
    assert may("s3:GetObject", f"{objects}/{stack.name}/hello/releases/0123456789ab/code.tar.gz")
    # A pointer that is not there is a 404 for whoever may list.
    assert may("s3:ListBucket", objects, **{"s3:prefix": f"{stack.name}/hello/pointer"})
    for elsewhere in (f"{objects}/other/hello/pointer", f"arn:aws:s3:::other/{stack.name}/hello/pointer"):
        assert not may("s3:GetObject", elsewhere)
    assert not may("s3:ListBucket", objects, **{"s3:prefix": "other/"})
    for action in ("s3:PutObject", "s3:DeleteObject", "s3:PutObjectAcl", "s3:GetObjectVersion", "s3:DeleteBucket"):
        assert not may(action, f"{objects}/{stack.name}/hello/pointer")
        assert not may(action, objects)
    parameter = f"arn:aws:ssm:{stack.aws.region}:123456789012:parameter"
    for action in ("ssm:GetParameter", "ssm:GetParametersByPath", "ssm:PutParameter", "ssm:DeleteParameter"):
        assert not may(action, f"{parameter}/wsgi-fleet/other/hello/a/KEY")
        assert not may(action, f"{parameter}/another")
    for action in (
        "iam:PassRole",
        "sts:AssumeRole",
        "ec2:RunInstances",
        "kms:Decrypt",
        "secretsmanager:GetSecretValue",
    ):
        assert not may(action, "*")


def test_the_balancer_reads_no_release(stack: Stack) -> None:
    (bucket,) = [each["Name"] for each in stack.aws.s3.list_buckets()["Buckets"]]
    resource = f"arn:aws:s3:::{bucket}/{stack.name}/hello/pointer"
    assert not allows(stack.role_documents("balancer"), "s3:GetObject", resource)


def test_no_policy_names_actions_by_a_wildcard(stack: Stack) -> None:
    for role in stack.aws.iam.list_roles()["Roles"]:
        for name in stack.aws.iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]:
            document = stack.aws.iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
            assert [each for each in actions(json.dumps(document)) if "*" in each] == []


def test_roles_are_taken_by_machines_and_services_and_nobody_else(stack: Stack) -> None:
    for role in stack.aws.iam.list_roles()["Roles"]:
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            assert set(statement["Principal"]) == {"Service"}
            assert statement["Principal"]["Service"].endswith(".amazonaws.com")


def test_user_data_fits_unpacks_and_is_a_cloud_config(stack: Stack) -> None:
    for instance in stack.instances.values():
        answer = stack.aws.ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
        packed = base64.b64decode(answer["UserData"]["Value"])
        # docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
        assert len(packed) <= 16_384
        document = gzip.decompress(packed).decode()
        assert document.startswith("#cloud-config\n")
        jsonschema.validate(yaml.safe_load(document), USER_DATA)
        assert "PRIVATE KEY" not in document


def test_everything_that_takes_tags_has_those_of_the_stack(stack: Stack) -> None:
    provider = stack.carried.build.one("pulumi:providers:aws")
    wanted = json.loads(provider.inputs["defaultTags"])["tags"]
    assert {"wsgi-fleet:stack": stack.name, "managed-by": "pulumi"}.items() <= wanted.items()
    by_id: dict[str, dict[str, str]] = {}
    for page in stack.aws.ec2.get_paginator("describe_tags").paginate():
        for each in page["Tags"]:
            by_id.setdefault(each["ResourceId"], {})[each["Key"]] = each["Value"]
    for volume in stack.aws.ec2.describe_volumes()["Volumes"]:
        assert wanted.items() <= by_id[volume["VolumeId"]].items()
    for resource in stack.carried.build.resources:
        if resource.urn not in stack.carried.states or not KINDS[resource.type].taggable:
            continue
        id_, state = stack.carried.states[resource.urn]
        if resource.type == "aws:s3/bucket:Bucket":
            found = tags(stack.aws.s3.get_bucket_tagging(Bucket=id_)["TagSet"])
        elif resource.type == "aws:iam/role:Role":
            found = tags(stack.aws.iam.list_role_tags(RoleName=id_)["Tags"])
        elif resource.type.startswith(("aws:ec2/", "aws:vpc/")):
            found = by_id[state.get("keyPairId", id_)]
        else:
            found = state["tagsAll"]
        assert wanted.items() <= found.items(), resource.name


# The last one: nothing is left for the others.
def test_a_destroyed_stack_leaves_nothing(stack: Stack) -> None:
    stack.carried.destroy()
    assert {each["State"]["Name"] for each in stack.instances.values()} == {"terminated"}
    assert stack.aws.ec2.describe_volumes()["Volumes"] == []
    assert stack.aws.ec2.describe_addresses()["Addresses"] == []
    names = [each["GroupName"] for each in stack.aws.ec2.describe_security_groups()["SecurityGroups"]]
    assert set(names) == {"default"}
    assert (stack.aws.iam.list_roles()["Roles"], stack.aws.s3.list_buckets()["Buckets"]) == ([], [])
    assert stack.aws.iam.list_instance_profiles()["InstanceProfiles"] == []
