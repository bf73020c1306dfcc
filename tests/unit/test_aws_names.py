"""No name that a stack gives to something of AWS is longer than AWS takes, however long those in the settings are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi_aws
import pytest

from harness.mock_engine import Build
from harness.recorded import Registered
from tests.unit.aws_fleet import TOPIC, planned
from tests.unit.stack_blocks import app, production
from tests.unit.test_alb_settings import stack
from tests.unit.test_capacity_settings import group

# What Pulumi takes (a stack name of a backend of one's own), and what settings do.
STACK, APP = "s" * 100, "a" * 20
# What the engine adds to a name that it makes.
SUFFIX = "-0123456"
GROUP = "aws:autoscaling/group:Group"
# Type -> the property that is its name, and the most characters, by the API reference of each service.
LIMITS: Mapping[str, tuple[str, int]] = {
    GROUP: ("name", 255),
    "aws:autoscaling/policy:Policy": ("name", 255),
    "aws:autoscaling/schedule:Schedule": ("scheduledActionName", 255),
    "aws:cloudwatch/logGroup:LogGroup": ("name", 512),
    "aws:cloudwatch/metricAlarm:MetricAlarm": ("name", 255),
    "aws:ec2/keyPair:KeyPair": ("keyName", 255),
    "aws:ec2/launchTemplate:LaunchTemplate": ("name", 128),
    "aws:ec2/securityGroup:SecurityGroup": ("name", 255),
    "aws:iam/instanceProfile:InstanceProfile": ("name", 128),
    "aws:iam/role:Role": ("name", 64),
    "aws:iam/rolePolicy:RolePolicy": ("name", 128),
    "aws:lb/loadBalancer:LoadBalancer": ("name", 32),
    "aws:lb/targetGroup:TargetGroup": ("name", 32),
    "aws:route53/record:Record": ("name", 255),
    "aws:s3/bucket:Bucket": ("bucket", 63),
    "aws:s3/bucketObjectv2:BucketObjectv2": ("key", 1024),
    "aws:ssm/parameter:Parameter": ("name", 1011),
}
NAMED_BY_AWS = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
MONITORED: dict[str, Any] = {"alarms": {"sns_topic_arn": TOPIC}, "logs": {}, "ssm": True}
BOUNDS = {"recurrence": "0 6 * * 1", "min": 2, "max": 3}
STACKS: Mapping[str, dict[str, Any]] = {
    "group": stack(
        {"access_logs": {}},
        MONITORED | {"route53_zone_id": "Z1"},
        apps={APP: group({"cpu_percent": 60, "schedules": {"n" * 20: BOUNDS}})},
    ),
    "machines": production(**MONITORED) | {"apps": {APP: app()}},
}


@pytest.fixture(scope="module", params=STACKS)
def built(request: pytest.FixtureRequest) -> Build:
    return planned(name=STACK, **STACKS[request.param])


def has_name(resource: Registered) -> bool:
    module, _, class_ = resource.type.removeprefix("aws:").partition("/")
    return hasattr(getattr(getattr(pulumi_aws, module), class_.rpartition(":")[2]), "name")


def test_each_name_is_as_long_as_aws_takes_it_at_most(built: Build) -> None:
    of_aws = [each for each in built.resources if each.type.startswith("aws:")]
    assert {each.type for each in of_aws if has_name(each)} <= {*LIMITS, NAMED_BY_AWS}
    named = [each for each in of_aws if each.type in LIMITS]
    names = [(each.type, each.inputs.get(LIMITS[each.type][0], each.name + SUFFIX)) for each in named]
    assert [(type_, name) for type_, name in names if len(name) > LIMITS[type_][1]] == []
    # What more there is of them: values of tags, and the namespace of metrics.
    tags: list[dict[str, str]] = [each.inputs.get("tags", {}) for each in of_aws if each.type != GROUP]
    assert max(len(value) for each in tags for value in each.values()) <= 256
    assert all(len(each.inputs.get("namespace", "")) <= 255 for each in of_aws)
