"""The controls: each is a small function over resources as a program describes them, from any source.

Ids are those of AWS Security Hub (docs.aws.amazon.com/securityhub/latest/userguide), with the number in the CIS AWS
Foundations Benchmark 5.0 where it has one; `FLEET` ones are this project's. docs/security.md lists them; a test holds
both together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from policies.control import Judge, Planned, block, control

INSTANCE, SUBNET, VPC = "aws:ec2/instance:Instance", "aws:ec2/subnet:Subnet", "aws:ec2/vpc:Vpc"
DEFAULT_GROUP, FLOW_LOG = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", "aws:ec2/flowLog:FlowLog"
GROUP = "aws:ec2/securityGroup:SecurityGroup"
IN = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
BUCKET, BUCKET_POLICY = "aws:s3/bucket:Bucket", "aws:s3/bucketPolicy:BucketPolicy"
ROLE, ROLE_POLICY = "aws:iam/role:Role", "aws:iam/rolePolicy:RolePolicy"
LOG_GROUP, ALARM = "aws:cloudwatch/logGroup:LogGroup", "aws:cloudwatch/metricAlarm:MetricAlarm"
ENDPOINT = "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint"
PROVIDER = "pulumi:providers:aws"
EVERYONE = ("0.0.0.0/0", "::/0")
# EC2.18 takes them for meant for everyone.
PUBLIC_PORTS = (80, 443)


def _all(plan: Iterable[Planned], *types: str) -> Iterator[Planned]:
    return (each for each in plan if each.type in types)


def _children(plan: Iterable[Planned], parent: Planned, type_: str) -> list[Planned]:
    return [each for each in plan if each.type == type_ and each.parent == parent.urn]


def _statements(document: Any) -> list[dict[str, Any]]:
    """Return the statements of a policy in JSON text; none of one that is not known before the first `up`."""
    try:
        return cast("list[dict[str, Any]]", _list(json.loads(document)["Statement"]))
    except (TypeError, ValueError, KeyError):
        return []


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _allows(plan: Sequence[Planned]) -> Iterator[tuple[Planned, dict[str, Any]]]:
    for each in _all(plan, ROLE_POLICY):
        for statement in _statements(each.inputs.get("policy")):
            if statement["Effect"] == "Allow":
                yield each, statement


def _end(rule: Planned) -> str:
    return str(rule.inputs.get("cidrIpv4") or rule.inputs.get("cidrIpv6") or "")


def _opens_port(rule: Planned, port: int) -> bool:
    inputs = rule.inputs
    every = inputs.get("ipProtocol") == "-1" or inputs.get("fromPort") is None
    return every or inputs["fromPort"] <= port <= inputs.get("toPort", 65535)


@control("EC2.2", "default security groups let nothing through (CIS 5.5)", "adopt the group, without rules")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for vpc in _all(plan, VPC):
        adopted = _children(plan, vpc, DEFAULT_GROUP)
        if not adopted:
            yield vpc, "its default security group is as AWS made it: open inside and outwards"
        for each in adopted:
            if each.inputs.get("ingress") or each.inputs.get("egress"):
                yield each, "it has rules"


@control("EC2.3", "disks are encrypted (CIS 5.1.1)", "set root_block_device.encrypted")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, INSTANCE):
        if block(each.inputs, "rootBlockDevice").get("encrypted") is not True:
            yield each, "its root disk is not encrypted"
        if each.inputs.get("ebsBlockDevices"):
            yield each, "it has disks that are not described here"


@control("EC2.6", "a VPC logs its flows (CIS 3.7)", "set aws.vpc.flow_log_days")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for vpc in _all(plan, VPC):
        if not _children(plan, vpc, FLOW_LOG):
            yield vpc, "it has no flow log"


@control("EC2.8", "instance metadata asks for a session (CIS 5.7)", "set http_tokens: required and one hop")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, INSTANCE):
        options = block(each.inputs, "metadataOptions")
        if options.get("httpTokens") != "required":
            yield each, f"http_tokens is {options.get('httpTokens')!r}"
        if options.get("httpPutResponseHopLimit") != 1:
            yield each, "containers on it reach its role"


@control("EC2.9", "instances have no public address", "put it into a private subnet, behind the balancer")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, INSTANCE):
        if each.inputs.get("associatePublicIpAddress") is not False:
            yield each, "it gets a public address, or the subnet decides"


@control("EC2.13", "port 22 is not open to everyone (CIS 5.3, 5.4)", "name your own networks in aws.admin_cidrs")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, IN):
        if _end(each) in EVERYONE and _opens_port(each, 22):
            yield each, f"it opens port 22 to {_end(each)}"


@control("EC2.15", "subnets give out no public addresses", "set map_public_ip_on_launch: false")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, SUBNET):
        if each.inputs.get("mapPublicIpOnLaunch"):
            yield each, "machines in it get public addresses"


@control("EC2.18", "only web ports are open to everyone", "let in a group, or networks of your own")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, IN):
        first, last = each.inputs.get("fromPort"), each.inputs.get("toPort")
        if _end(each) in EVERYONE and not (first == last and first in PUBLIC_PORTS):
            yield each, f"it opens ports {first} to {last} to {_end(each)}"


@control("EC2.38", "whose a resource is, is written on it", "give the provider default tags")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, PROVIDER):
        given = each.inputs.get("defaultTags") or "{}"
        tags: Mapping[str, str] = (json.loads(given) if isinstance(given, str) else given).get("tags", {})
        if missing := {"wsgi-fleet:project", "wsgi-fleet:stack", "managed-by"} - tags.keys():
            yield each, f"it sets no {', '.join(sorted(missing))}"


@control("IAM.1", "no policy allows everything (CIS 1.16)", "name the actions and the resources")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each, statement in _allows(plan):
        if "*" in _list(statement.get("Action")) and "*" in _list(statement.get("Resource")):
            yield each, "it allows every action on everything"


@control("IAM.21", "no policy allows all actions of a service", "name the actions")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each, statement in _allows(plan):
        if wild := [action for action in _list(statement.get("Action", [])) if "*" in action]:
            yield each, f"it allows {', '.join(wild)}"
        if "NotAction" in statement:
            yield each, "it allows all actions but some"


@control("S3.5", "buckets take TLS alone (CIS 2.1.1)", "deny every action without aws:SecureTransport")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for bucket in _all(plan, BUCKET):
        policies = [each.inputs.get("policy") for each in _children(plan, bucket, BUCKET_POLICY)]
        statements = [statement for each in policies for statement in _statements(each)]
        denied = [each for each in statements if each["Effect"] == "Deny" and _is_for_everyone(each)]
        only_tls = {"Bool": {"aws:SecureTransport": "false"}}
        is_denied = any(each.get("Condition") == only_tls and "s3:*" in _list(each["Action"]) for each in denied)
        if not is_denied and None not in policies:
            yield bucket, "it accepts requests without TLS"


@control("S3.6", "buckets deny other accounts", "name principals of the own account")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, BUCKET_POLICY):
        for statement in _statements(each.inputs.get("policy")):
            if statement["Effect"] == "Allow" and _is_for_everyone(statement):
                yield each, "it lets in everyone"


def _is_for_everyone(statement: Mapping[str, Any]) -> bool:
    return statement.get("Principal") in ("*", {"AWS": "*"})


def _settings_of_buckets(kind: str, is_good: Callable[[Mapping[str, Any]], bool], problem: str) -> Judge:
    """Return a judge that finds buckets without such a resource that is good."""
    type_ = f"aws:s3/{kind[0].lower()}{kind[1:]}:{kind}"

    def judge(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
        for bucket in _all(plan, BUCKET):
            if not any(is_good(each.inputs) for each in _children(plan, bucket, type_)):
                yield bucket, problem

    return judge


BLOCKS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
control("S3.8", "buckets block public access (CIS 2.1.4)", "set all four blocks")(
    _settings_of_buckets(
        "BucketPublicAccessBlock",
        lambda given: all(given.get(block) is True for block in BLOCKS),
        "it can be made public",
    )
)
control("S3.12", "buckets use no ACLs", "let the bucket's owner own the objects")(
    _settings_of_buckets(
        "BucketOwnershipControls",
        lambda given: block(given, "rule").get("objectOwnership") == "BucketOwnerEnforced",
        "ACLs decide in it",
    )
)
control("S3.13", "buckets forget what is old", "add a lifecycle rule")(
    _settings_of_buckets(
        "BucketLifecycleConfiguration",
        lambda given: any(rule.get("status") == "Enabled" for rule in given.get("rules") or ()),
        "nothing in it ever expires",
    )
)
control("S3.14", "buckets keep versions", "enable versioning")(
    _settings_of_buckets(
        "BucketVersioning",
        lambda given: block(given, "versioningConfiguration").get("status") == "Enabled",
        "what is overwritten is lost",
    )
)


@control("CloudWatch.15", "alarms have an action", "name a topic in aws.alarms.sns_topic_arn")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, ALARM):
        if not each.inputs.get("alarmActions"):
            yield each, "it has no action"


@control("CloudWatch.17", "the actions of alarms are on", "leave actions_enabled as it is")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, ALARM):
        if each.inputs.get("actionsEnabled") is False:
            yield each, "its actions are switched off"


@control("CloudWatch.16", "log groups say how long they keep", "set retention_in_days")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, LOG_GROUP):
        if not each.inputs.get("retentionInDays"):
            yield each, "it keeps records for ever"


@control("FLEET.1", "no private key stands in plain", "make the value a secret")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in plan:
        if "PRIVATE KEY-----" in repr(each.inputs):
            yield each, "the state would hold a private key in plain"


@control("FLEET.2", "no group lets itself in", "let in another group")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, IN):
        other = each.inputs.get("referencedSecurityGroupId")
        if other and other == each.inputs.get("securityGroupId"):
            yield each, "machines of the group reach each other"
    for each in _all(plan, GROUP):
        if each.inputs.get("ingress") or each.inputs.get("egress"):
            yield each, "it has rules inside, which fight with those that are resources"


@control("FLEET.3", "services alone take roles", "name the service as principal")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each in _all(plan, ROLE):
        for statement in _statements(each.inputs.get("assumeRolePolicy")):
            if set(statement.get("Principal", ())) != {"Service"}:
                yield each, f"{statement.get('Principal')} may take it"


@control("FLEET.4", "who publishes metrics does so under one name", "add a condition on cloudwatch:namespace")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each, statement in _allows(plan):
        named = block(block(statement, "Condition"), "StringEquals").get("cloudwatch:namespace")
        if "cloudwatch:PutMetricData" in _list(statement.get("Action")) and not named:
            yield each, "it can speak for every other stack"


@control("FLEET.5", "who ships logs makes no place for them", "take logs:CreateLogGroup out")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    for each, statement in _allows(plan):
        if "logs:CreateLogGroup" in _list(statement.get("Action")):
            yield each, "it would bring back a log group that was deleted, which keeps for ever"


@control("FLEET.6", "port 22 is open to the endpoint alone, where there is one", "take the other rule out")
def _(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
    endpoints = [*_all(plan, ENDPOINT)]
    groups = {id_ for each in endpoints for id_ in each.inputs.get("securityGroupIds") or [None]}
    # Of an endpoint that is not the stack's own no inputs are known, but that its rules name a group.
    is_own = all(each.inputs for each in endpoints)
    for each in _all(plan, IN) if endpoints else ():
        # None: not known before the first `up`, nor is the endpoint's own group then.
        other = _end(each) or (each.inputs.get("referencedSecurityGroupId") if is_own else None)
        if _opens_port(each, 22) and other is not None and other not in groups:
            yield each, f"it opens port 22 to {other}"
