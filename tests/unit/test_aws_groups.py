"""The stand-in of Auto Scaling itself: groups, hooks, policies and refreshes act as AWS documents it."""

from __future__ import annotations

import base64
import gzip
import itertools
import math
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.aws.account import Account
from tests.aws.auto_scaling import GROUP, drain
from tests.aws.group_calls import Groups
from tests.aws.instance_calls import InstanceCalls
from tests.aws.instance_refresh import Refreshes
from tests.aws.scaling import Scaling
from tests.aws.scaling_calls import added_to_moto
from tests.aws.scaling_group import Group
from tests.aws.scaling_policies import Policies
from tests.aws.server import image, serving
from tests.aws.target_health import HEALTHY, Health, TargetHealth

pytestmark = pytest.mark.aws
REGION, AMI = "eu-central-1", "ami-0123456789abcdef0"
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
# Seconds: of draining; what a minute lasts; and in which all must have happened, on a busy machine.
DELAY_S, MINUTE_S, LIMIT_S = 1, 0.25, 60
LAUNCH, TERMINATE = "launch", "terminate"


@dataclass
class Hosts:
    """Machines that are names alone."""

    there: set[str] = field(default_factory=set[str])
    off: set[str] = field(default_factory=set[str])

    def launch(self, id_: str) -> None:
        self.there.add(id_)

    def terminate(self, id_: str) -> None:
        self.there.discard(id_)

    def stopped(self) -> set[str]:
        return self.off

    def renew(self) -> None:
        pass


@dataclass
class Site:
    """A region with two subnets, a launch template, and a target group behind a load balancer."""

    account: Account
    groups: Groups
    scaling: Scaling
    refreshes: Refreshes
    hosts: Hosts
    health: TargetHealth
    subnets: list[str]
    template: str
    targets: str
    label: str
    requests: list[float]
    now: list[float]
    numbers: Any = field(default_factory=itertools.count)
    ill: set[str] = field(default_factory=set[str])

    @property
    def api(self) -> Any:
        return self.account.aws.autoscaling

    def group(self, *hooks: str, **inputs: Any) -> Group:
        """Create a group; hooks: of LAUNCH, TERMINATE."""
        defaults = {LAUNCH: ("LAUNCHING", "ABANDON"), TERMINATE: ("TERMINATING", "CONTINUE")}
        given = {
            "name": f"g{next(self.numbers)}", "minSize": 0, "maxSize": 4, "desiredCapacity": 1,
            "vpcZoneIdentifiers": self.subnets, "targetGroupArns": [self.targets], "healthCheckType": "ELB",
            "waitForCapacityTimeout": "0", "launchTemplate": {"id": self.template, "version": "1"},
            "initialLifecycleHooks": [
                {
                    "name": each, "lifecycleTransition": f"autoscaling:EC2_INSTANCE_{defaults[each][0]}",
                    "heartbeatTimeout": 900, "defaultResult": defaults[each][1],
                }
                for each in hooks
            ],
            **inputs,
        }  # fmt: skip
        return self.groups.groups[self.account.create(GROUP, given)[0]]

    def look(self, group: Group) -> list[str]:
        """Look once; return the states of the group's instances. All but the ill are healthy targets then."""
        self.scaling.look()
        for each in group.instances:
            self.health.publish(self.targets, each, Health("unhealthy") if each in self.ill else HEALTHY)
        return [each.state for each in group.instances.values()]

    def until(self, group: Group, *states: str) -> list[str]:
        """Look until the instances have these states, and return their ids."""
        end = time.monotonic() + LIMIT_S
        while (found := self.look(group)) != list(states):
            assert time.monotonic() < end, f"{found}, not {states}; {[each.cause for each in group.activities]}"
            time.sleep(0.02)
        return list(group.instances)

    def replacement(self, group: Group, id_: str) -> str:
        """Look until another instance serves alone in place of one, and return its id."""
        end = time.monotonic() + LIMIT_S
        while id_ in group.instances or self.look(group) != ["InService"]:
            self.look(group)
            assert time.monotonic() < end, [each.cause for each in group.activities]
        return next(iter(group.instances))

    def complete(self, group: Group, hook: str, id_: str, result: str = "CONTINUE") -> None:
        self.api.complete_lifecycle_action(
            AutoScalingGroupName=group.name, LifecycleHookName=hook, InstanceId=id_, LifecycleActionResult=result
        )

    def targeted(self) -> dict[str, str]:
        found = self.account.aws.elbv2.describe_target_health(TargetGroupArn=self.targets)["TargetHealthDescriptions"]
        return {each["Target"]["Id"]: each["TargetHealth"]["State"] for each in found}

    def set_delay(self, seconds: int) -> None:
        delay = {"Key": "deregistration_delay.timeout_seconds", "Value": str(seconds)}
        self.account.aws.elbv2.modify_target_group_attributes(TargetGroupArn=self.targets, Attributes=[delay])

    def shown(self, group: Group) -> dict[str, Any]:
        return self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[group.name])["AutoScalingGroups"][0]

    def refresh(self, group: Group) -> dict[str, Any]:
        """Return the newest refresh."""
        return self.api.describe_instance_refreshes(AutoScalingGroupName=group.name)["InstanceRefreshes"][0]


