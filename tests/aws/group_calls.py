"""The calls of Auto Scaling about groups. What is asked changes what is kept; tests/aws/scaling.py follows it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping

from tests.aws.kind import Clients
from tests.aws.launch_template import resolve
from tests.aws.scaling_calls import NAME, Calls, Given, Refused, show_activity, show_group
from tests.aws.scaling_group import LAUNCHING, TERMINATING, Group, Hook, Instance

CAPACITY = "MinSize MaxSize DesiredCapacity"
SETTINGS = (
    "LaunchTemplate MixedInstancesPolicy VPCZoneIdentifier HealthCheckType HealthCheckGracePeriod CapacityRebalance"
    " DefaultInstanceWarmup"
)
HOOK = "LifecycleHookName LifecycleTransition HeartbeatTimeout DefaultResult"
DISTRIBUTION = {
    "OnDemandBaseCapacity", "OnDemandPercentageAboveBaseCapacity", "SpotAllocationStrategy",
    "OnDemandAllocationStrategy",
}  # fmt: skip


class Groups:
    """The groups of an account in a region. Safe for threads that hold `lock` while they look at groups."""

    def __init__(self, aws: Clients, account: str = "123456789012") -> None:
        self._aws, self._account = aws, account
        self.lock = threading.RLock()
        self.groups: dict[str, Group] = {}

    def find(self, given: Given) -> Group:
        """Return the group that a call is about. Raises Refused."""
        if given[NAME] not in self.groups:
            raise Refused(f"AutoScalingGroup name not found - AutoScalingGroup '{given[NAME]}' not found")
        return self.groups[given[NAME]]

    def arn(self, asked: Mapping[str, str]) -> str:
        """Return the ARN of the group that a call is about, by its name or an instance; of no group for another."""
        with self.lock:
            for name, group in self.groups.items():
                if asked.get(NAME) == name or (NAME not in asked and asked.get("InstanceId") in group.instances):
                    return group.arn
        return "arn:aws:autoscaling:::autoScalingGroup:none"

    def metadata(self, id_: str, path: str) -> str:
        """Return what an instance finds at that path of its metadata; "" where there is nothing."""
        with self.lock:
            found = [group.instances[id_] for group in self.groups.values() if id_ in group.instances]
            for each in found:
                return {
                    "meta-data/autoscaling/target-lifecycle-state": each.target,
                    "meta-data/spot/instance-action": each.spot_action,
                }.get(path, "")
        return ""

    def find_instance(self, id_: str) -> tuple[Group, Instance]:
        """Return an instance and its group. Raises Refused."""
        for group in self.groups.values():
            if id_ in group.instances:
                return group, group.instances[id_]
        raise Refused(f"Instance Id not found - No managed instance found for instance ID: {id_}")

    def calls(self) -> Calls:
        """Return the calls of which this is the model."""
        return {
            "create_auto_scaling_group": (
                self._create, f"{NAME} {CAPACITY} {SETTINGS} TargetGroupARNs LifecycleHookSpecificationList Tags",
            ),
            "update_auto_scaling_group": (self._update, f"{NAME} {CAPACITY}"),
            "delete_auto_scaling_group": (self._delete, NAME),
            "describe_auto_scaling_groups": (self._describe, "AutoScalingGroupNames MaxRecords NextToken"),
            "describe_scaling_activities": (self._describe_activities, f"{NAME} MaxRecords NextToken"),
            "set_desired_capacity": (self._set_desired, f"{NAME} DesiredCapacity HonorCooldown"),
            "enable_metrics_collection": (self._enable_metrics, f"{NAME} Metrics Granularity"),
        }  # fmt: skip

    def _create(self, given: Given) -> None:
        name = str(given[NAME])
        if name in self.groups:
            raise Refused(f"AutoScalingGroup by this name already exists - {name}", "AlreadyExists")
        kept = {key: given[key] for key in [*SETTINGS.split(), "TargetGroupARNs"] if key in given}
        self.check(kept)
        least, most = int(given["MinSize"]), int(given["MaxSize"])
        here = f"arn:aws:autoscaling:{self._aws.region}:{self._account}:autoScalingGroup"
        group = Group(
            name, f"{here}:{uuid.uuid4()}:autoScalingGroupName/{name}", kept, least, most,
            int(given.get("DesiredCapacity", least)), tags=list(given.get("Tags", ())),
        )  # fmt: skip
        _check_capacity(group)
        for each in given.get("LifecycleHookSpecificationList", ()):
            if strange := each.keys() - set(HOOK.split()):
                raise Refused(f"the stand-in knows no hook with {', '.join(sorted(strange))}")
            group.hooks[each["LifecycleHookName"]] = make_hook(each)
        self.groups[name] = group

    def check(self, kept: Given) -> None:
        """Raise Refused, or the error of AWS, unless what the settings of a group name is there."""
        if ("LaunchTemplate" in kept) == ("MixedInstancesPolicy" in kept):
            raise Refused("Valid requests must contain either LaunchTemplate or MixedInstancesPolicy")
        for each in template_and_types(kept)[1]:
            self._aws.ec2.describe_instance_types(InstanceTypes=[each])
        resolve(self._aws, template_and_types(kept)[0])
        subnets = str(kept["VPCZoneIdentifier"]).split(",")
        self._aws.ec2.describe_subnets(SubnetIds=subnets)
        for arn in kept.get("TargetGroupARNs", ()):
            self._aws.elbv2.describe_target_groups(TargetGroupArns=[arn])
        if kept.get("HealthCheckType", "EC2") not in ("EC2", "ELB"):
            raise Refused(f"Invalid health check type: {kept['HealthCheckType']}")

    def _update(self, given: Given) -> None:
        group = self.find(given)
        least, most = int(given.get("MinSize", group.min)), int(given.get("MaxSize", group.max))
        desired = int(given.get("DesiredCapacity", min(max(group.desired, least), most)))
        _check_capacity(Group(group.name, "", {}, least, most, desired))
        group.min, group.max, group.desired = least, most, desired

    def _delete(self, given: Given) -> None:
        group = self.find(given)
        if group.instances:
            raise Refused("You cannot delete an AutoScalingGroup while there are instances", "ResourceInUse")
        del self.groups[group.name]

    def _describe(self, given: Given) -> Given:
        asked = given.get("AutoScalingGroupNames") or list(self.groups)
        return {"AutoScalingGroups": [show_group(self.groups[name]) for name in asked if name in self.groups]}

    def _describe_activities(self, given: Given) -> Given:
        group = self.find(given)
        return {"Activities": [show_activity(group, each) for each in group.activities[: given.get("MaxRecords", 100)]]}

    def _set_desired(self, given: Given) -> None:
        group, desired = self.find(given), int(given["DesiredCapacity"])
        if not group.min <= desired <= group.max:
            how = f"below min value {group.min}" if desired < group.min else f"above max value {group.max}"
            raise Refused(f"New SetDesiredCapacity value {desired} is {how} for the AutoScalingGroup.")
        group.desired = desired

    def _enable_metrics(self, given: Given) -> None:
        self.find(given).metrics |= set(given["Metrics"])


def template_and_types(configuration: Given) -> tuple[Given, list[str]]:
    """Return the LaunchTemplateSpecification of a configuration, and the types named besides. Raises Refused."""
    if "MixedInstancesPolicy" not in configuration:
        return configuration["LaunchTemplate"], []
    policy = configuration["MixedInstancesPolicy"]
    if strange := policy.get("InstancesDistribution", {}).keys() - DISTRIBUTION:
        raise Refused(f"the stand-in knows no InstancesDistribution with {', '.join(sorted(strange))}")
    overrides: list[Given] = policy["LaunchTemplate"].get("Overrides", [])
    if strange := {key for each in overrides for key in each} - {"InstanceType"}:
        raise Refused(f"the stand-in knows no override with {', '.join(sorted(strange))}")
    return policy["LaunchTemplate"]["LaunchTemplateSpecification"], [each["InstanceType"] for each in overrides]


def make_hook(given: Given) -> Hook:
    """Return a hook as a call describes it. Raises Refused."""
    if given["LifecycleTransition"] not in (LAUNCHING, TERMINATING):
        raise Refused(f"Invalid lifecycle transition: {given['LifecycleTransition']}")
    heartbeat = int(given.get("HeartbeatTimeout", 3600))
    if not 30 <= heartbeat <= 7200:
        raise Refused("HeartbeatTimeout must be between 30 and 7200 seconds")
    default = given.get("DefaultResult", "ABANDON")
    return Hook(given["LifecycleHookName"], given["LifecycleTransition"], heartbeat, default)


def _check_capacity(group: Group) -> None:
    if not 0 <= group.min <= group.max:
        raise Refused(f"Max bound, {group.max}, must be greater than or equal to min bound, {group.min}")
    if not group.min <= group.desired <= group.max:
        bounds = f"the specified min size:{group.min} and max size:{group.max}"
        raise Refused(f"Desired capacity:{group.desired} must be between {bounds}")
