"""Platform aws on the mock engine: one balancer and two app servers, as the components describe them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest
from pydantic import SecretStr

from harness.mock_aws import KEY, LOOKUPS, OUTPUTS
from harness.mock_engine import Answer, Build, Registered, Secret, build
from platforms import Ingress, MachineArgs, RemoteCommandArgs, operator
from platforms.aws.platform import AwsPlatform
from platforms.aws.s3 import S3Store
from rendering.app_server import app_server_user_data
from rendering.balancer import balancer_user_data
from settings import Aws, Size

INSTANCE, GROUP = "aws:ec2/instance:Instance", "aws:ec2/securityGroup:SecurityGroup"
IN, OUT = (
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
)
BUCKET, STEP = "aws:s3/bucket:Bucket", "command:remote:Command"
EIP, ASSOCIATION = "aws:ec2/eip:Eip", "aws:ec2/eipAssociation:EipAssociation"
NONE = pulumi.ResourceOptions()


def given(**changes: Any) -> Aws:
    base: dict[str, Any] = {
        "region": "eu-central-1",
        "ami": "ami-0123456789abcdef0",
        "vpc_id": "vpc-01234567",
        "balancer_subnet_id": "subnet-0000000a",
        "app_subnet_ids": ["subnet-0000000b", "subnet-0000000c"],
        "admin_cidrs": ["192.0.2.0/24"],
        "ssh_key_name": "ops",
        "ssh_private_key": SecretStr(KEY),
        "tags": {"cost-center": "42"},
    }
    return Aws(**{**base, **changes})


def fleet(aws: Aws, *, user_data: str = "#cloud-config\n", size: Size | None = None) -> None:
    """Register what the components do, in their order: app servers before the balancer they are reached through."""
    platform = AwsPlatform(aws, stack="prod", project_name="wsgi-fleet")
    balancers = platform.security_group("balancer", [Ingress(80)], isolated=False, opts=NONE)
    apps = platform.security_group("app-hello", [Ingress(8000, source=balancers)], isolated=True, opts=NONE)
    store = platform.store("releases", opts=NONE)
    booted: list[pulumi.Resource] = []
    for zone in range(3):
        role = f"hello-{zone + 1}"
        args = MachineArgs(role, user_data, apps, size or Size(), zone=zone, app="hello")
        machine = platform.machine(role, args, store=store, opts=NONE)
        stdin = pulumi.Output.concat("store ", store.machine_url, "\nkey ", pulumi.Output.secret("opensesame"))
        step = RemoteCommandArgs(machine, ["/opt/booted", "two words"], stdin, timeout_s=60)
        booted.append(platform.remote_command(f"{role}-booted", step, opts=NONE))
        platform.enable_monitoring(role, machine, args, opts=pulumi.ResourceOptions(depends_on=[booted[-1]]))
    pulumi.export("early", dict(platform.reach().spec))
    pulumi.export("store", dict(store.spec))
    args = MachineArgs("balancer", user_data, balancers, Size(), public=True)
    balancer = platform.machine("balancer", args, store=None, opts=NONE)
    platform.enable_monitoring("balancer", balancer, args, opts=NONE)
    members = platform.remote_command(
        "members", RemoteCommandArgs(balancer, ["/opt/site"], "server 10.0.0.1;"), opts=NONE
    )
    address = platform.public_address("address", balancer, opts=pulumi.ResourceOptions(depends_on=[members]))
    pulumi.export("url", address.url)
    pulumi.export("target", balancer.target)
    pulumi.export("late", dict(platform.reach().spec))
    pulumi.export("logs", dict(platform.log_groups))


def built(*, lookups: Mapping[str, Answer] | None = None, preview: bool = False, **changes: Any) -> Build:
    aws = given(**changes)
    return build(
        lambda: fleet(aws), lookups={**LOOKUPS, **(lookups or {})}, outputs=OUTPUTS, stack="prod", preview=preview
    )


@pytest.fixture(scope="module")
def prod() -> Build:
    return built()


def rules(build_: Build, type_: str, group: str) -> set[tuple[int, str]]:
    """Return (port, cidr or name of the group at the other end) of every rule of a group."""
    names = {each.id: each.name for each in build_.of(GROUP)}
    mine = [each.inputs for each in build_.of(type_) if each.inputs["securityGroupId"] == build_.one(GROUP, group).id]
    assert all(each["ipProtocol"] == "tcp" and each["fromPort"] == each["toPort"] for each in mine)
    return {(each["fromPort"], each.get("cidrIpv4") or names[each["referencedSecurityGroupId"]]) for each in mine}


def test_app_servers_take_connections_from_the_group_of_the_balancer_alone(prod: Build) -> None:
    assert rules(prod, IN, "app-hello") == {(8000, "balancer"), (22, "balancer")}


def test_the_balancer_takes_http_from_everyone_and_ssh_from_the_admins(prod: Build) -> None:
    assert rules(prod, IN, "balancer") == {(80, "0.0.0.0/0"), (22, "192.0.2.0/24")}


def test_machines_get_out_to_what_they_need_and_nowhere_else(prod: Build) -> None:
    outside = {(80, "0.0.0.0/0"), (443, "0.0.0.0/0")}
    assert rules(prod, OUT, "app-hello") == outside
    assert rules(prod, OUT, "balancer") == outside | {(8000, "app-hello"), (22, "app-hello")}


def test_ports_of_a_database_are_opened_outwards_alone() -> None:
    made = built(outbound_ports=[5432, 443])
    assert (5432, "0.0.0.0/0") in rules(made, OUT, "app-hello")
    assert 5432 not in {port for port, _ in rules(made, IN, "app-hello")}


def test_nothing_opens_port_22_to_everyone(prod: Build) -> None:
    for rule in prod.of(IN):
        if rule.inputs["fromPort"] <= 22 <= rule.inputs["toPort"]:
            assert rule.inputs.get("cidrIpv4") != "0.0.0.0/0"
        assert "cidrIpv6" not in rule.inputs


def test_port_22_is_no_rule_that_a_component_can_ask_for() -> None:
    def program() -> None:
        AwsPlatform(given(), stack="prod", project_name="p").security_group(
            "g", [Ingress(22)], isolated=True, opts=NONE
        )

    with pytest.raises(ValueError, match="port 22 is opened by the platform"):
        build(program)


def test_rules_are_resources_of_their_own(prod: Build) -> None:
    for group in prod.of(GROUP):
        assert not {"ingress", "egress"} & set(group.inputs)


def test_every_instance_requires_imdsv2_one_hop_away(prod: Build) -> None:
    assert [each.inputs["metadataOptions"] for each in prod.of(INSTANCE)] == [
        {
            "httpEndpoint": "enabled",
            "httpTokens": "required",
            "httpPutResponseHopLimit": 1,
            "instanceMetadataTags": "disabled",
        }
    ] * 4


def test_every_root_disk_is_encrypted_gp3_of_the_size_given() -> None:
    aws = given()
    made = build(lambda: fleet(aws, size=Size(disk_gib=20)), lookups=LOOKUPS, outputs=OUTPUTS)
    disks = [
        (d["encrypted"], d["volumeType"], d["volumeSize"])
        for d in (i.inputs["rootBlockDevice"] for i in made.of(INSTANCE))
    ]
    assert disks == [(True, "gp3", 8)] + [(True, "gp3", 20)] * 3


def test_app_servers_are_spread_over_private_subnets_without_public_addresses(prod: Build) -> None:
    placed = [(i.name, i.inputs["subnetId"], i.inputs["associatePublicIpAddress"]) for i in prod.of(INSTANCE)]
    assert placed == [
        ("balancer", "subnet-0000000a", True),
        ("hello-1", "subnet-0000000b", False),
        ("hello-2", "subnet-0000000c", False),
        ("hello-3", "subnet-0000000b", False),
    ]


def test_a_machine_is_replaced_new_before_old_and_never_stopped_to_change(prod: Build) -> None:
    for instance in prod.of(INSTANCE):
        assert not instance.delete_before_replace
        assert instance.inputs["userDataReplaceOnChange"] is True
        assert instance.replace_on_changes == ["instanceType", "rootBlockDevice.volumeSize"]


def test_machines_boot_the_image_and_the_document_as_given(prod: Build) -> None:
    booted = {(i.inputs["ami"], unpacked(i), i.inputs["keyName"], i.inputs["monitoring"]) for i in prod.of(INSTANCE)}
    assert booted == {("ami-0123456789abcdef0", "#cloud-config\n", "ops", True)}


def unpacked(instance: Registered) -> str:
    assert "userData" not in instance.inputs
    return gzip.decompress(base64.b64decode(instance.inputs["userDataBase64"])).decode()


def test_the_documents_of_both_tiers_fit_into_what_ec2_takes() -> None:
    for document in (app_server_user_data(["libpq5"] * 50), balancer_user_data()):
        aws = given()
        made = build(lambda aws=aws, text=document: fleet(aws, user_data=text), lookups=LOOKUPS, outputs=OUTPUTS)
        packed = base64.b64decode(made.of(INSTANCE)[0].inputs["userDataBase64"])
        assert len(packed) <= 16_384


def test_a_document_that_ec2_would_refuse_is_refused_before_anything_is_made() -> None:
    # Digits of a hash do not pack well.
    text = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(600))
    with pytest.raises(ValueError, match="EC2 takes 16384"):
        build(lambda: fleet(given(), user_data=text), lookups=LOOKUPS, outputs=OUTPUTS)


def test_machines_and_their_disks_carry_name_and_tags(prod: Build) -> None:
    tags = prod.one(INSTANCE, "hello-2").inputs["tags"]
    assert tags == {
        "Name": "prod-hello-2",
        "cost-center": "42",
        "managed-by": "pulumi",
        "wsgi-fleet:project": "wsgi-fleet",
        "wsgi-fleet:stack": "prod",
    }
    assert prod.one(INSTANCE, "hello-2").inputs["rootBlockDevice"]["tags"] == tags


def test_every_aws_resource_goes_through_the_provider_of_the_region(prod: Build) -> None:
    provider = prod.one("pulumi:providers:aws")
    assert provider.inputs["region"] == "eu-central-1"
    assert json.loads(provider.inputs["defaultTags"])["tags"]["cost-center"] == "42"
    through = {each.provider.rpartition("::")[0] for each in prod.resources if each.type.startswith("aws:")}
    assert through == {provider.urn}


def test_no_secret_stands_in_a_plain_input_or_export(prod: Build) -> None:
    assert [each.name for each in prod.resources if KEY in each.plain_text or "opensesame" in each.plain_text] == []
    assert prod.exports["early"]["private_key"] == Secret(KEY)


def test_the_bucket_is_private_encrypted_versioned_and_takes_tls_only(prod: Build) -> None:
    bucket = prod.one(BUCKET)
    kinds = {each.type.rpartition(":")[2]: each for each in prod.children(bucket)}
    assert {each.inputs["bucket"] for each in kinds.values()} == {"releases-b0b0b0b"}
    block = kinds["BucketPublicAccessBlock"].inputs
    assert [
        block[key] for key in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    ] == [True] * 4
    assert kinds["BucketOwnershipControls"].inputs["rule"] == {"objectOwnership": "BucketOwnerEnforced"}
    assert kinds["BucketServerSideEncryptionConfiguration"].inputs["rules"] == [
        {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}
    ]
    assert kinds["BucketVersioning"].inputs["versioningConfiguration"] == {"status": "Enabled"}
    (statement,) = json.loads(kinds["BucketPolicy"].inputs["policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Resource"] == ["arn:aws:s3:::releases-b0b0b0b", "arn:aws:s3:::releases-b0b0b0b/*"]
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_a_stack_can_be_destroyed_with_releases_in_its_bucket(prod: Build) -> None:
    assert prod.one(BUCKET).inputs["forceDestroy"] is True


def test_a_bucket_that_is_given_is_used_as_it_is() -> None:
    made = built(release_bucket="their-releases")
    assert [each.type for each in made.resources if ":s3/" in each.type] == []
    assert made.exports["store"] == {
        "platform": "aws",
        "bucket": "their-releases",
        "prefix": "prod",
        "region": "eu-central-1",
        "secrets": {"path": "/wsgi-fleet/prod", "region": "eu-central-1", "kms_key_arn": ""},
    }
    assert "their-releases/prod/hello/*" in made.one("aws:iam/rolePolicy:RolePolicy").inputs["policy"]


def test_the_public_address_outlives_machines_and_moves_last(prod: Build) -> None:
    address, association = prod.one(EIP), prod.one(ASSOCIATION)
    balancer, members = prod.one(INSTANCE, "balancer"), prod.one(STEP, "members")
    assert not address.dependencies & {balancer.urn, members.urn}
    assert "instance" not in address.inputs
    assert association.depends_on(members)
    assert (association.inputs["instanceId"], association.inputs["allowReassociation"]) == ("balancer-id", True)
    assert prod.exports["url"] == "http://203.0.113.7"


def test_a_step_on_an_app_server_goes_through_the_balancer(prod: Build) -> None:
    server = prod.one(INSTANCE, "hello-1")
    step = prod.one(STEP, "hello-1-booted")
    assert isinstance(step.inputs["connection"], Secret)
    connection = step.values["connection"]
    assert connection["host"] == f"10.0.0.{1 + server.index}"
    assert connection["proxy"]["host"] == "198.51.100.9"
    assert {connection["user"], connection["proxy"]["user"]} == {"admin"}
    assert connection["privateKey"] == connection["proxy"]["privateKey"] == KEY


def test_a_step_on_the_balancer_goes_there_directly(prod: Build) -> None:
    connection = prod.one(STEP, "members").values["connection"]
    assert connection["host"] == "198.51.100.9"
    assert "proxy" not in connection


def test_a_step_runs_words_as_root_with_a_time_limit(prod: Build) -> None:
    step = prod.one(STEP, "hello-1-booted")
    assert step.inputs["create"] == "sudo -- timeout --kill-after=10 60 /opt/booted 'two words'"
    assert step.values["stdin"] == "store s3://releases-b0b0b0b/prod\nkey opensesame"


def test_a_step_runs_again_for_its_input_or_its_machine_and_not_for_the_way_there(prod: Build) -> None:
    step = prod.one(STEP, "hello-1-booted")
    digest, machine = step.values["triggers"]
    assert (len(digest), machine) == (64, "hello-1-id")
    assert digest != prod.one(STEP, "members").values["triggers"][0]
    assert step.inputs["update"] == "true"
    assert step.ignore_changes == ["connection"]
    assert "delete" not in step.inputs


def test_the_way_in_is_the_balancers_own_address_until_the_public_one_has_moved(prod: Build) -> None:
    assert prod.exports["early"]["jump_address"] == "198.51.100.9"
    assert prod.exports["late"]["jump_address"] == "203.0.113.7"
    assert prod.exports["early"]["jump_id"] == prod.exports["late"]["jump_id"] == "balancer-id"
    balancer = prod.one(INSTANCE, "balancer")
    assert prod.exports["target"] == f"balancer-id@10.0.0.{1 + balancer.index}"


def test_machines_without_a_public_one_are_an_error_and_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platforms.aws.access.JUMP_HOST_S", 0.1)

    def program() -> None:
        pulumi.export("reach", dict(AwsPlatform(given(), stack="s", project_name="p").reach().spec))

    with pytest.raises(RuntimeError, match="no public machine was described"):
        build(program)


def test_a_newer_image_is_reported_once_and_never_taken() -> None:
    made = built(ami="ami-0000000000000000a")
    assert {each.inputs["ami"] for each in made.of(INSTANCE)} == {"ami-0000000000000000a"}
    ((severity, text),) = made.logs
    assert severity == "info"
    assert "ami-0000000000000000a" in text
    assert "ami-0123456789abcdef0 (debian-12-amd64-20261101-2288)" in text
    token, asked = made.lookups[0]
    assert (token, asked["owners"], asked["mostRecent"]) == ("aws:ec2/getAmi:getAmi", ["136693071363"], True)


def test_the_newest_image_is_no_news(prod: Build) -> None:
    assert prod.logs == []


def test_an_image_that_cannot_be_looked_up_is_a_warning_that_stops_nobody() -> None:
    made = built(lookups={"aws:ec2/getAmi:getAmi": ConnectionError("no network")})
    assert [severity for severity, _ in made.logs] == ["warning"]
    assert "no network" in made.logs[0][1]
    assert len(made.of(INSTANCE)) == 4


def test_a_preview_of_a_stack_that_is_not_there_yet_works() -> None:
    made = built(preview=True)
    assert [each.name for each in made.of(INSTANCE)] == ["balancer", "hello-1", "hello-2", "hello-3"]


def test_what_is_exported_opens_transport_and_store(prod: Build) -> None:
    store = operator.store(prod.exports["store"])
    assert isinstance(store, S3Store)


def test_names_of_resources_say_role_and_not_position(prod: Build) -> None:
    def shown(each: Registered) -> str:
        return each.name

    assert sorted(map(shown, prod.of(IN))) == [
        "app-hello-in-22-balancer",
        "app-hello-in-8000-balancer",
        "balancer-in-22-192.0.2.0/24",
        "balancer-in-80",
    ]