@pytest.fixture(scope="module")
def region() -> Generator[Site]:
    health = TargetHealth()
    with serving() as endpoint, health.in_moto():
        yield from build(Account(endpoint, REGION), health)


def build(account: Account, health: TargetHealth) -> Generator[Site]:
    image(account)
    there = account.aws.ec2.describe_subnets()["Subnets"][:2]
    vpc, nets = there[0]["VpcId"], [each["SubnetId"] for each in there]
    own = account.aws.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    inputs = {
        "name": "n", "imageId": AMI, "instanceType": "t4g.small", "updateDefaultVersion": True,
        "userData": base64.b64encode(gzip.compress(b"#cloud-config\n{}")).decode(),
        "networkInterfaces": [{"deviceIndex": 0, "associatePublicIpAddress": "false", "securityGroups": [own]}],
        "tagSpecifications": [{"resourceType": "instance", "tags": {"Name": "n"}}],
    }  # fmt: skip
    template, state = account.create(TEMPLATE, inputs)
    assert account.update(TEMPLATE, template, state, inputs | {"instanceType": "t4g.medium"})["latestVersion"] == 2
    targets, _ = account.create(
        "aws:lb/targetGroup:TargetGroup",
        {"name": "t", "vpcId": vpc, "port": 8000, "protocol": "HTTP", "targetType": "instance",
         "deregistrationDelay": 0, "healthCheck": {"path": "/", "matcher": "200"}},
    )  # fmt: skip
    given = {"loadBalancerType": "application", "internal": False, "subnets": nets, "securityGroups": [own]}
    balancer, _ = account.create("aws:lb/loadBalancer:LoadBalancer", given)
    forward = [{"type": "forward", "targetGroupArn": targets}]
    listener = {"loadBalancerArn": balancer, "port": 80, "protocol": "HTTP", "defaultActions": forward}
    account.create("aws:lb/listener:Listener", listener)
    label = f"{balancer.partition('loadbalancer/')[2]}/{targets.rpartition(':')[2]}"
    # The clock of policies stands still but for what a test adds.
    hosts, groups, requests, now = Hosts(), Groups(account.aws), [0.0], [time.monotonic()]
    policies = Policies(
        account.aws, groups, requests=lambda _: requests[0], cpu_s=lambda _: 0.0, minute_s=MINUTE_S,
        clock=lambda: now[0],
    )  # fmt: skip
    refreshes = Refreshes(account.aws, groups, patience_s=LIMIT_S)
    scaling = Scaling(account.aws, groups, hosts, policies=policies, refreshes=refreshes, minute_s=MINUTE_S)
    calls = (groups.calls(), InstanceCalls(groups).calls(), policies.calls(), refreshes.calls())
    with added_to_moto(groups.lock, *calls):
        yield Site(account, groups, scaling, refreshes, hosts, health, nets, template, targets, label, requests, now)


@pytest.fixture
def site(region: Site) -> Generator[Site]:
    """Return the region; what a test made is gone after it."""
    yield region
    region.ill.clear()
    region.set_delay(0)
    region.hosts.off.clear()
    region.scaling.closed.clear()
    for group in region.groups.groups.values():
        group.is_deleting, group.desired, group.min = True, 0, 0
        for each in group.instances.values():
            each.protected = False
            group.leave(each, "the test is over", skips_hooks=True)
    end = time.monotonic() + LIMIT_S
    while region.groups.groups and time.monotonic() < end:
        region.scaling.look()
    assert region.hosts.there == set()


