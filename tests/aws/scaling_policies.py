"""Scaling policies that track a target, and scheduled actions.

A metric above its target for 3 minutes adds what is missing at once; one below 90 % of it for 15 minutes takes one
instance away, as long as no other policy is against it. A minute is as long as the session says.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping

from tests.aws.group_calls import CAPACITY, Groups
from tests.aws.kind import Clients
from tests.aws.scaling_calls import NAME, Calls, Given, Refused
from tests.aws.scaling_group import Group, Policy

REQUESTS, CPU = "ALBRequestCountPerTarget", "ASGAverageCPUUtilization"
OUT_AFTER, IN_AFTER, IN_BELOW = 3, 15, 0.9
ACTION = f"{NAME} ScheduledActionName {CAPACITY} Recurrence StartTime EndTime TimeZone"


class Policies:
    """The policies and schedules of all groups.

    requests: how many a target group has answered so far, by its ARN. cpu_s: how long an instance's CPU has worked.
    """

    def __init__(
        self,
        aws: Clients,
        groups: Groups,
        *,
        requests: Callable[[str], float],
        cpu_s: Callable[[str], float],
        minute_s: float,
    ) -> None:
        self._aws, self._groups, self._minute_s = aws, groups, minute_s
        self._requests, self._cpu_s = requests, cpu_s
        self._policies: dict[tuple[str, str], Policy] = {}
        self._schedules: dict[tuple[str, str], Given] = {}

    def calls(self) -> Calls:
        """Return the calls of which this is the model."""
        return {
            "put_scaling_policy": (
                self._put, f"{NAME} PolicyName PolicyType TargetTrackingConfiguration",
            ),
            "describe_policies": (self._describe, f"{NAME} PolicyNames"),
            "delete_policy": (self._delete, f"{NAME} PolicyName"),
            "put_scheduled_update_group_action": (self._schedule, ACTION),
            "describe_scheduled_actions": (self._describe_schedules, f"{NAME} ScheduledActionNames"),
            "delete_scheduled_action": (self._unschedule, f"{NAME} ScheduledActionName"),
        }  # fmt: skip

    def _put(self, given: Given) -> Given:
        group = self._groups.find(given)
        if given.get("PolicyType") != "TargetTrackingScaling":
            raise Refused(f"the stand-in knows no policy of type {given.get('PolicyType', 'SimpleScaling')}")
        tracked: Given = given["TargetTrackingConfiguration"]
        if strange := tracked.keys() - {"TargetValue", "PredefinedMetricSpecification"}:
            raise Refused(f"the stand-in tracks no target with {', '.join(sorted(strange))}")
        metric = tracked["PredefinedMetricSpecification"]
        if metric["PredefinedMetricType"] == REQUESTS:
            self._target_group(group, metric.get("ResourceLabel", ""))
        elif metric["PredefinedMetricType"] != CPU:
            raise Refused(f"the stand-in knows no metric {metric['PredefinedMetricType']}")
        here = f"{group.arn.rpartition(':autoScalingGroup:')[0]}:scalingPolicy:{uuid.uuid4()}"
        arn = f"{here}:autoScalingGroupName/{group.name}:policyName/{given['PolicyName']}"
        self._policies[group.name, given["PolicyName"]] = Policy(group.name, given["PolicyName"], arn, tracked)
        return {"PolicyARN": arn}

    def _target_group(self, group: Group, label: str) -> str:
        """Return the ARN of the target group that a ResourceLabel names. Raises Refused."""
        balancer, _, suffix = label.partition("/targetgroup/")
        for arn in group.target_groups:
            if arn.endswith(f":targetgroup/{suffix}"):
                found = self._aws.elbv2.describe_target_groups(TargetGroupArns=[arn])["TargetGroups"][0]
                if any(each.endswith(f":loadbalancer/{balancer}") for each in found["LoadBalancerArns"]):
                    return arn
        raise Refused(f"ResourceLabel {label}: no target group of {group.name} is attached to that load balancer")

    def _describe(self, given: Given) -> Given:
        expected, names = given[NAME], given["PolicyNames"]
        return {
            "ScalingPolicies": [
                {
                    NAME: each.group,
                    "PolicyName": each.name,
                    "PolicyARN": each.arn,
                    "PolicyType": "TargetTrackingScaling",
                    "TargetTrackingConfiguration": each.target_tracking,
                    "Enabled": True,
                }
                for each in self._policies.values()
                if each.group == expected and each.name in names
            ]
        }

    def _delete(self, given: Given) -> None:
        if not self._policies.pop((given[NAME], given["PolicyName"]), None):
            raise Refused(f"No scaling policy found with name {given['PolicyName']}")

    def _schedule(self, given: Given) -> None:
        self._groups.find(given)
        if not {"Recurrence", "StartTime"} & given.keys() or not set(CAPACITY.split()) & given.keys():
            raise Refused("a time or a recurrence, and a size are required")
        if "Recurrence" in given and len(given["Recurrence"].split()) != 5:
            raise Refused("Given recurrence string is invalid")
        self._schedules[given[NAME], given["ScheduledActionName"]] = given

    def _describe_schedules(self, given: Given) -> Given:
        expected, names = given[NAME], given["ScheduledActionNames"]
        found = [given for (group, name), given in self._schedules.items() if group == expected and name in names]
        return {"ScheduledUpdateGroupActions": [dict(each) for each in found]}

    def _unschedule(self, given: Given) -> None:
        if not self._schedules.pop((given[NAME], given["ScheduledActionName"]), None):
            raise Refused(f"No scheduled action found with name {given['ScheduledActionName']}")

    def step(self, health: Mapping[tuple[str, str], str]) -> None:
        """Measure where a minute is over, and scale. health: (ARN of a target group, instance) -> state."""
        for key in [key for key in self._policies if key[0] not in self._groups.groups]:
            del self._policies[key]
        for key in [key for key in self._schedules if key[0] not in self._groups.groups]:
            del self._schedules[key]
        for group in self._groups.groups.values():
            own = [each for each in self._policies.values() if each.group == group.name]
            measured = [each for each in own if self._measure(group, each, health)]
            if measured:
                self._scale(group, own)

    def _measure(self, group: Group, policy: Policy, health: Mapping[tuple[str, str], str]) -> bool:
        """Add a value to the policy's data, if a minute is over; return whether it was."""
        now = time.monotonic()
        start_s, before = policy.counted
        elapsed = now - start_s
        if elapsed < self._minute_s:
            return False
        metric = policy.target_tracking["PredefinedMetricSpecification"]
        value = None
        if metric["PredefinedMetricType"] == REQUESTS:
            arn = self._target_group(group, metric["ResourceLabel"])
            counted = {arn: self._requests(arn)}
            targets = sum(state == "healthy" for (of, _), state in health.items() if of == arn)
            if arn in before and targets:
                value = (counted[arn] - before[arn]) * 60 / elapsed / targets
        else:
            there = [each.id for each in group.instances.values() if each.state == "InService"]
            counted = {id_: self._cpu_s(id_) for id_ in there}
            if both := counted.keys() & before.keys():
                value = sum(counted[id_] - before[id_] for id_ in both) * 100 / elapsed / len(both)
        policy.counted = now, counted
        if value is None:
            # CloudWatch has no data.
            policy.data.clear()
            return False
        policy.data.append(value)
        return True

    def _scale(self, group: Group, policies: list[Policy]) -> None:
        there = [each for each in group.instances.values() if each.state == "InService"]
        warmup_s = group.settings.get("DefaultInstanceWarmup", 0) * self._minute_s / 60
        cold = [each for each in group.staying() if time.monotonic() < each.in_service_at + warmup_s]
        number = max(len([each for each in there if each not in cold]), 1)
        expected: dict[Policy | str, int] = {}
        agreed: list[bool] = []
        for each in policies:
            target = float(each.target_tracking["TargetValue"])
            last, long = each.data[-OUT_AFTER:], each.data[-IN_AFTER:]
            if len(last) == OUT_AFTER and min(last) > target:
                expected[each.name] = math.ceil(number * last[-1] / target)
            enough = math.ceil(number * long[-1] / target) if long else group.desired
            agreed.append(len(long) == IN_AFTER and max(long) < IN_BELOW * target and enough < group.desired)
        desired = group.desired
        if expected:
            desired = max(*expected.values(), group.desired)
        elif agreed and all(agreed) and not cold:
            desired = group.desired - 1
        self._set(group, min(max(desired, group.min), group.max))

    def _set(self, group: Group, desired: int) -> None:
        if desired == group.desired:
            return
        cause = f"a monitor alarm TargetTracking-{group.name} in state ALARM triggered a policy"
        cause += f" changing the desired capacity from {group.desired} to {desired}"
        group.note("Setting the desired capacity", cause).end()
        group.desired = desired
