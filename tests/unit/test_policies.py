"""The controls: each fails on what it is there for, and none on the stacks of this project."""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from policies import CONTROLS, Planned, findings, page
from policies.__main__ import main
from policies.compliance import OUR_CONTROLS
from policies.plan import SECRET, SIGNATURE, UNKNOWN, from_json, from_program

ROOT = Path(__file__).resolve().parents[2]
STACKS = sorted(path.name.split(".")[1] for path in (ROOT / "stacks").glob("Pulumi.*.yaml"))
INSTANCE, RULE = "aws:ec2/instance:Instance", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
VPC, DEFAULT = "aws:ec2/vpc:Vpc", "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
BUCKET, POLICY = "aws:s3/bucket:Bucket", "aws:s3/bucketPolicy:BucketPolicy"
ROLE, ROLE_POLICY = "aws:iam/role:Role", "aws:iam/rolePolicy:RolePolicy"


def resource(type_: str, parent: str = "", /, name: str = "it", **inputs: Any) -> Planned:
    return Planned(type_, name, f"urn:{type_}::{name}", parent and f"urn:{parent}::it", inputs)


def setting(kind: str, **inputs: Any) -> Planned:
    """Return a resource that belongs to the bucket."""
    return resource(f"aws:s3/{kind[0].lower()}{kind[1:]}:{kind}", BUCKET, **inputs)


def document(**statement: Any) -> str:
    given = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*", **statement}
    return json.dumps({"Version": "2012-10-17", "Statement": [given]})


def web(**inputs: Any) -> Planned:
    """Return a rule that lets everyone in on port 80, with changed inputs."""
    given: dict[str, Any] = {
        "securityGroupId": "sg-1",
        "ipProtocol": "tcp",
        "fromPort": 80,
        "toPort": 80,
        "cidrIpv4": "0.0.0.0/0",
    }
    return resource(RULE, **{**given, **inputs})


SCALING, TEMPLATE = "aws:autoscaling/group:Group", "aws:ec2/launchTemplate:LaunchTemplate"
GOOD_GROUP: dict[str, Any] = {
    "targetGroupArns": ["arn:g"], "healthCheckType": "ELB", "vpcZoneIdentifiers": ["subnet-1", "subnet-2"],
    "launchTemplate": {"id": "lt-1"},
}  # fmt: skip
GOOD_TEMPLATE: dict[str, Any] = {
    "networkInterfaces": [{"associatePublicIpAddress": "false"}], "metadataOptions": {"httpTokens": "required"},
    "blockDeviceMappings": [{"ebs": {"encrypted": "true"}}],
}  # fmt: skip
ENDPOINT = "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
TLS = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
GOOD_BUCKET = [
    resource(BUCKET),
    setting("BucketPolicy", policy=document(**TLS)),
    setting(
        "BucketPublicAccessBlock",
        blockPublicAcls=True,
        blockPublicPolicy=True,
        ignorePublicAcls=True,
        restrictPublicBuckets=True,
    ),
    setting("BucketOwnershipControls", rule={"objectOwnership": "BucketOwnerEnforced"}),
    setting("BucketLifecycleConfiguration", rules=[{"status": "Enabled"}]),
    setting("BucketVersioning", versioningConfiguration={"status": "Enabled"}),
]


def group_but(**inputs: Any) -> list[Planned]:
    return [resource(SCALING, **(GOOD_GROUP | inputs))]


def template_but(**inputs: Any) -> list[Planned]:
    return [resource(TEMPLATE, **(GOOD_TEMPLATE | inputs))]


def bucket_but(kind: str, **inputs: Any) -> list[Planned]:
    """Return a good bucket with one setting changed, or removed where no inputs are given."""
    rest = [each for each in GOOD_BUCKET if not each.type.endswith(f":{kind}")]
    return [*rest, setting(kind, **inputs)] if inputs else rest


GOOD_INSTANCE: Mapping[str, Any] = {
    "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 1},
    "rootBlockDevice": {"encrypted": True},
    "associatePublicIpAddress": False,
}


LB, LISTENER = "aws:lb/loadBalancer:LoadBalancer", "aws:lb/listener:Listener"
GOOD_BALANCER: Mapping[str, Any] = {
    "dropInvalidHeaderFields": True,
    "accessLogs": {"enabled": True},
    "enableDeletionProtection": True,
    "desyncMitigationMode": "defensive",
    "subnets": ["subnet-1", "subnet-2"],
}


def balancer_but(**inputs: Any) -> list[Planned]:
    return [resource(LB, **{**GOOD_BALANCER, **inputs})]


def instance_but(**inputs: Any) -> list[Planned]:
    return [resource(INSTANCE, **{**GOOD_INSTANCE, **inputs})]


