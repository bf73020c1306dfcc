"""fleet.capacity as the program asks AWS for it, and as the operator's side asks a group about its instances."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from botocore.exceptions import ClientError

from harness.mock_engine import Build, Secret
from platforms.aws.elb import Elb
from platforms.aws.instance import USER_DATA_BYTES
from platforms.aws.scaling import ScalingGroup
from platforms.aws.server_group import group_names
from platforms.server_group import Phase, ServerGroupError
from policies import findings
from policies.cost import costs
from policies.plan import from_build
from tests.unit.aws_fleet import INSTANCE, POLICY, STEP, TOPIC, planned, statements
from tests.unit.stack_blocks import app, production
from tests.unit.test_alb_settings import SERVERS, stack
from tests.unit.test_capacity_settings import group

TEMPLATE, GROUP = "aws:ec2/launchTemplate:LaunchTemplate", "aws:autoscaling/group:Group"
TRACKING, SCHEDULE = "aws:autoscaling/policy:Policy", "aws:autoscaling/schedule:Schedule"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
OBJECT, PARAMETER = "aws:s3/bucketObjectv2:BucketObjectv2", "aws:ssm/parameter:Parameter"
REFRESH = "pulumi-python:dynamic/aws:InstanceRefresh"
ROLLOUT, TARGET = "pulumi-python:dynamic/releases:Rollout", "pulumi-python:dynamic/aws:Target"
SPOT = group(
    {
        "cpu_percent": 60,
        "instance_types": ["t4g.medium"],
        "spot_percent": 40,
        "schedules": {
            "sale": {"recurrence": "0 6 * * 1", "min": 2, "max": 6, "time_zone": "Europe/Berlin"},
            "after": {"recurrence": "0 22 * * 1", "min": 1, "max": 3},
        },
    },
    system_packages=["libpq5"],
)
NAME = "wsgi-fleet-prod.hello"


@pytest.fixture(scope="module")
def whole_stack() -> Build:
    """Return a stack with a group and a fixed fleet."""
    block = {"tags": {"cost-center": "42"}, "alarms": {"sns_topic_arn": TOPIC}}
    return planned(**stack(aws=block, apps={"hello": SPOT, "docs": app(**SERVERS, path="/docs")}))


def user_data(build: Build) -> str:
    packed = base64.b64decode(build.one(TEMPLATE).inputs["userData"])
    assert len(packed) < USER_DATA_BYTES
    return gzip.decompress(packed).decode()


def test_an_instance_of_a_group_is_what_one_of_a_fixed_fleet_is(whole_stack: Build) -> None:
    template, fixed = whole_stack.one(TEMPLATE).inputs, next(each.inputs for each in whole_stack.of(INSTANCE))
    (interface,), (disk,) = template["networkInterfaces"], template["blockDeviceMappings"]
    same = {
        "ami": "imageId",
        "instanceType": "instanceType",
        "keyName": "keyName",
        "metadataOptions": "metadataOptions",
    }
    assert {own: template[other] for own, other in same.items()} == {own: fixed[own] for own in same}
    assert (interface["associatePublicIpAddress"], interface["securityGroups"]) == ("false", ["app-hello-id"])
    assert disk["deviceName"] == "/dev/xvda"
    assert disk["ebs"] == {
        "encrypted": "true", "volumeType": "gp3", "volumeSize": fixed["rootBlockDevice"]["volumeSize"],
        "deleteOnTermination": "true",
    }  # fmt: skip
    assert {each["resourceType"] for each in template["tagSpecifications"]} == {
        "instance",
        "volume",
        "network-interface",
    }
    assert all(each["tags"]["Name"] == "prod-hello" for each in template["tagSpecifications"])


def test_no_instance_escapes_the_hooks_and_the_load_balancer_says_who_is_healthy(whole_stack: Build) -> None:
    given = whole_stack.one(GROUP).inputs
    assert (given["name"], given["minSize"], given["maxSize"], given["waitForCapacityTimeout"]) == (NAME, 1, 3, "0")
    assert (given["healthCheckType"], given["targetGroupArns"], given["capacityRebalance"]) == (
        "ELB", ["arn:hello"], True,
    )  # fmt: skip
    assert given["vpcZoneIdentifiers"] == ["private-a-id", "private-b-id", "private-c-id"]
    hooks = {
        each["lifecycleTransition"].rpartition("_")[2]: each["defaultResult"] for each in given["initialLifecycleHooks"]
    }
    assert hooks == {"LAUNCHING": "ABANDON", "TERMINATING": "CONTINUE"}
    policy = given["mixedInstancesPolicy"]
    assert [each["instanceType"] for each in policy["launchTemplate"]["overrides"]] == ["t4g.small", "t4g.medium"]
    assert policy["instancesDistribution"]["onDemandPercentageAboveBaseCapacity"] == 60
    tracked = {each.name: each.inputs["targetTrackingConfiguration"] for each in whole_stack.of(TRACKING)}
    assert (
        tracked["hello-requests"]["predefinedMetricSpecification"]["resourceLabel"] == "app/balancer/targetgroup/hello"
    )
    assert {name: each["targetValue"] for name, each in tracked.items()} == {"hello-requests": 1000, "hello-cpu": 60}
    schedules = {each.name: (each.inputs["maxSize"], each.inputs.get("timeZone")) for each in whole_stack.of(SCHEDULE)}
    assert schedules == {"hello.sale": (6, "Europe/Berlin"), "hello.after": (3, None)}


def test_the_group_has_the_tags_of_the_stack_and_its_file_in_the_store_none(whole_stack: Build) -> None:
    tags = whole_stack.one(GROUP).inputs["tags"]
    assert {each["key"]: each["value"] for each in tags} == {
        "cost-center": "42", "wsgi-fleet:project": "wsgi-fleet", "wsgi-fleet:stack": "prod", "managed-by": "pulumi",
        "Name": NAME,
    }  # fmt: skip
    assert not any(each["propagateAtLaunch"] for each in tags)
    assert whole_stack.one(OBJECT).inputs["overrideProvider"] == {"defaultTags": {"tags": {}}}


def test_groups_of_stacks_whose_names_overlap_are_two() -> None:
    assert group_names("prod", "eu-shop").group != group_names("prod-eu", "shop").group


def test_schedules_of_applications_whose_names_overlap_are_two() -> None:
    bounds = {"recurrence": "0 6 * * 1", "min": 1, "max": 3}
    apps = {
        "shop": group({"schedules": {"eu-sale": bounds}}),
        "shop-eu": group({"schedules": {"sale": bounds}}, path="/eu"),
    }
    assert len({each.urn for each in planned(**stack(apps=apps)).of(SCHEDULE)}) == 2


def test_nobody_runs_steps_on_it_so_it_fetches_what_it_boots_with(whole_stack: Build) -> None:
    object_, document = whole_stack.one(OBJECT), yaml.safe_load(user_data(whole_stack))
    key = object_.inputs["key"]
    files = {each["path"].rpartition("/")[2]: each["content"] for each in document["write_files"]}
    assert files["store"] == "s3://releases-b0b0b0b/prod/hello"
    assert document["runcmd"][0][1:] == [key.removeprefix("prod/hello/"), "nginx", "libpq5"]
    own, _monitoring = json.loads(object_.inputs["content"])
    there = {path.rpartition("/")[2] for path in own["files"]}
    assert {
        "release.py",
        "app_status.py",
        "group_member.py",
        "aws_service.py",
        "app@.service",
        "setup-app-server",
    } <= there
    assert own["on"] == ["wsgi-fleet-group.service"]
    assert json.loads(own["files"]["/etc/wsgi-fleet/group"][1])["name"] == NAME
    parameter = whole_stack.one(PARAMETER).inputs
    assert (parameter["name"], parameter["type"]) == ("/wsgi-fleet/prod/hello/boot/key", "SecureString")
    assert isinstance(parameter["value"], Secret)
    assert whole_stack.one(GROUP).depends_on(object_)
    assert "key" not in files


def test_another_template_is_brought_to_the_instances_before_the_release_and_by_no_change_of_the_group(
    whole_stack: Build,
) -> None:
    refresh = whole_stack.one(REFRESH)
    policy = json.loads(refresh.inputs["configuration"])["MixedInstancesPolicy"]
    assert policy["LaunchTemplate"]["LaunchTemplateSpecification"] == {"LaunchTemplateId": "hello-id", "Version": "7"}
    assert policy["LaunchTemplate"]["Overrides"] == [{"InstanceType": "t4g.small"}, {"InstanceType": "t4g.medium"}]
    assert policy["InstancesDistribution"]["OnDemandPercentageAboveBaseCapacity"] == 60
    assert refresh.inputs["layout"] == "uwsgi, systemd 2"
    assert whole_stack.one(ROLLOUT, "hello-rollout").depends_on(refresh)
    assert {"launchTemplate", "mixedInstancesPolicy"} <= {*whole_stack.one(GROUP).ignore_changes}


def test_it_may_speak_of_itself_to_its_own_group_alone(whole_stack: Build) -> None:
    of_role = {each.name: statements(each.inputs["policy"]) for each in whole_stack.of(POLICY)}
    found = [each for each in of_role["app-hello"] if "autoscaling:CompleteLifecycleAction" in each["Action"]]
    assert [each["Resource"] for each in found] == [
        f"arn:aws:autoscaling:eu-central-1:*:autoScalingGroup:*:autoScalingGroupName/{NAME}"
    ]
    assert not [each for each in of_role["app-docs"] if "autoscaling" in str(each)]


def test_the_state_has_no_list_of_instances(whole_stack: Build) -> None:
    rollouts = {each.inputs["app"]: each for each in whole_stack.of(ROLLOUT)}
    assert rollouts["hello"].inputs["servers"] == []
    assert rollouts["hello"].inputs["group"] == {
        "platform": "aws", "region": "eu-central-1", "name": NAME, "group": "arn:hello",
    }  # fmt: skip
    assert rollouts["hello"].depends_on(whole_stack.one(GROUP))
    assert "group" not in rollouts["docs"].inputs
    assert {each.name for each in whole_stack.of(TARGET)} == {"docs-1", "docs-2", "docs-3"}
    assert whole_stack.exports["groups"] == {"hello": NAME}
    assert "servers" in whole_stack.exports["fleet"].value["apps"]["hello"]


def test_a_topic_hears_when_fewer_servers_than_the_fewest_serve_for_long_and_when_their_cpu_is_used_up(
    whole_stack: Build,
) -> None:
    group = whole_stack.one(GROUP)
    alarms = {each.name: each.inputs for each in whole_stack.of(ALARM) if each.parent == group.urn}
    assert alarms.keys() == {"hello-missing", "hello-cpu"}
    for each in alarms.values():
        assert (each["evaluationPeriods"], each["alarmActions"], each["okActions"]) == (15, [TOPIC], [TOPIC])
    computed, least, serving = alarms["hello-missing"]["metricQueries"]
    read = [(each["id"], each["metric"]["metricName"]) for each in (least, serving)]
    assert read == [("least", "GroupMinSize"), ("serving", "GroupInServiceInstances")]
    assert (computed["expression"], alarms["hello-missing"]["threshold"]) == ("least - serving", 1)
    assert least["metric"]["dimensions"] == alarms["hello-cpu"]["dimensions"] == {"AutoScalingGroupName": NAME}
    # They are off by default.
    assert set(group.inputs["enabledMetrics"]) == {metric for _, metric in read}


def test_it_fails_no_control_and_its_fewest_servers_have_a_price(whole_stack: Build) -> None:
    planned = from_build(whole_stack)
    found = findings(planned, stack="prod")
    assert {(each.control.id, each.resource.name) for each in found} <= {("ELB.5", "balancer")}
    # One server of the group, three of the other application; metrics of a group are free.
    numbers = {each.what: each.number for each in costs(planned)}
    assert (numbers["machine, t4g.small"], numbers["metric that a machine reports"]) == (4, 3)


@pytest.fixture(scope="module")
def behind_a_machine() -> Build:
    """Return a stack with a group of fixed size and a fixed fleet behind a balancer of its own."""
    fleet = {"capacity": {"min": 2, "max": 2, "cpu_percent": 60}}
    apps = {"hello": app(fleet=fleet), "docs": app(fleet={"servers": 2}, path="/docs")}
    blocks: dict[str, Any] = production() | {"apps": apps}
    return planned(**blocks)


def test_behind_a_machine_a_group_has_no_target_group_and_the_balancer_asks_it(behind_a_machine: Build) -> None:
    given = behind_a_machine.one(GROUP).inputs
    assert (given["healthCheckType"], given.get("targetGroupArns"), given["minSize"]) == ("EC2", None, 2)
    assert [each.name for each in behind_a_machine.of(TRACKING)] == ["hello-cpu"]
    (site,) = [each for each in behind_a_machine.of(STEP) if each.name == "balancer-site"]
    upstreams = json.loads(site.inputs["stdin"])["upstreams"]
    assert (upstreams["app_hello"]["group"]["name"], upstreams["app_hello"]["servers"]) == (NAME, {})
    assert ("group" not in upstreams["app_docs"], len(upstreams["app_docs"]["servers"])) == (True, 2)
    assert site.depends_on(behind_a_machine.one(ROLLOUT, "hello-rollout"))
    (booted,) = [each for each in behind_a_machine.of(STEP) if each.name == "balancer-booted"]
    files = {path.rpartition("/")[2]: text for path, (_, text) in json.loads(booted.inputs["stdin"])["files"].items()}
    assert json.loads(files["groups.json"]) == [NAME]
    assert {"scaling_groups.py", "group_members.py", "membership.py", "aws_service.py", "fetch.py"} <= files.keys()
    own, _ = json.loads(behind_a_machine.one(OBJECT).inputs["content"])
    assert json.loads(own["files"]["/etc/wsgi-fleet/group"][1])["by_load_balancer"] is False
    assert behind_a_machine.one(ROLLOUT, "hello-rollout").inputs["group"].keys() == {"platform", "region", "name"}


def test_the_balancer_may_list_machines_and_report_those_of_its_own_groups_as_dead(behind_a_machine: Build) -> None:
    of_role = {each.name: statements(each.inputs["policy"]) for each in behind_a_machine.of(POLICY)}
    found = [each for each in of_role["balancer"] if "autoscaling" in str(each)]
    arn = f"arn:aws:autoscaling:eu-central-1:*:autoScalingGroup:*:autoScalingGroupName/{NAME}"
    assert found == [
        {
            "Effect": "Allow",
            "Action": ["autoscaling:DescribeAutoScalingGroups", "ec2:DescribeInstances"],
            "Resource": "*",
        },
        {"Effect": "Allow", "Action": "autoscaling:SetInstanceHealth", "Resource": [arn]},
    ]


def test_behind_a_machine_it_fails_no_control_and_has_a_price(behind_a_machine: Build) -> None:
    planned = from_build(behind_a_machine)
    assert {(each.control.id, each.resource.name) for each in findings(planned, stack="prod")} <= {
        ("EC2.9", "balancer")
    }
    # Two of the group, two of the other application and the balancer.
    assert sum(each.number for each in costs(planned) if each.what.startswith("machine, ")) == 5


class Api:
    """What boto3 would answer. calls: (method, arguments)."""

    def __init__(self, states: dict[str, str], **group: Any) -> None:
        self.states, self.group = states, {"MinSize": 1, "DesiredCapacity": 2} | group
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refused: set[str] = set()
        self.ended: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        def call(**given: Any) -> None:
            self.calls.append((name, given))

        return call

    def describe_auto_scaling_groups(self, **given: Any) -> Any:
        assert given == {"AutoScalingGroupNames": ["g"]}
        every = [{"InstanceId": id_, "LifecycleState": state} for id_, state in self.states.items()]
        return {"AutoScalingGroups": [{**self.group, "Instances": every}] if self.states else []}

    def get_paginator(self, name: str) -> Any:
        assert name == "describe_instances"
        return self

    def paginate(self, **given: Any) -> Any:
        (expected,) = given["Filters"]
        states = {id_: "shutting-down" if id_ in self.ended else "running" for id_ in expected["Values"]}
        every = [
            {"InstanceId": id_, "PrivateIpAddress": f"10.0.0.{id_[-1]}", "State": {"Name": state}}
            for id_, state in states.items()
        ]
        return [{"Reservations": [{"Instances": every}]}]

    def set_instance_protection(self, **given: Any) -> None:
        if self.refused & {*given["InstanceIds"]}:
            error: Any = {"Error": {"Code": "ValidationError", "Message": "is not in InService"}}
            raise ClientError(error, "SetInstanceProtection")
        self.calls.append(("protect", given))


def make_group(api: Api) -> ScalingGroup:
    made = ScalingGroup("eu-central-1", "g", "arn:hello")
    made.__dict__ |= {"client": api, "ec2": api}
    return made


def test_a_release_goes_to_instances_that_wait_or_serve() -> None:
    states = {"i-1": "InService", "i-2": "Pending:Wait", "i-3": "Pending", "i-4": "Terminating:Wait", "i-5": "Standby"}
    api = Api(states | {"i-6": "EnteringStandby", "i-7": "Pending:Proceed", "i-8": "InService"})
    api.ended = {"i-8"}
    members = make_group(api).members()
    assert [(each.id, each.phase) for each in members if each.takes_part] == [
        ("i-1", Phase.SERVING), ("i-2", Phase.WAITING), ("i-5", Phase.STANDBY), ("i-6", Phase.STANDBY),
    ]  # fmt: skip
    assert [each.phase for each in members if not each.takes_part] == [
        Phase.STARTING, Phase.LEAVING, Phase.STARTING, Phase.LEAVING,
    ]  # fmt: skip
    assert members[0].target == "i-1@10.0.0.1"
    assert make_group(Api({})).members() == []


def test_those_get_requests_whom_the_load_balancer_finds_healthy_and_without_one_those_in_service() -> None:
    made = ScalingGroup("eu-central-1", "g", None)
    made.__dict__ |= {"client": Api({"i-1": "InService", "i-2": "Pending:Wait"})}
    assert made.healthy() == {"i-1"}
    behind = make_group(Api({}))
    found = {"i-1": ("initial", ""), "i-2": ("healthy", "")}
    with mock.patch.object(Elb, "health", return_value=found):
        assert behind.healthy() == {"i-2"}


def test_only_instances_in_service_are_protected_and_one_that_goes_spoils_it_for_no_other() -> None:
    api = Api({"i-1": "InService", "i-2": "Pending:Wait", "i-3": "InService"})
    api.refused = {"i-3"}
    for on in (True, False):
        make_group(api).protect(["i-1", "i-2", "i-3"], on=on)
    assert [(name, given["InstanceIds"], given["ProtectedFromScaleIn"]) for name, given in api.calls] == [
        ("protect", ["i-1"], True), ("protect", ["i-1"], False),
    ]  # fmt: skip


def test_a_drained_one_is_replaced_where_the_group_has_no_more_than_it_must() -> None:
    for desired, spare in ((2, True), (1, False)):
        api = Api({"i-1": "InService"}, DesiredCapacity=desired)
        for on in (True, False):
            make_group(api).stand_by("i-1", on=on)
        own = {"InstanceIds": ["i-1"], "AutoScalingGroupName": "g"}
        assert api.calls == [
            ("enter_standby", own | {"ShouldDecrementDesiredCapacity": spare}), ("exit_standby", own),
        ]  # fmt: skip


def test_one_that_does_not_take_the_release_is_called_unhealthy_now() -> None:
    api = Api({"i-1": "InService"})
    make_group(api).replace("i-1")
    health = {"InstanceId": "i-1", "HealthStatus": "Unhealthy", "ShouldRespectGracePeriod": False}
    assert api.calls == [("set_instance_health", health)]


def test_the_newest_launch_that_failed_says_why_there_are_fewer_servers_than_the_least() -> None:
    api = Api({"i-1": "InService"}, MinSize=2)
    said = {"Successful": "", "Cancelled": "it\n went", "Failed": "old"}
    activities = [{"StatusCode": code, "StatusMessage": text} for code, text in said.items()]
    found = {"Activities": activities}
    with mock.patch.object(Api, "describe_scaling_activities", return_value=found, create=True):
        assert (make_group(api).minimum(), make_group(api).last_problem()) == (2, "it went")


def test_what_aws_refuses_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ServerGroupError, match=r"credentials; `\./fleet doctor` looks at the credentials"):
        ScalingGroup("eu-central-1", "g", "arn:hello").members()
