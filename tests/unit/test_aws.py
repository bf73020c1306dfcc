"""Platform aws on the mock engine: what machines, steps and the public address are asked for, each fact once.

What Security Hub would find is in test_policies.py.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import Any
from unittest import mock

import pulumi
import pytest
from pydantic import ValidationError

from harness.mock_aws import KEY, LOOKUPS, OUTPUTS, image_name
from harness.mock_engine import Build, Secret, build
from platforms import Ingress
from platforms.aws.image import ImageKind
from platforms.aws.instance import pack_user_data
from platforms.aws.platform import AwsPlatform
from rendering.app_server import app_server_user_data
from rendering.balancer import balancer_user_data
from settings.operating_system import DEFAULT_OS, OPERATING_SYSTEMS
from settings.size import Architecture
from tests.unit.aws_fleet import (
    ASSOCIATION,
    BUCKET,
    EIP,
    GROUP,
    IN,
    INSTANCE,
    KMS_KEY,
    NONE,
    OUT,
    ROLES,
    STEP,
    TOPIC,
    built,
    fleet,
    given,
    names,
    run,
)

GET_AMI = "aws:ec2/getAmi:getAmi"
OUTSIDE = {(80, "0.0.0.0/0"), (443, "0.0.0.0/0")}


def rules(build_: Build, type_: str, group: str) -> set[tuple[int, str]]:
    """Return (port, cidr or name of the group at the other end) of every rule of a group."""
    groups = {each.id: each.name for each in build_.of(GROUP)}
    mine = [each.inputs for each in build_.of(type_) if each.inputs["securityGroupId"] == build_.one(GROUP, group).id]
    assert all(each["ipProtocol"] == "tcp" and each["fromPort"] == each["toPort"] for each in mine)
    return {(each["fromPort"], each.get("cidrIpv4") or groups[each["referencedSecurityGroupId"]]) for each in mine}


def test_each_tier_is_reached_and_gets_out_by_what_it_needs_and_nothing_else() -> None:
    prod = built()
    assert rules(prod, IN, "app-hello") == {(8000, "balancer"), (22, "balancer")}
    assert rules(prod, IN, "balancer") == {(80, "0.0.0.0/0"), (22, "192.0.2.0/24")}
    assert rules(prod, OUT, "app-hello") == OUTSIDE
    assert rules(prod, OUT, "balancer") == OUTSIDE | {(8000, "app-hello"), (22, "app-hello")}
    # Rules inside a group would fight with those that are resources.
    assert not [each.name for each in prod.of(GROUP) if {"ingress", "egress"} & set(each.inputs)]
    assert names(prod.of(IN)) == [
        "app-hello-in-22-balancer", "app-hello-in-8000-balancer", "balancer-in-22-192.0.2.0/24", "balancer-in-80",
    ]  # fmt: skip
    database = built(outbound_ports=[5432, 443])
    assert rules(database, OUT, "app-hello") == OUTSIDE | {(5432, "0.0.0.0/0")}
    assert rules(database, IN, "app-hello") == rules(prod, IN, "app-hello")


def test_port_22_is_no_rule_that_a_component_can_ask_for() -> None:
    def program() -> None:
        platform = AwsPlatform(given(), stack="prod", project_name="p")
        platform.security_group("g", [Ingress(22)], isolated=True, opts=NONE)

    with pytest.raises(ValueError, match="port 22 is opened by the platform"):
        build(program)


def test_machines_are_asked_for_with_exactly_this() -> None:
    prod = built()
    tags = {
        "Name": "prod-hello-2",
        "cost-center": "42",
        "managed-by": "pulumi",
        "wsgi-fleet:project": "wsgi-fleet",
        "wsgi-fleet:stack": "prod",
    }
    disk = {"encrypted": True, "volumeType": "gp3", "volumeSize": 20, "deleteOnTermination": True}
    server = {
        "ami": "ami-0123456789abcdef0",
        "instanceType": "t4g.small",
        "keyName": "ops",
        "subnetId": "subnet-0000000c",
        "vpcSecurityGroupIds": ["app-hello-id"],
        "associatePublicIpAddress": False,
        "iamInstanceProfile": "app-hello-0d0d0d0",
        "userDataBase64": pack_user_data("#cloud-config\n"),
        "userDataReplaceOnChange": True,
        "metadataOptions": {
            "httpEndpoint": "enabled",
            "httpTokens": "required",
            "httpPutResponseHopLimit": 1,
            "instanceMetadataTags": "disabled",
        },
        "rootBlockDevice": disk | {"tags": tags},
        "monitoring": True,
        "maintenanceOptions": {"autoRecovery": "default"},
        "disableApiTermination": False,
        "forceDestroy": False,
        "tags": tags,
    }
    assert prod.one(INSTANCE, "hello-2").inputs == server
    balancer = prod.one(INSTANCE, "balancer").inputs
    its_tags = tags | {"Name": "prod-balancer"}
    assert server.keys() - balancer.keys() == {"iamInstanceProfile"}
    assert {key: value for key, value in balancer.items() if value != server[key]} == {
        "subnetId": "subnet-0000000a",
        "vpcSecurityGroupIds": ["balancer-id"],
        "associatePublicIpAddress": True,
        "rootBlockDevice": disk | {"volumeSize": 8, "tags": its_tags},
        "tags": its_tags,
    }
    subnets = [prod.one(INSTANCE, role).inputs["subnetId"][-1] for role in ("hello-1", "hello-3")]
    assert subnets == ["b", "b"]


def test_a_machine_is_replaced_new_before_old_and_never_stopped_to_change() -> None:
    for instance in built().of(INSTANCE):
        assert not instance.delete_before_replace
        assert instance.replace_on_changes == ["instanceType", "rootBlockDevice.volumeSize"]


@pytest.mark.parametrize("document", [app_server_user_data(["libpq5"] * 50), balancer_user_data()])
def test_documents_are_packed_into_what_ec2_takes(document: str) -> None:
    data = base64.b64decode(pack_user_data(document))
    assert len(data) <= 16_384
    assert gzip.decompress(data).decode() == document


def test_a_document_that_ec2_would_refuse_is_refused_before_anything_is_made() -> None:
    # Digits of a hash do not pack well.
    text = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(600))
    with pytest.raises(ValueError, match="EC2 takes 16384"):
        pack_user_data(text)


def test_every_aws_resource_goes_through_the_provider_of_the_region() -> None:
    prod = built()
    provider = prod.one("pulumi:providers:aws")
    assert provider.inputs["region"] == "eu-central-1"
    assert json.loads(provider.inputs["defaultTags"])["tags"]["cost-center"] == "42"
    through = {each.provider.rpartition("::")[0] for each in prod.resources if each.type.startswith("aws:")}
    assert through == {provider.urn}


def test_the_bucket_takes_tls_alone_and_forgets_what_was_deleted_and_never_what_is_kept() -> None:
    prod = built()
    bucket = prod.one(BUCKET)
    # A stack can be destroyed with releases in it.
    assert bucket.inputs == {"forceDestroy": True}
    inputs = {each.type.rpartition(":Bucket")[2]: each.inputs for each in prod.children(bucket)}
    assert {each["bucket"] for each in inputs.values()} == {"releases-b0b0b0b"}
    encryption = inputs["ServerSideEncryptionConfiguration"]["rules"]
    assert encryption == [{"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}]
    (statement,) = json.loads(inputs["Policy"]["policy"])["Statement"]
    assert statement["Resource"] == ["arn:aws:s3:::releases-b0b0b0b", "arn:aws:s3:::releases-b0b0b0b/*"]
    assert inputs["LifecycleConfiguration"]["rules"] == [
        {
            "id": "forget",
            "status": "Enabled",
            "filter": {"prefix": ""},
            "noncurrentVersionExpiration": {"noncurrentDays": 30},
            "expiration": {"expiredObjectDeleteMarker": True},
            "abortIncompleteMultipartUpload": {"daysAfterInitiation": 1},
        }
    ]


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


def test_the_secrets_of_a_stack_go_with_it() -> None:
    made = built().one("pulumi-python:dynamic/aws:SecretParameters")
    assert (made.inputs["path"], made.inputs["region"]) == ("/wsgi-fleet/prod", "eu-central-1")
    assert not built(protect=True).one(made.type).protect


def test_a_stack_is_protected_where_it_is_asked_for_and_the_engine_can_still_replace_machines() -> None:
    assert [each.name for each in built().resources if each.protect] == []
    made = built(protect=True)
    bucket = made.one(BUCKET)
    # What belongs to the bucket inherits it.
    kept = [made.one(EIP, "address"), bucket, *made.children(bucket)]
    assert {each.urn for each in made.resources if each.protect} == {each.urn for each in kept}
    for machine in made.of(INSTANCE):
        assert (machine.inputs["disableApiTermination"], machine.inputs["forceDestroy"]) == (True, True)


def test_the_public_address_outlives_machines_and_moves_last() -> None:
    prod = built()
    address, association = prod.one(EIP), prod.one(ASSOCIATION)
    assert not address.dependencies & {prod.one(INSTANCE, "balancer").urn, prod.one(STEP, "site").urn}
    assert [each.name for each in prod.of(STEP) if not association.depends_on(each)] == []
    assert association.inputs == {
        "allocationId": "eipalloc-address",
        "instanceId": "balancer-id",
        "allowReassociation": True,
    }
    assert prod.exports["url"] == "http://203.0.113.7"


def test_a_step_runs_as_root_with_a_time_limit_through_the_balancer_and_by_known_host_keys() -> None:
    prod = built()
    key = {role: f"ssh-ed25519 AAAA{role}-host-key" for role in ROLES}
    login = {"user": "admin", "port": 22, "privateKey": KEY, "perDialTimeout": 10, "dialErrorLimit": 15}
    balancer = login | {"host": "198.51.100.9", "hostKey": key["balancer"]}
    for role in ("hello-1", "hello-2"):
        step = prod.one(STEP, f"{role}-booted")
        address = f"10.0.0.{1 + prod.one(INSTANCE, role).index}"
        assert isinstance(step.inputs["connection"], Secret)
        assert step.values["connection"] == login | {"host": address, "hostKey": key[role], "proxy": balancer}
    assert prod.one(STEP, "site").values["connection"] == balancer
    assert step.inputs["create"] == "sudo -- timeout --kill-after=10 60 /opt/booted 'two words'"
    assert step.values["stdin"] == "store s3://releases-b0b0b0b/prod\nkey opensesame"


def test_a_step_runs_again_for_its_input_or_its_machine_and_not_for_the_way_there() -> None:
    step = built().one(STEP, "hello-1-booted")
    digest, machine = step.values["triggers"]
    assert (len(digest), machine) == (64, "hello-1-id")
    assert digest != built().one(STEP, "site").values["triggers"][0]
    assert step.inputs["update"] == "true"
    assert step.ignore_changes == ["connection"]
    assert "delete" not in step.inputs


def test_the_way_in_is_the_balancers_own_address_until_the_public_one_has_moved() -> None:
    exports = built().exports
    spec = {
        "platform": "aws",
        "user": "admin",
        "private_key": Secret(KEY),
        "stack": "prod",
        "jump_id": "balancer-id",
        "host_keys": {f"{role}-id": f"ssh-ed25519 AAAA{role}-host-key" for role in ROLES},
    }
    assert exports["early"] == spec | {"jump_address": "198.51.100.9"}
    assert exports["late"] == spec | {"jump_address": "203.0.113.7"}
    assert exports["target"] == f"balancer-id@10.0.0.{1 + built().one(INSTANCE, 'balancer').index}"


def test_machines_without_a_public_one_are_an_error_and_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platforms.aws.jump_host.JUMP_HOST_S", 0.1)

    def program() -> None:
        pulumi.export("reach", dict(AwsPlatform(given(), stack="s", project_name="p").reach().spec))

    with pytest.raises(RuntimeError, match="no public machine was described"):
        build(program)


def test_a_newer_image_is_reported_once_and_never_taken() -> None:
    assert built().logs == []
    made = built(ami="ami-0000000000000000a")
    assert {each.inputs["ami"] for each in made.of(INSTANCE)} == {"ami-0000000000000000a"}
    ((severity, text),) = made.logs
    assert severity == "info"
    assert "ami-0000000000000000a" in text
    assert f"ami-0123456789abcdef0 ({image_name()})" in text
    asked = [asked for token, asked in made.lookups if token == GET_AMI]
    assert [(each.get("owners"), each.get("mostRecent"), each["filters"]) for each in asked] == [
        (None, None, [{"name": "image-id", "values": ["ami-0000000000000000a"]}]),
        (["136693071363"], True, [{"name": "name", "values": [f"{DEFAULT_OS.name}-arm64-*"]}]),
    ]


@pytest.mark.parametrize(
    ("kind", "problem", "newest"),
    [
        ("amd64", "it is for arm64, and the instance types here are amd64", "{other.name}-amd64-*"),
        (
            "arm64",
            "it is {default.name}-arm64-20261101-2288, and `os` is {other.name}",
            "{other.name}-arm64-*",
        ),
    ],
)
def test_an_image_that_does_not_boot_the_machines_ends_the_program_before_anything_is_made(
    kind: Architecture, problem: str, newest: str
) -> None:
    (other,) = [each for each in OPERATING_SYSTEMS.values() if each != DEFAULT_OS]
    logs: list[str] = []

    def program() -> None:
        with mock.patch("pulumi.log.error", logs.append), pytest.raises(SystemExit):
            fleet(given(), ImageKind(other, kind))

    made = build(program, lookups=LOOKUPS, outputs=OUTPUTS, stack="prod")
    problem = problem.format(default=DEFAULT_OS, other=other)
    (message,) = logs
    assert message.startswith(f"aws.ami: ami-0123456789abcdef0: {problem}; Debian's newest for this stack is ami-")
    assert f" ({image_name(newest.format(other=other))}): pin that, " in message
    assert made.of(INSTANCE) == []


def test_an_image_that_cannot_be_looked_up_is_a_warning_that_stops_nobody() -> None:
    made = run(given(), lookups={GET_AMI: ConnectionError("no network")})
    assert [severity for severity, _ in made.logs] == ["warning"]
    assert "no network" in made.logs[0][1]
    assert len(made.of(INSTANCE)) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kms_key_arn": KMS_KEY.replace("central", "west")}, r"kms_key_arn: is in eu-west-1; take one"),
        ({"kms_key_arn": "alias/aws/ssm"}, "should match pattern"),
        ({"kms_key_arn": KMS_KEY + '"}'}, "should match pattern"),
        ({"kms_key_arn": f"{KMS_KEY}\n"}, "should match pattern"),
        ({"logs": {"kms_key_arn": KMS_KEY.replace("central", "west")}}, r"logs.kms_key_arn: is in eu-west-1; take"),
        ({"logs": {"kms_key_arn": "alias/logs"}}, "should match pattern"),
        ({"logs": {"kms_key_arn": f"{KMS_KEY}\n"}}, "should match pattern"),
        ({"logs": {"retention_days": 31}}, "retention_days"),
        ({"logs": {"days": 30}}, "Extra inputs"),
        ({"alarms": {"sns_topic_arn": TOPIC.replace("eu-central-1", "us-east-1")}}, "sns_topic_arn: is in us-"),
        *(
            ({"alarms": {"sns_topic_arn": topic}}, "should match pattern")
            for topic in ("", "fleet", TOPIC.replace("sns", "sqs"), f"{TOPIC} ", f"{TOPIC}\n", f"{TOPIC}.fifo")
        ),
        ({"alarms": {"sns_topic_arn": TOPIC, "errors_5xx_percent": 0}}, "greater than or equal to 1"),
        ({"alarms": {"sns_topic_arn": TOPIC, "errors_5xx_percent": 101}}, "less than or equal to 100"),
        ({"alarms": {"sns_topic_arn": TOPIC, "disk_percent": 100}}, "less than or equal to 99"),
        ({"alarms": {"sns_topic_arn": TOPIC, "disk_percent": "85"}}, "valid integer"),
        ({"alarms": {"sns_topic_arn": TOPIC, "errors_percent": 5}}, "Extra inputs"),
    ],
)
def test_settings_that_could_not_work_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        given(**changed)