CLOSED = [resource(VPC), resource(DEFAULT, VPC, ingress=[], egress=[]), resource("aws:ec2/flowLog:FlowLog", VPC)]
BAD: dict[str, list[list[Planned]]] = {
    "EC2.2": [[CLOSED[0], CLOSED[2]], [CLOSED[0], resource(DEFAULT, VPC, egress=[{"protocol": "-1"}]), CLOSED[2]]],
    "EC2.3": [instance_but(rootBlockDevice={"encrypted": False}), instance_but(rootBlockDevice=None)],
    "EC2.6": [CLOSED[:2]],
    "EC2.8": [
        instance_but(metadataOptions={"httpTokens": "optional", "httpPutResponseHopLimit": 1}),
        instance_but(metadataOptions={"httpTokens": "required", "httpPutResponseHopLimit": 2}),
        instance_but(metadataOptions=None),
    ],
    "EC2.9": [instance_but(associatePublicIpAddress=True), instance_but(associatePublicIpAddress=None)],
    "EC2.13": [
        [web(fromPort=22, toPort=22)],
        [web(fromPort=0, toPort=1024)],
        [web(fromPort=22, toPort=22, cidrIpv4=None, cidrIpv6="::/0")],
        [web(ipProtocol="-1", fromPort=None, toPort=None)],
    ],
    "EC2.15": [[resource("aws:ec2/subnet:Subnet", mapPublicIpOnLaunch=True)]],
    "EC2.18": [[web(fromPort=8000, toPort=8000)], [web(fromPort=80, toPort=443)]],
    "EC2.38": [[resource("pulumi:providers:aws", defaultTags=json.dumps({"tags": {"managed-by": "pulumi"}}))]],
    "IAM.1": [[resource(ROLE_POLICY, policy=document(Action="*", Resource="*"))]],
    "IAM.21": [[resource(ROLE_POLICY, policy=document(Action=["s3:Get*"]))]],
    "S3.5": [
        bucket_but("BucketPolicy"),
        bucket_but("BucketPolicy", policy=document(**{**TLS, "Effect": "Allow", "Principal": {"AWS": "1"}})),
        bucket_but("BucketPolicy", policy=document(**{**TLS, "Action": "s3:GetObject"})),
    ],
    "S3.6": [[setting("BucketPolicy", policy=document(Principal="*"))]],
    "S3.8": [bucket_but("BucketPublicAccessBlock"), bucket_but("BucketPublicAccessBlock", blockPublicAcls=True)],
    "S3.12": [bucket_but("BucketOwnershipControls", rule={"objectOwnership": "ObjectWriter"})],
    "S3.13": [bucket_but("BucketLifecycleConfiguration", rules=[{"status": "Disabled"}])],
    "S3.14": [bucket_but("BucketVersioning", versioningConfiguration={"status": "Suspended"})],
    "CloudWatch.15": [[resource(ALARM)], [resource(ALARM, alarmActions=[])]],
    "CloudWatch.17": [[resource(ALARM, alarmActions=["arn:aws:sns:::t"], actionsEnabled=False)]],
    "CloudWatch.16": [[resource("aws:cloudwatch/logGroup:LogGroup")]],
    "FLEET.1": [[resource("command:remote:Command", stdin="-----BEGIN PRIVATE KEY-----")]],
    "FLEET.2": [
        [web(cidrIpv4=None, referencedSecurityGroupId="sg-1")],
        [resource("aws:ec2/securityGroup:SecurityGroup", ingress=[{"self": True}])],
    ],
    "FLEET.3": [[resource(ROLE, assumeRolePolicy=document(Principal={"AWS": "*"}))]],
    "FLEET.4": [
        [resource(ROLE_POLICY, policy=document(Action="cloudwatch:PutMetricData", Resource="*"))],
        [resource(ROLE_POLICY, policy=document(Action=["cloudwatch:PutMetricData"], Condition={"StringEquals": {}}))],
    ],
    "ELB.1": [
        [resource(LISTENER, protocol="HTTP", defaultActions=[{"type": "forward"}])],
        [resource(LISTENER, protocol="HTTP", defaultActions=[{"redirect": {"protocol": "HTTP"}}])],
    ],
    "ELB.4": [balancer_but(dropInvalidHeaderFields=False), balancer_but(dropInvalidHeaderFields=None)],
    "ELB.5": [balancer_but(accessLogs={"enabled": False}), balancer_but(accessLogs=None)],
    "ELB.6": [balancer_but(enableDeletionProtection=False)],
    "ELB.12": [balancer_but(desyncMitigationMode="monitor")],
    "ELB.13": [balancer_but(subnets=["subnet-1"])],
    "ELB.17": [
        [resource(LISTENER, protocol="HTTPS", sslPolicy="ELBSecurityPolicy-2016-08")],
        [resource(LISTENER, protocol="HTTPS")],
    ],
    "AutoScaling.1": [group_but(healthCheckType="EC2")],
    "AutoScaling.2": [group_but(vpcZoneIdentifiers=["subnet-1"])],
    "AutoScaling.9": [group_but(launchTemplate=None)],
    "EC2.25": [
        template_but(networkInterfaces=[{"associatePublicIpAddress": "true"}]),
        template_but(networkInterfaces=[{}]),
    ],
    "EC2.170": [template_but(metadataOptions=None)],
    "EC2.181": [
        template_but(blockDeviceMappings=[{"ebs": {"encrypted": "false"}}]),
        template_but(blockDeviceMappings=None),
    ],
    "FLEET.6": [
        [resource(ENDPOINT, securityGroupIds=["sg-eice"]), web(fromPort=22, toPort=22, cidrIpv4="198.51.100.0/24")],
        [
            resource(ENDPOINT, securityGroupIds=["sg-eice"]),
            web(fromPort=22, toPort=22, cidrIpv4=None, referencedSecurityGroupId="sg-2"),
        ],
    ],
    "FLEET.5": [[resource(ROLE_POLICY, policy=document(Action=["logs:CreateLogGroup", "logs:PutLogEvents"]))]],
}


