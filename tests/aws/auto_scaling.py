"""Auto Scaling as resources: groups, lifecycle hooks, policies, scheduled actions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tests.aws.kind import LOCAL, Clients, Kind, Property, first, in_place, pascal, same

GROUP = "aws:autoscaling/group:Group"
# As long as fleet.capacity gives the provider for a group that is deleted.
DRAIN_S = 45 * 60.0
SPECIFICATION = {"id": "LaunchTemplateId", "name": "LaunchTemplateName", "version": "Version"}


def _find_group(aws: Clients, name: str) -> dict[str, Any]:
    """Return a group as AWS shows it. Raises LookupError."""
    there = aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    return first(there, name)


def _template(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return {id, version} as a LaunchTemplateSpecification."""
    return {SPECIFICATION[key]: value for key, value in given.items()}


def _hooks(given: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = pascal(given)
    return [{"LifecycleHookName": each.pop("Name"), **each} for each in every]


def _group_tags(name: str, given: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**pascal(each), "ResourceId": name, "ResourceType": "auto-scaling-group"} for each in given]


def _create_group(aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
    if inputs.get("waitForCapacityTimeout") != "0":
        raise NotImplementedError("a group whose capacity is waited for")
    name = str(asked["AutoScalingGroupName"])
    asked["Tags"] = _group_tags(name, inputs.get("tags", []))
    aws.autoscaling.create_auto_scaling_group(**asked)
    return name


def drain(aws: Clients, name: str, within_s: float = DRAIN_S) -> None:
    """Take all instances out of a group, as the provider does before it deletes one. Raises TimeoutError."""
    call = aws.autoscaling
    if not call.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]:
        return
    call.update_auto_scaling_group(AutoScalingGroupName=name, MinSize=0, MaxSize=0, DesiredCapacity=0)
    end = time.monotonic() + within_s
    while there := _find_group(aws, name)["Instances"]:
        for each in there:
            if each["ProtectedFromScaleIn"] and each["LifecycleState"] == "InService":
                call.set_instance_protection(
                    AutoScalingGroupName=name, InstanceIds=[each["InstanceId"]], ProtectedFromScaleIn=False
                )
        if time.monotonic() > end:
            raise TimeoutError(f"{name}: {len(there)} instances are left after {within_s:.0f} s: {there}")
        time.sleep(1)


def _part(
    singular: str,
    plural: str,
    properties: Mapping[str, Property],
    *,
    put: str,
    listed: str,
    named: tuple[str, str, str],
) -> Kind:
    """Return the type of something that a group has several of; one call makes and changes it, its id is its name.

    named: the property that names it, the parameter of one name, and that of several. listed: key of the answer.
    """
    property_, parameter, parameters = named

    def create(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
        getattr(aws.autoscaling, put)(**{key: value for key, value in asked.items() if value is not None})
        return str(asked[parameter])

    def look(aws: Clients, id_: str, state: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = {"AutoScalingGroupName": state["autoscalingGroupName"], parameters: [id_]}
        found = first(getattr(aws.autoscaling, f"describe_{plural}")(**asked)[listed], id_)
        return {"arn": found["PolicyARN"]} if "PolicyARN" in found else {}

    def delete(aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        # A group takes what it has with it.
        _find_group(aws, state["autoscalingGroupName"])
        look(aws, id_, state)
        asked = {"AutoScalingGroupName": state["autoscalingGroupName"], parameter: id_}
        getattr(aws.autoscaling, f"delete_{singular}")(**asked)

    group = Property("AutoScalingGroupName", refers="auto scaling group")
    return Kind(
        properties={property_: Property(parameter), "autoscalingGroupName": group, **properties},
        identity=frozenset({property_, "autoscalingGroupName"}),
        named_by=property_,
        create=create,
        look=look,
        delete=delete,
        retag=None,
    )


KINDS: Mapping[str, Kind] = {
    GROUP: Kind(
        named_by="name",
        properties={
            "name": Property("AutoScalingGroupName"),
            **same("minSize", "maxSize", "healthCheckType", "healthCheckGracePeriod", change=in_place),
            **same("defaultInstanceWarmup", "capacityRebalance", change=in_place),
            "vpcZoneIdentifiers": Property("VPCZoneIdentifier", ",".join, change=in_place),
            "targetGroupArns": Property("TargetGroupARNs", change=in_place, refers="target group"),
            "launchTemplate": Property("LaunchTemplate", _template, change=in_place),
            "mixedInstancesPolicy": Property("MixedInstancesPolicy", pascal, change=in_place),
            # The provider reads them when it creates a group, and never again.
            "initialLifecycleHooks": Property("LifecycleHookSpecificationList", _hooks, change=in_place),
            "enabledMetrics": Property(
                change=lambda aws, id_, value, _: aws.autoscaling.enable_metrics_collection(
                    AutoScalingGroupName=id_, Metrics=value, Granularity="1Minute"
                )
            ),
            # The call that creates has them.
            "tags": LOCAL,
            "waitForCapacityTimeout": LOCAL,
        },
        create=_create_group,
        look=lambda aws, id_, _: {"arn": _find_group(aws, id_)["AutoScalingGroupARN"]},
        delete=lambda aws, id_, _: aws.autoscaling.delete_auto_scaling_group(
            AutoScalingGroupName=_find_group(aws, id_)["AutoScalingGroupName"]
        ),
        retag=None,
    ),
    "aws:autoscaling/policy:Policy": _part(
        "policy",
        "policies",
        {**same("policyType"), "targetTrackingConfiguration": Property("TargetTrackingConfiguration", pascal)},
        put="put_scaling_policy",
        listed="ScalingPolicies",
        named=("name", "PolicyName", "PolicyNames"),
    ),
    "aws:autoscaling/schedule:Schedule": _part(
        "scheduled_action",
        "scheduled_actions",
        {
            **same("recurrence", "timeZone", "minSize", "maxSize"),
            # -1: it stays.
            "desiredCapacity": Property("DesiredCapacity", lambda value: None if value == -1 else value),
        },
        put="put_scheduled_update_group_action",
        listed="ScheduledUpdateGroupActions",
        named=("scheduledActionName", "ScheduledActionName", "ScheduledActionNames"),
    ),
}
