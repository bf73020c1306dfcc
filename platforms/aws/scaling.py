"""EC2 Auto Scaling from the operator's side: which instances a group has, and to leave some alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

from platforms.aws.client import client, convert_errors
from platforms.aws.elb import Elb
from platforms.server_group import Member, Phase, ServerGroupError

# What one call takes (API_SetInstanceProtection).
PROTECTED_PER_CALL = 50
# Values of one filter (API_DescribeInstances).
VALUES_PER_FILTER = 200
_PHASES = {
    "Pending:Wait": Phase.WAITING,
    "InService": Phase.SERVING,
    "EnteringStandby": Phase.STANDBY,
    "Standby": Phase.STANDBY,
}


class ScalingGroup:
    """Implements platforms.server_group.ServerGroup.

    target_group: ARN of what its instances are registered in; None where a balancer of the stack's own asks the group.
    """

    def __init__(self, region: str, name: str, target_group: str | None) -> None:
        self.name, self._region = name, region
        self._target_group, self._elb = target_group, Elb(region)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> ScalingGroup:
        """Return the group of a ServerGroup.spec."""
        return cls(spec["region"], spec["name"], spec.get("group"))

    def minimum(self) -> int:
        """Implement ServerGroup.minimum: schedules may have changed it."""
        with convert_errors(ServerGroupError):
            return int(self._group().get("MinSize", 0))

    def members(self) -> list[Member]:
        """Implement ServerGroup.members: ask the group for its instances, and EC2 for their addresses."""
        with convert_errors(ServerGroupError):
            states = {str(each["InstanceId"]): str(each["LifecycleState"]) for each in self._instances()}
            addresses = self._addresses(states)
        return [
            Member(id_, addresses.get(id_, ""), _phase(state if id_ in addresses else "Terminated"))
            for id_, state in sorted(states.items())
        ]

    def healthy(self) -> set[str]:
        """Implement ServerGroup.healthy: ask the load balancer; without one, the group which it has in service."""
        with convert_errors(ServerGroupError):
            if self._target_group is None:
                return self._in_service()
            return {id_ for id_, (state, _) in self._elb.health(self._target_group).items() if state == "healthy"}

    def protect(self, ids: Collection[str], *, on: bool) -> None:
        """Implement ServerGroup.protect: protect from scale-in those that are in service, which alone can be."""
        with convert_errors(ServerGroupError):
            chosen = sorted(self._in_service() & {*ids})
            for start in range(0, len(chosen), PROTECTED_PER_CALL):
                self._protect(chosen[start : start + PROTECTED_PER_CALL], on=on)

    def stand_by(self, id_: str, *, on: bool) -> None:
        """Implement ServerGroup.stand_by. If the group is at its minimum, it launches a replacement."""
        names = {"InstanceIds": [id_], "AutoScalingGroupName": self.name}
        with convert_errors(ServerGroupError):
            if on:
                group = self._group()
                spare = int(group["DesiredCapacity"]) > int(group["MinSize"])
                self.client.enter_standby(ShouldDecrementDesiredCapacity=spare, **names)
            else:
                self.client.exit_standby(**names)

    def replace(self, id_: str) -> None:
        """Implement ServerGroup.replace."""
        with convert_errors(ServerGroupError):
            self.client.set_instance_health(InstanceId=id_, HealthStatus="Unhealthy", ShouldRespectGracePeriod=False)

    def last_problem(self) -> str:
        """Implement ServerGroup.last_problem: the newest activity that failed."""
        with convert_errors(ServerGroupError):
            found = self.client.describe_scaling_activities(AutoScalingGroupName=self.name, MaxRecords=10)
        failed = [each for each in found["Activities"] if each["StatusCode"] in ("Failed", "Cancelled")]
        return " ".join(str(failed[0].get("StatusMessage", "")).split()) if failed else ""

    @cached_property
    def client(self) -> Any:
        """Return the client, made once it is needed."""
        return client("autoscaling", self._region)

    @cached_property
    def ec2(self) -> Any:
        """Return the client of EC2, made once it is needed."""
        return client("ec2", self._region)

    def _group(self) -> dict[str, Any]:
        found = self.client.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]
        return dict(found[0]) if found else {}

    def _instances(self) -> list[Any]:
        return list(self._group().get("Instances", ()))

    def _in_service(self) -> set[str]:
        return {str(each["InstanceId"]) for each in self._instances() if each["LifecycleState"] == "InService"}

    def _addresses(self, ids: Collection[str]) -> dict[str, str]:
        """Return instance -> address of existing instances. With a filter, a missing id is no error."""
        instances, chosen = list[Any](), sorted(ids)
        for start in range(0, len(chosen), VALUES_PER_FILTER):
            filters = [{"Name": "instance-id", "Values": chosen[start : start + VALUES_PER_FILTER]}]
            pages = self.ec2.get_paginator("describe_instances").paginate(Filters=filters)
            instances += [each for page in pages for found in page["Reservations"] for each in found["Instances"]]
        # One that ends has no address any more.
        return {
            str(each["InstanceId"]): str(each.get("PrivateIpAddress", ""))
            for each in instances
            if each["State"]["Name"] in ("pending", "running")
        }

    def _protect(self, ids: Collection[str], *, on: bool) -> None:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        options = {"AutoScalingGroupName": self.name, "ProtectedFromScaleIn": on}
        try:
            self.client.set_instance_protection(InstanceIds=list(ids), **options)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            if len(ids) == 1:
                return
            # One of them went meanwhile, and AWS then takes none.
            for id_ in ids:
                self._protect([id_], on=on)


def _phase(state: str) -> Phase:
    """Return the phase of a lifecycle state (Amazon EC2 Auto Scaling User Guide, instance lifecycle)."""
    if state in _PHASES:
        return _PHASES[state]
    return Phase.STARTING if state.startswith("Pending") else Phase.LEAVING