@pytest.mark.parametrize("id_", [each.id for each in CONTROLS])
def test_a_control_fails_on_what_it_is_there_for(id_: str) -> None:
    for plan in BAD[id_]:
        assert id_ in {each.control.id for each in findings(plan, stack="test")}, plan


@pytest.mark.parametrize("stack", STACKS)
def test_the_stacks_of_this_project_fail_no_control(stack: str) -> None:
    found = findings(from_program(stack), stack=stack)
    assert [(each.control.id, each.resource.name, each.problem) for each in found] == []


def test_what_is_accepted_is_accepted_for_that_resource_and_that_stack_alone() -> None:
    public = resource(INSTANCE, name="balancer", **{**GOOD_INSTANCE, "associatePublicIpAddress": True})
    other = resource(INSTANCE, name="hello-1", **{**GOOD_INSTANCE, "associatePublicIpAddress": True})
    assert [each.resource for each in findings([public, other], stack="prod")] == [other]
    silent = [resource(VPC, name="vpc"), Planned(DEFAULT, "d", "", f"urn:{VPC}::vpc", {})]
    assert [[each.control.id for each in findings(silent, stack=stack)] for stack in ("dev", "prod")] == [[], ["EC2.6"]]


def test_of_an_endpoint_that_is_not_the_stacks_own_only_rules_by_address_are_judged() -> None:
    by_group = web(fromPort=22, toPort=22, cidrIpv4=None, referencedSecurityGroupId="sg-eice")
    by_address = web(fromPort=22, toPort=22, cidrIpv4="198.51.100.0/24")
    found = [
        each.resource
        for each in findings([resource(ENDPOINT), by_group, by_address], stack="prod")
        if each.control.id == "FLEET.6"
    ]
    assert found == [by_address]


def test_what_is_not_known_before_the_first_up_is_not_judged() -> None:
    groups = {"securityGroupId": UNKNOWN, "referencedSecurityGroupId": UNKNOWN}
    planned = [
        *bucket_but("BucketPolicy", policy=UNKNOWN),
        resource(ROLE_POLICY, policy=UNKNOWN),
        resource(RULE, **groups, ipProtocol="tcp", fromPort=8000, toPort=8000),
    ]
    states = [{"type": each.type, "urn": each.urn, "parent": each.parent, "inputs": each.inputs} for each in planned]
    assert findings(from_json({"steps": [{"op": "create", "newState": each} for each in states]}), stack="test") == []


STATE = {
    "type": RULE,
    "urn": f"urn:pulumi:prod::wsgi-fleet::{RULE}::ssh",
    "parent": "urn:pulumi:prod::wsgi-fleet::pulumi:pulumi:Stack::wsgi-fleet-prod",
    "inputs": {
        "fromPort": 22,
        "toPort": 22,
        "ipProtocol": "tcp",
        "cidrIpv4": "0.0.0.0/0",
        "key": {SIGNATURE: SECRET, "plaintext": "-----BEGIN PRIVATE KEY-----"},
    },
}


@pytest.mark.parametrize(
    "text",
    [
        {"steps": [*({"op": op, "newState": STATE} for op in ("create-replacement", "replace")), {"op": "delete"}]},
        {"version": 3, "deployment": {"resources": [STATE, {**STATE, "delete": True}]}},
    ],
    ids=["preview", "state"],
)
def test_pulumis_own_plans_and_states_are_judged(
    text: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(text)))
    assert main(["-"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in out if not line.startswith(" ")] == [
        "EC2.13",
        "EC2.18",
        "prod: 1 resources of AWS, 39 controls, 2 findings",
    ]
    assert from_json(text)[0].inputs["key"] == "[secret]"


def test_something_else_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("{}"))
    assert main(["-"]) == 2
    assert "no steps and no deployment" in capsys.readouterr().err


def test_each_control_says_how_it_is_kept_by_files_and_tests_that_are_there() -> None:
    assert OUR_CONTROLS.keys() == {each.id for each in CONTROLS}
    assert len(OUR_CONTROLS) == len(CONTROLS)
    tests = {
        node.name
        for path in (ROOT / "tests").glob("*/test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert {each.test for each in OUR_CONTROLS.values()} - tests == set()
    assert [file for each in OUR_CONTROLS.values() for file in each.where if not (ROOT / file).is_file()] == []


def test_the_page_on_security_has_the_tables_of_the_code() -> None:
    text = page.PAGE.read_text()
    assert page.fill_tables(text, page.render_tables()) == text, "run `python -m policies.page`"
    for each in CONTROLS:
        assert f"\n| {each.id} | {each.title} | " in text