@pytest.mark.parametrize(
    ("type_", "inputs", "error"),
    [
        (GROUP, {"warmPool": {"minSize": 1}}, "warmPool"),
        (GROUP, {"launchTemplate": {"id": "lt-00000000000000000", "version": "1"}}, "InvalidLaunchTemplateId.NotFound"),
        (GROUP, {"vpcZoneIdentifiers": ["subnet-00000000"]}, "InvalidSubnetID.NotFound"),
        (GROUP, {"minSize": 5}, "Max bound, 4, must be greater"),
        (GROUP, {"desiredCapacity": 5}, "Desired capacity:5 must be between"),
        (GROUP, {"waitForCapacityTimeout": "10m"}, "capacity is waited for"),
        (GROUP, {"initialLifecycleHooks": [{"name": "h", "lifecycleTransition": "launch"}]}, "Invalid lifecycle tran"),
        (TEMPLATE, {"cpuOptions": {"coreCount": 2}}, "cpuOptions"),
        (TEMPLATE, {"imageId": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        (TEMPLATE, {"userData": base64.b64encode(bytes(16385)).decode()}, "16384 bytes"),
        ("aws:autoscaling/policy:Policy", {"autoscalingGroupName": "lost"}, "lost does not exist"),
    ],
)
def test_what_aws_or_nobody_knows_is_refused(site: Site, type_: str, inputs: dict[str, Any], error: str) -> None:
    def create() -> None:
        if type_ == GROUP:
            site.group(**inputs)
        else:
            site.account.create(type_, inputs | {"name": "other"})

    with pytest.raises(Exception, match=error):
        create()


def test_an_instance_takes_traffic_once_its_hook_is_completed(site: Site) -> None:
    group = site.group(LAUNCH)
    (id_,) = site.until(group, "Pending:Wait")
    assert site.targeted() == {}
    assert site.groups.metadata(id_, "meta-data/autoscaling/target-lifecycle-state") == "InService"
    assert site.hosts.there == {id_}
    site.complete(group, LAUNCH, id_)
    site.until(group, "InService")
    assert site.targeted() == {id_: "healthy"}
    with pytest.raises(ClientError, match="No active Lifecycle Action found with instance ID"):
        site.complete(group, LAUNCH, id_)
    found = site.account.aws.ec2.describe_instances(InstanceIds=[id_])["Reservations"][0]["Instances"][0]
    assert {each["Key"]: each["Value"] for each in found["Tags"]} == {
        "Name": "n", "aws:autoscaling:groupName": group.name, "aws:ec2launchtemplate:id": site.template,
        "aws:ec2launchtemplate:version": "1",
    }  # fmt: skip


@pytest.mark.parametrize("is_late", [False, True])
def test_an_instance_that_is_abandoned_or_late_is_replaced(site: Site, is_late: bool) -> None:
    group = site.group(LAUNCH)
    (id_,) = site.until(group, "Pending:Wait")
    if is_late:
        group.instances[id_].waiting[LAUNCH].until = 0
    else:
        site.complete(group, LAUNCH, id_, "ABANDON")
    (other,) = site.until(group, "Pending:Wait")
    assert other != id_
    assert site.hosts.there == {other}
    activities = site.api.describe_scaling_activities(AutoScalingGroupName=group.name)["Activities"]
    (why,) = [each["StatusMessage"] for each in activities if each["StatusCode"] == "Cancelled"]
    assert why.endswith("Heartbeat Timeout" if is_late else "Completed with ABANDON Result")


def test_who_goes_is_drained_before_its_hook_and_there_until_that_is_completed(site: Site) -> None:
    site.set_delay(DELAY_S)
    group = site.group(TERMINATE)
    (id_,) = site.until(group, "InService")
    site.api.set_desired_capacity(AutoScalingGroupName=group.name, DesiredCapacity=0)
    start_s = time.monotonic()
    site.until(group, "Terminating")
    assert site.groups.metadata(id_, "meta-data/autoscaling/target-lifecycle-state") == "Terminated"
    site.look(group)
    assert site.targeted() == {id_: "draining"}
    site.until(group, "Terminating:Wait")
    assert time.monotonic() - start_s > DELAY_S
    for _ in range(3):
        assert site.look(group) == ["Terminating:Wait"]
    assert site.hosts.there == {id_}
    site.complete(group, TERMINATE, id_)
    site.until(group)
    assert site.hosts.there == set()
    state = site.account.aws.ec2.describe_instances(InstanceIds=[id_])["Reservations"][0]["Instances"][0]["State"]
    assert state["Name"] == "terminated"


def test_scale_in_takes_the_oldest_of_the_fullest_zone_and_none_that_is_protected(site: Site) -> None:
    group = site.group(desiredCapacity=4, targetGroupArns=[])
    first, second, third, fourth = site.until(group, *["InService"] * 4)
    zones = [group.instances[each].zone[-1] for each in (first, second, third, fourth)]
    assert zones == ["a", "b", "a", "b"]
    site.api.set_instance_protection(
        AutoScalingGroupName=group.name, InstanceIds=[first, second], ProtectedFromScaleIn=True
    )
    site.api.set_desired_capacity(AutoScalingGroupName=group.name, DesiredCapacity=3)
    assert site.until(group, *["InService"] * 3) == [first, second, fourth]
    site.api.set_desired_capacity(AutoScalingGroupName=group.name, DesiredCapacity=0)
    assert site.until(group, *["InService"] * 2) == [first, second]
    with pytest.raises(ClientError, match="above max value 4"):
        site.api.set_desired_capacity(AutoScalingGroupName=group.name, DesiredCapacity=5)


def test_an_unhealthy_target_is_replaced_after_the_grace_and_a_dead_machine_at_once(site: Site) -> None:
    group = site.group(healthCheckGracePeriod=300, targetGroupArns=[site.targets])
    (id_,) = site.until(group, "InService")
    served_at = group.instances[id_].in_service_at
    site.ill.add(id_)
    other = site.replacement(group, id_)
    assert time.monotonic() > served_at + 300 * MINUTE_S / 60
    site.hosts.off.add(other)
    site.scaling.forget_machines(switched_off_for_s=60)
    site.replacement(group, other)


def test_an_instance_in_standby_counts_no_more_and_one_that_is_detached_stays(site: Site) -> None:
    group = site.group(desiredCapacity=2)
    one, two = site.until(group, "InService", "InService")
    asked: dict[str, Any] = {"AutoScalingGroupName": group.name, "InstanceIds": [one]}
    site.api.enter_standby(**asked, ShouldDecrementDesiredCapacity=True)
    site.until(group, "Standby", "InService")
    assert site.shown(group)["DesiredCapacity"] == 1
    assert site.targeted() == {two: "healthy"}
    site.api.exit_standby(**asked)
    site.until(group, "InService", "InService")
    site.api.detach_instances(**asked, ShouldDecrementDesiredCapacity=True)
    assert site.until(group, "InService") == [two]
    assert site.hosts.there == {one, two}
    site.hosts.there.discard(one)


def test_a_zone_without_machines_is_avoided_and_the_activities_say_so(site: Site) -> None:
    site.scaling.closed.add(f"{REGION}a")
    group = site.group(desiredCapacity=2)
    site.until(group, "InService", "InService")
    assert {each.zone for each in group.instances.values()} == {f"{REGION}b"}
    output = site.api.describe_scaling_activities(AutoScalingGroupName=group.name)["Activities"]
    assert (
        "InsufficientInstanceCapacity"
        in next(each for each in output if each["StatusCode"] == "Failed")["StatusMessage"]
    )


def test_a_spot_notice_is_in_the_metadata_and_has_the_group_replace_the_instance_at_once(site: Site) -> None:
    mixed = {
        "launchTemplate": {
            "launchTemplateSpecification": {"launchTemplateId": site.template, "version": "1"},
            "overrides": [{"instanceType": "t4g.large"}],
        },
        "instancesDistribution": {"onDemandBaseCapacity": 0, "onDemandPercentageAboveBaseCapacity": 0},
    }
    group = site.group(launchTemplate=None, mixedInstancesPolicy=mixed, capacityRebalance=True)
    (id_,) = site.until(group, "InService")
    found = site.account.aws.ec2.describe_instances(InstanceIds=[id_])["Reservations"][0]["Instances"][0]
    assert (found["InstanceLifecycle"], found["InstanceType"]) == ("spot", "t4g.large")
    site.scaling.interrupt(id_)
    assert '"action": "terminate"' in site.groups.metadata(id_, "meta-data/spot/instance-action")
    site.until(group, "Terminating", "Pending")
    site.replacement(group, id_)


def start(site: Site, group: Group, **preferences: Any) -> None:
    """Start a refresh to version 2 of the template."""
    site.api.start_instance_refresh(
        AutoScalingGroupName=group.name,
        Strategy="Rolling",
        DesiredConfiguration={"LaunchTemplate": {"LaunchTemplateId": site.template, "Version": "2"}},
        Preferences={"MinHealthyPercentage": 100, "MaxHealthyPercentage": 110, "SkipMatching": True, **preferences},
    )


def versions(group: Group) -> list[str]:
    return [each.template["Version"] for each in group.instances.values()]


def test_a_refresh_launches_before_it_terminates_and_then_the_group_has_the_version(site: Site) -> None:
    group = site.group(desiredCapacity=2)
    site.until(group, "InService", "InService")
    start(site, group)
    site.until(group, "InService", "InService", "Pending")
    with pytest.raises(ClientError, match="InstanceRefreshInProgress"):
        start(site, group)
    percents: list[int] = []
    ends_at = time.monotonic() + LIMIT_S
    while site.refresh(group)["Status"] == "InProgress" and time.monotonic() < ends_at:
        serving_ = [each for each in site.look(group) if each == "InService"]
        assert len(serving_) >= 2
        percents.append(site.refresh(group)["PercentageComplete"])
    assert site.refresh(group)["Status"] == "Successful"
    assert sorted(set(percents)) == [0, 50, 100]
    site.until(group, "InService", "InService")
    assert versions(group) == ["2", "2"]
    assert site.shown(group)["LaunchTemplate"]["Version"] == "2"


def test_a_refresh_to_what_never_serves_goes_back_by_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    group = site.group(LAUNCH, desiredCapacity=1)
    (id_,) = site.until(group, "Pending:Wait")
    site.complete(group, LAUNCH, id_)
    site.until(group, "InService")
    start(site, group, AutoRollback=True)
    site.until(group, "InService", "Pending:Wait")
    assert versions(group) == ["1", "2"]
    monkeypatch.setattr(site.refreshes, "patience_s", 0)
    site.look(group)
    monkeypatch.undo()
    site.until(group, "InService")
    found = site.refresh(group)
    assert (found["Status"], versions(group)) == ("RollbackSuccessful", ["1"])
    assert "is not ready" in found["StatusReason"]
    assert site.shown(group)["LaunchTemplate"]["Version"] == "1"


@pytest.mark.parametrize(("call", "status"), [("cancel", "Cancelled"), ("rollback", "RollbackSuccessful")])
def test_a_refresh_that_is_stopped_keeps_or_takes_back_what_it_did(site: Site, call: str, status: str) -> None:
    group = site.group(desiredCapacity=2, targetGroupArns=[])
    site.until(group, "InService", "InService")
    start(site, group)
    ends_at = time.monotonic() + LIMIT_S
    while "2" not in [each.template["Version"] for each in group.instances.values() if each.state == "InService"]:
        site.look(group)
        assert time.monotonic() < ends_at
    getattr(site.api, f"{call}_instance_refresh")(AutoScalingGroupName=group.name)
    while site.refresh(group)["Status"] != status:
        site.look(group)
        assert time.monotonic() < ends_at, site.refresh(group)
    site.until(group, "InService", "InService")
    assert set(versions(group)) == ({"1", "2"} if call == "cancel" else {"1"})


def track(site: Site, group: Group, target: float, label: str) -> None:
    metric = {"predefinedMetricType": "ALBRequestCountPerTarget", "resourceLabel": label}
    site.account.create(
        "aws:autoscaling/policy:Policy",
        {"name": "p", "autoscalingGroupName": group.name, "policyType": "TargetTrackingScaling",
         "targetTrackingConfiguration": {"targetValue": target, "predefinedMetricSpecification": metric}},
    )  # fmt: skip


def test_a_policy_adds_what_is_missing_after_three_minutes_and_takes_one_away_after_fifteen(site: Site) -> None:
    group = site.group(desiredCapacity=1)
    site.until(group, "InService")
    with pytest.raises(ClientError, match="no target group of"):
        track(site, group, 100, site.label.replace("app/", "app/other-"))
    track(site, group, 100, site.label)
    # The first minute has nothing to compare with.
    assert minutes(site, group, 4, requests=350) == [1, 1, 1, 4]
    site.until(group, *["InService"] * 4)
    # All are warm.
    site.now[0] = math.ceil(time.monotonic())
    assert minutes(site, group, 15, requests=40) == [4] * 14 + [3]


def minutes(site: Site, group: Group, number: int, requests: float) -> list[int]:
    """Let minutes pass; return the desired capacity at the end of each. requests: of a minute."""
    found: list[int] = []
    for _ in range(number):
        site.now[0] += MINUTE_S
        site.requests[0] += requests * MINUTE_S / 60
        site.look(group)
        found.append(group.desired)
    return found


def test_a_group_is_deleted_once_it_is_empty(site: Site) -> None:
    group = site.group(desiredCapacity=2, targetGroupArns=[])
    ids = site.until(group, "InService", "InService")
    site.api.set_instance_protection(AutoScalingGroupName=group.name, InstanceIds=ids, ProtectedFromScaleIn=True)
    with pytest.raises(ClientError, match="ResourceInUse"):
        site.api.delete_auto_scaling_group(AutoScalingGroupName=group.name)
    with site.scaling.running():
        drain(site.account.aws, group.name, within_s=LIMIT_S)
    site.account.delete(GROUP, group.name, {})
    assert site.groups.groups == {}
    assert site.hosts.there == set()
