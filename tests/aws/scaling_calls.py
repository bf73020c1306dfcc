"""How the calls of Auto Scaling are taken in place of moto's, whose groups are full at once; and what they show."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, cast
from unittest import mock

from botocore.exceptions import ClientError

from tests.aws.scaling_group import Activity, Group, Instance

Given = Mapping[str, Any]
# Action -> (what carries it out, the parameters that it knows)
Calls = Mapping[str, tuple[Callable[[Given], Given | None], str]]
NAME = "AutoScalingGroupName"


class Refused(Exception):
    """A call that Auto Scaling refuses. code: of its error."""

    def __init__(self, message: str, code: str = "ValidationError") -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def added_to_moto(lock: RLock, *calls: Calls) -> Generator[None]:
    """Make moto's server of this process take these calls of Auto Scaling, and no others."""
    responses: Any = importlib.import_module("moto.autoscaling.responses").AutoScalingResponse
    results: Any = importlib.import_module("moto.core.responses")
    error: Any = importlib.import_module("moto.autoscaling.exceptions").AutoscalingClientError
    every = {action: each for part in calls for action, each in part.items()}

    def taker(action: str) -> Callable[[Any], Any]:
        def take(request: Any) -> Any:
            given: dict[str, Any] = request._get_params()
            if action not in every:
                raise error("InvalidAction", f"the stand-in knows no {action}")
            call, known = every[action]
            if strange := given.keys() - set(known.split()):
                raise error("ValidationError", f"the stand-in knows no {action} with {', '.join(sorted(strange))}")
            try:
                with lock:
                    return results.ActionResult(call(given) or {})
            except (Refused, NotImplementedError, ClientError) as refused:
                raise error(getattr(refused, "code", "ValidationError"), str(refused)) from refused

        return take

    theirs = {name for name in cast("dict[str, Any]", vars(responses)) if not name.startswith("_")}
    theirs -= {"call_action", "autoscaling_backend"}
    with ExitStack() as stack:
        for action in theirs | every.keys():
            stack.enter_context(mock.patch.object(responses, action, taker(action), create=True))
        yield


def show_group(group: Group) -> dict[str, Any]:
    """Return a group as DescribeAutoScalingGroups shows it."""
    return {
        **group.settings,
        NAME: group.name,
        "AutoScalingGroupARN": group.arn,
        "MinSize": group.min,
        "MaxSize": group.max,
        "DesiredCapacity": group.desired,
        "DefaultCooldown": 300,
        "HealthCheckType": group.settings.get("HealthCheckType", "EC2"),
        "HealthCheckGracePeriod": group.settings.get("HealthCheckGracePeriod", 0),
        "AvailabilityZones": sorted({each.zone for each in group.instances.values()}),
        "CreatedTime": group.created,
        "Instances": [show_instance(each) for each in group.instances.values()],
        "EnabledMetrics": [{"Metric": each, "Granularity": "1Minute"} for each in sorted(group.metrics)],
        "Tags": group.tags,
    }


def show_instance(instance: Instance) -> dict[str, Any]:
    """Return an instance as DescribeAutoScalingGroups shows it."""
    return {
        "InstanceId": instance.id,
        "InstanceType": instance.type,
        "AvailabilityZone": instance.zone,
        "LifecycleState": instance.state,
        "HealthStatus": "Unhealthy" if instance.unhealthy else "Healthy",
        "LaunchTemplate": dict(instance.template),
        "ProtectedFromScaleIn": instance.protected,
    }


def show_activity(group: Group, activity: Activity) -> dict[str, Any]:
    """Return an activity as DescribeScalingActivities shows it."""
    return {
        "ActivityId": activity.id,
        NAME: group.name,
        "AutoScalingGroupARN": group.arn,
        "Description": activity.description,
        "Cause": activity.cause,
        "StartTime": activity.begun,
        **({"EndTime": activity.ended} if activity.ended else {}),
        "StatusCode": activity.status,
        **({"StatusMessage": activity.message} if activity.message else {}),
        "Progress": 100 if activity.ended else 50,
    }
