"""A whole stack with an Application Load Balancer, as the program asks AWS for it."""

from __future__ import annotations

import pytest

from harness.mock_engine import Build, Secret
from policies import findings
from policies.cost import costs
from policies.plan import from_build
from settings.listener_rule import listener_rules
from tests.unit.aws_fleet import planned
from tests.unit.stack_blocks import app
from tests.unit.test_alb_settings import SERVERS, stack
from tests.unit.test_routes import make_routes

LB = "aws:lb/"
BALANCER, GROUP = f"{LB}loadBalancer:LoadBalancer", f"{LB}targetGroup:TargetGroup"
LISTENER, RULE = f"{LB}listener:Listener", f"{LB}listenerRule:ListenerRule"
TARGET, ROLLOUT = "pulumi-python:dynamic/aws:Target", "pulumi-python:dynamic/releases:Rollout"
IN = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
OUT = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
RECORD = "aws:route53/record:Record"
WAF = "arn:aws:wafv2:eu-central-1:123456789012:regional/webacl/x/12345678-1234-1234-1234-123456789012"
APPS = {
    "shop": app(**SERVERS, streaming={"paths": ["/events/"], "timeout_s": 600}, rollout={"drain_timeout_s": 90}),
    "api": app(**SERVERS, path="/api"),
    "docs": app(**SERVERS, hosts=["docs.example.org"], sticky_sessions=True),
}
WHOLE = stack(
    {
        "certificate_arn": None,
        "request_certificate": True,
        "access_logs": {},
        "waf_acl_arn": WAF,
        "ip_address_type": "dualstack",
    },
    {"route53_zone_id": "Z1", "alarms": {"sns_topic_arn": "arn:aws:sns:eu-central-1:123456789012:fleet"}},
    apps=APPS,
)


@pytest.fixture(scope="module")
def whole_stack() -> Build:
    return planned(**WHOLE)


def test_it_stands_in_every_zone_and_drops_what_would_be_read_otherwise(whole_stack: Build) -> None:
    given = whole_stack.one(BALANCER).inputs
    assert given["subnets"] == ["public-a-id", "public-b-id", "public-c-id"]
    expected = {
        "loadBalancerType": "application",
        "internal": False,
        "dropInvalidHeaderFields": True,
        "desyncMitigationMode": "defensive",
        "preserveHostHeader": True,
        "xffHeaderProcessingMode": "append",
        "enableDeletionProtection": True,
        "ipAddressType": "dualstack",
        # The longest stream, and twice the margin of 5 s.
        "idleTimeout": 610,
        "accessLogs": {"enabled": True, "bucket": "balancer-log-b0b0b0b"},
    }
    assert {name: given[name] for name in expected} == expected
    assert whole_stack.one(BALANCER).protect
    assert whole_stack.one("aws:wafv2/webAclAssociation:WebAclAssociation").inputs["webAclArn"] == WAF


def test_it_fails_no_control_and_has_a_price(whole_stack: Build) -> None:
    found = findings(from_build(whole_stack), stack="prod")
    assert [(each.control.id, each.resource.name, each.problem) for each in found] == []
    assert {"load balancer", "public address"} <= {each.what for each in costs(from_build(whole_stack))}


def test_each_application_has_a_target_group_that_spreads_by_open_requests(whole_stack: Build) -> None:
    groups = {each.name: each.inputs for each in whole_stack.of(GROUP)}
    assert {name: group["deregistrationDelay"] for name, group in groups.items()} == {"shop": 90, "api": 75, "docs": 75}
    assert {name for name, group in groups.items() if group["stickiness"]["enabled"]} == {"docs"}
    assert {group["loadBalancingAlgorithmType"] for group in groups.values()} == {"least_outstanding_requests"}
    assert {(group["port"], group["healthCheck"]["path"]) for group in groups.values()} == {
        (8000, "/.wsgi-fleet/health")
    }


def test_http_leads_to_https_and_the_rules_to_the_applications(whole_stack: Build) -> None:
    listeners = {each.inputs["port"]: each.inputs for each in whole_stack.of(LISTENER)}
    there = {"protocol": "HTTPS", "port": "443", "statusCode": "HTTP_301"}
    assert listeners[80]["defaultActions"] == [{"type": "redirect", "redirect": there}]
    assert listeners[443]["sslPolicy"] == "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09"
    assert listeners[443]["defaultActions"] == [{"type": "forward", "targetGroupArn": "arn:shop"}]
    rules = sorted(whole_stack.of(RULE), key=lambda each: each.inputs["priority"])
    expected = listener_rules(make_routes(shop={}, api={"path": "/api"}, docs={"hosts": ["docs.example.org"]}))
    assert [each.inputs["priority"] for each in rules] == [rule.priority for rule in expected]
    assert [each.inputs["actions"][0]["targetGroupArn"] for each in rules] == ["arn:docs", "arn:api"]
    assert [each.inputs["conditions"] for each in rules] == [
        [{"hostHeader": {"values": ["docs.example.org"]}}],
        [{"pathPattern": {"values": ["/api", "/api/*"]}}],
    ]


