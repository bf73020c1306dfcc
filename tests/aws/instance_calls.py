"""The calls of Auto Scaling about the instances of groups, and about lifecycle hooks."""

from __future__ import annotations

from tests.aws.group_calls import HOOK, Groups, make_hook
from tests.aws.scaling_calls import NAME, Calls, Given, Refused, show_activity
from tests.aws.scaling_group import LAUNCHING, Group, Instance

ACTION = f"{NAME} LifecycleHookName InstanceId"
PROTECTABLE = ("InService", "EnteringStandby", "Standby")


class InstanceCalls:
    """The calls about what is in groups."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def calls(self) -> Calls:
        """Return the calls of which this is the model."""
        return {
            "terminate_instance_in_auto_scaling_group": (
                self._terminate, "InstanceId ShouldDecrementDesiredCapacity",
            ),
            "set_instance_protection": (self._protect, f"{NAME} InstanceIds ProtectedFromScaleIn"),
            "set_instance_health": (self._set_health, "InstanceId HealthStatus ShouldRespectGracePeriod"),
            "enter_standby": (self._enter_standby, f"{NAME} InstanceIds ShouldDecrementDesiredCapacity"),
            "exit_standby": (self._exit_standby, f"{NAME} InstanceIds"),
            "put_lifecycle_hook": (self._put_hook, f"{NAME} {HOOK}"),
            "describe_lifecycle_hooks": (self._describe_hooks, f"{NAME} LifecycleHookNames"),
            "delete_lifecycle_hook": (self._delete_hook, f"{NAME} LifecycleHookName"),
            "complete_lifecycle_action": (self._complete, f"{ACTION} LifecycleActionResult"),
            "record_lifecycle_action_heartbeat": (self._beat, ACTION),
        }  # fmt: skip

    def _terminate(self, given: Given) -> Given:
        group, instance = self._groups.find_instance(given["InstanceId"])
        if given["ShouldDecrementDesiredCapacity"]:
            self._decrement(group, 1)
        made = group.leave(instance, f"instance {instance.id} was taken out of service in response to a user request")
        return {"Activity": show_activity(group, made)}

    def _decrement(self, group: Group, number: int) -> None:
        if group.desired - number < group.min:
            violates = f"terminating {number} without replacement will violate group's min size constraint"
            raise Refused(f"Currently, desiredSize equals {group.desired}. {violates}.")
        group.desired -= number

    def _named(self, given: Given, *states: str) -> tuple[Group, list[Instance]]:
        """Return the group and its instances of a call, which must be in one of the states. Raises Refused."""
        group = self._groups.find(given)
        for id_ in given["InstanceIds"]:
            if id_ not in group.instances:
                raise Refused(f"The instance {id_} is not part of Auto Scaling group {group.name}.")
            if group.instances[id_].state not in states:
                raise Refused(f"The instance {id_} is not in {' or '.join(states)}.")
        return group, [group.instances[id_] for id_ in given["InstanceIds"]]

    def _protect(self, given: Given) -> None:
        if len(given["InstanceIds"]) > 50:
            raise Refused("at most 50 instances are allowed")
        for each in self._named(given, *PROTECTABLE)[1]:
            each.protected = given["ProtectedFromScaleIn"]

    def _set_health(self, given: Given) -> None:
        group, instance = self._groups.find_instance(given["InstanceId"])
        grace = group.settings.get("HealthCheckGracePeriod", 0)
        if given.get("ShouldRespectGracePeriod", True) and grace:
            raise NotImplementedError("SetInstanceHealth that respects the grace period")
        output = f"instance {instance.id} was taken out of service in response to a user health-check"
        instance.unhealthy = output if given["HealthStatus"] == "Unhealthy" else ""

    def _enter_standby(self, given: Given) -> Given:
        group, instances = self._named(given, "InService")
        if given["ShouldDecrementDesiredCapacity"]:
            self._decrement(group, len(instances))
        made = [group.stand_by(each) for each in instances]
        return {"Activities": [show_activity(group, each) for each in made]}

    def _exit_standby(self, given: Given) -> Given:
        group, instances = self._named(given, "Standby")
        if group.desired + len(instances) > group.max:
            raise Refused(f"AutoScalingGroup {group.name} has max-size={group.max}")
        group.desired += len(instances)
        for each in instances:
            each.target = "InService"
            each.enter("Pending:Proceed")
        made = [group.note(f"Moving EC2 instance out of Standby: {each.id}", "of a user request") for each in instances]
        return {"Activities": [show_activity(group, each) for each in made]}

    def _put_hook(self, given: Given) -> None:
        self._groups.find(given).hooks[given["LifecycleHookName"]] = make_hook(given)

    def _describe_hooks(self, given: Given) -> Given:
        group = self._groups.find(given)
        asked = given.get("LifecycleHookNames") or list(group.hooks)
        return {
            "LifecycleHooks": [
                {
                    NAME: group.name,
                    "LifecycleHookName": each.name,
                    "LifecycleTransition": each.transition,
                    "HeartbeatTimeout": each.heartbeat_s,
                    "GlobalTimeout": min(100 * each.heartbeat_s, 172800),
                    "DefaultResult": each.default,
                }
                for name, each in group.hooks.items()
                if name in asked
            ]
        }

    def _delete_hook(self, given: Given) -> None:
        group = self._groups.find(given)
        hook = group.hooks.pop(given["LifecycleHookName"], None)
        if hook is None:
            raise Refused(f"No Lifecycle Hook found with name {given['LifecycleHookName']}")
        for each in group.instances.values():
            if hook.name in each.waiting:
                each.complete(hook.name, "ABANDON" if hook.transition == LAUNCHING else "CONTINUE")

    def _waiting(self, given: Given) -> Instance:
        """Return the instance of a lifecycle action that is under way. Raises Refused."""
        group, hook = self._groups.find(given), given["LifecycleHookName"]
        found = group.instances.get(given["InstanceId"])
        if not found or hook not in found.waiting:
            raise Refused(f"No active Lifecycle Action found with instance ID {given['InstanceId']}")
        return found

    def _complete(self, given: Given) -> None:
        if given["LifecycleActionResult"] not in ("CONTINUE", "ABANDON"):
            raise Refused("LifecycleActionResult must be either CONTINUE or ABANDON")
        self._waiting(given).complete(given["LifecycleHookName"], given["LifecycleActionResult"])

    def _beat(self, given: Given) -> None:
        self._waiting(given).waiting[given["LifecycleHookName"]].beat()