def test_a_rule_is_tagged_with_what_of_its_host_and_path_a_tag_takes() -> None:
    stack_name, whole = "a-stack-with-a-long-name-of-its-own", f"{'h' * 60}.{'i' * 55}.example.org/{'c' * 98}"
    host, _, path = whole.partition("/")
    apps = {
        "shop": app(**SERVERS, path="/~shop"),
        "docs": app(**SERVERS, path="/_shop"),
        "long": app(**SERVERS, hosts=[host], path=f"/{path}"),
    }
    rules = planned(preview=True, name=stack_name, **stack(apps=apps)).of(RULE)
    tags = {each.name.removeprefix("balancer-"): each.inputs["tags"]["Name"] for each in rules}
    assert tags["every-host/~shop"] == tags["every-host/_shop"] == f"{stack_name}-every-host/_shop"
    assert tags[whole] == f"{stack_name}-{whole}"[:256]
    assert len(f"{stack_name}-{whole}") > 256


def test_a_certificate_is_proven_by_a_record_for_each_name_before_https_is_served(whole_stack: Build) -> None:
    records = {each.name: each.inputs for each in whole_stack.of(RECORD)}
    names = ("shop.example.org", "docs.example.org")
    assert all(records[f"balancer-certificate-{name}"]["name"] == f"_0a.{name}" for name in names)
    signed = whole_stack.one("aws:acm/certificateValidation:CertificateValidation")
    assert whole_stack.one(LISTENER, "balancer-https").depends_on(signed)
    aliases = [given for given in records.values() if "aliases" in given]
    assert sorted((given["name"], given["type"]) for given in aliases) == [
        (name, type_) for name in ("docs.example.org", "shop.example.org") for type_ in ("A", "AAAA")
    ]


def test_a_server_gets_requests_once_its_release_serves_and_from_the_load_balancer_alone(whole_stack: Build) -> None:
    assert sorted(each.name for each in whole_stack.of(TARGET)) == sorted(
        f"{name}-{number}" for name in APPS for number in (1, 2, 3)
    )
    for each in whole_stack.of(TARGET):
        name = each.name.rpartition("-")[0]
        assert each.inputs["group"] == f"arn:{name}"
        assert each.depends_on(whole_stack.one(ROLLOUT, f"{name}-rollout"))
        assert all(each.depends_on(rule) for rule in whole_stack.of(RULE))
    ports = {(each.inputs["referencedSecurityGroupId"], each.inputs["fromPort"]) for each in whole_stack.of(IN)
             if each.inputs["securityGroupId"] == "app-shop-id"}  # fmt: skip
    assert {port for group, port in ports if group == "balancer-id"} == {8000}
    ways_out = {(each.inputs["fromPort"], each.inputs.get("cidrIpv4")) for each in whole_stack.of(OUT)
                if each.inputs["securityGroupId"] == "balancer-id"}  # fmt: skip
    assert ways_out == {(8000, None)}


def test_no_machine_stands_in_front_and_nothing_is_published_to_one(whole_stack: Build) -> None:
    assert "balancer" not in [each.name for each in whole_stack.of("aws:ec2/instance:Instance")]
    for each in whole_stack.of(ROLLOUT):
        assert "balancer" not in each.inputs
        assert each.inputs["static"] is False
    fleet = whole_stack.exports["fleet"]
    assert isinstance(fleet, Secret)
    assert "balancer" not in fleet.value
    assert fleet.value["load_balancer"]["groups"] == {name: f"arn:{name}" for name in APPS}
    assert whole_stack.exports["url"] == "https://shop.example.org"


def test_a_topic_hears_of_errors_and_of_servers_that_the_load_balancer_finds_unhealthy(whole_stack: Build) -> None:
    alarms = {each.name: each.inputs for each in whole_stack.of("aws:cloudwatch/metricAlarm:MetricAlarm")}
    assert {name for name in alarms if name.startswith("balancer-")} == {
        "balancer-errors", *(f"balancer-servers-{name}" for name in APPS)
    }  # fmt: skip
    assert alarms["balancer-errors"]["threshold"] == 5


def test_a_vpc_that_is_there_and_plain_http() -> None:
    there = {"vpc": None, "vpc_id": "vpc-0123456a", "app_subnet_ids": ["subnet-0123456b"], "protect": False}
    subnets = ["subnet-0123456c", "subnet-0123456d"]
    found = planned(preview=True, **stack({"certificate_arn": None, "subnet_ids": subnets, "slow_start_s": 60}, there))
    assert found.one(BALANCER).inputs["subnets"] == subnets
    (listener,) = found.of(LISTENER)
    assert listener.inputs["port"] == 80
    group = found.one(GROUP).inputs
    assert (group["loadBalancingAlgorithmType"], group["slowStart"]) == ("round_robin", 60)
