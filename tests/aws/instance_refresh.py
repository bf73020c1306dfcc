"""Instance refreshes of Auto Scaling: instances of an older configuration are replaced, a few at a time.

See docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-overview.html and instance-refresh-rollback.html.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.aws.group_calls import Groups, template_and_types
from tests.aws.kind import Clients
from tests.aws.launch_template import resolve
from tests.aws.scaling_calls import NAME, Calls, Given, Refused
from tests.aws.scaling_group import STAYING, Group, Instance

# What a refresh has to ask for: the stand-in does nothing else.
PREFERENCES: Mapping[str, Any] = {
    "MinHealthyPercentage": 100, "MaxHealthyPercentage": 110, "SkipMatching": True, "AutoRollback": True,
    "ScaleInProtectedInstances": "Refresh", "StandbyInstances": "Terminate",
}  # fmt: skip
CONFIGURATION = ("LaunchTemplate", "MixedInstancesPolicy")
ACTIVE = ("Pending", "InProgress", "RollbackInProgress")
# Without progress for so long, one fails.
PATIENCE_S = 3600.0


@dataclass
class Refresh:
    """An instance refresh. desired: what to launch; previous: what was launched before.

    template: the version of the desired one; types: those that it names. newest: number of the last instance when it
    began. progress: what was done when something was done last, at progress_at (time.monotonic()).
    """

    group: str
    desired: Mapping[str, Any]
    previous: Mapping[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "Pending"
    reason: str = ""
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    percent: int = 0
    left: int = 0
    total: int = 0
    template: Mapping[str, str] = field(default_factory=dict[str, str])
    types: list[str] = field(default_factory=list[str])
    newest: int = 0
    progress: tuple[int, int] = (0, 0)
    progress_at: float = field(default_factory=time.monotonic)
    rollback_reason: str = ""

    def end(self, status: str, reason: str = "") -> None:
        """End it."""
        self.status, self.ended = status, datetime.now(UTC)
        self.reason = reason or self.reason


class Refreshes:
    """The instance refreshes of all groups."""

    def __init__(self, aws: Clients, groups: Groups) -> None:
        self._aws, self._groups = aws, groups
        self._made: list[Refresh] = []

    def calls(self) -> Calls:
        """Return the calls of which this is the model."""
        return {
            "start_instance_refresh": (self._start, f"{NAME} Strategy DesiredConfiguration Preferences"),
            "describe_instance_refreshes": (self._describe, f"{NAME} InstanceRefreshIds MaxRecords NextToken"),
            "rollback_instance_refresh": (self._roll_back, NAME),
        }

    def _active(self, group: str) -> Refresh | None:
        return next((each for each in self._made if each.group == group and each.status in ACTIVE), None)

    def _start(self, given: Given) -> Given:
        group = self._groups.find(given)
        if active := self._active(group.name):
            raise Refused(f"An Instance Refresh is already in progress: {active.id}", "InstanceRefreshInProgress")
        asked = given.get("Preferences", {}), given.get("Strategy", "Rolling")
        if asked != (PREFERENCES, "Rolling"):
            raise Refused(f"the stand-in knows no refresh with {asked}")
        desired: Given = given["DesiredConfiguration"]
        others = {key: value for key, value in group.settings.items() if key not in CONFIGURATION}
        self._groups.check({**others, **desired})
        if template_and_types(group.configuration)[0].get("Version", "$Default").startswith("$"):
            needs = "a number as the version of the launch template of the group"
            raise Refused(f"a rollback needs {needs}", "IrreversibleInstanceRefresh")
        made = Refresh(group.name, desired, group.configuration)
        self._made.insert(0, made)
        return {"InstanceRefreshId": made.id}

    def _describe(self, given: Given) -> Given:
        self._groups.find(given)
        asked = given.get("InstanceRefreshIds")
        found = [each for each in self._made if each.group == given[NAME] and (not asked or each.id in asked)]
        return {"InstanceRefreshes": [_shown(each) for each in found]}

    def _roll_back(self, given: Given) -> Given:
        active = self._active(self._groups.find(given).name)
        if not active or active.status == "RollbackInProgress":
            raise Refused("No active instance refresh", "ActiveInstanceRefreshNotFound")
        self._return(self._groups.find(given), active, "of a user request")
        return {"InstanceRefreshId": active.id}

    def step(self, group: Group, ready: set[str]) -> None:
        """Take the active refresh of a group further. ready: its instances that are healthy and warm."""
        refresh = self._active(group.name)
        if not refresh:
            return
        if refresh.status == "Pending":
            self._begin(group, refresh)
        there = [each for each in group.instances.values() if each.state in STAYING]
        old = [each for each in there if self._is_old(refresh, each)]
        done = len([each for each in there if each not in old and each.id in ready and each.number > refresh.newest])
        self._report(refresh, old, done)
        steady, drained = group.staying(), self._old_on_standby(group, refresh)
        if not old and not drained and len(steady) >= group.desired and all(each.id in ready for each in steady):
            self._finish(group, refresh)
        elif time.monotonic() > refresh.progress_at + PATIENCE_S:
            self._fail(group, refresh)
        else:
            for each in drained:
                if each.state == "Standby":
                    group.leave(each, f"instance {each.id} was on standby: instance refresh")
            self._replace(group, refresh, old, ready)

    def _begin(self, group: Group, refresh: Refresh) -> None:
        """Launch from the refresh's configuration from now on."""
        specification, refresh.types = template_and_types(refresh.desired)
        refresh.template = resolve(self._aws, specification)[0]
        refresh.status, refresh.newest, group.refreshed = "InProgress", group.launched, refresh.desired
        group.current = refresh.template
        there = [each for each in group.instances.values() if each.state in STAYING]
        refresh.total = len([each for each in there if self._is_old(refresh, each)])

    @staticmethod
    def _is_old(refresh: Refresh, instance: Instance) -> bool:
        is_type = not refresh.types or instance.type in refresh.types
        return not is_type or dict(instance.template) != dict(refresh.template)

    def _old_on_standby(self, group: Group, refresh: Refresh) -> list[Instance]:
        there = [each for each in group.instances.values() if each.state in ("EnteringStandby", "Standby")]
        return [each for each in there if self._is_old(refresh, each)]

    def _report(self, refresh: Refresh, old: list[Instance], done: int) -> None:
        refresh.left = len(old)
        if refresh.progress != (len(old), done):
            refresh.progress, refresh.progress_at = (len(old), done), time.monotonic()
        if not refresh.rollback_reason:
            refresh.percent = min(100 * done // refresh.total, 100) if refresh.total else 100
        elif refresh.total:
            refresh.percent = min(refresh.percent, 100 * len(old) // refresh.total)

    def _replace(self, group: Group, refresh: Refresh, old: list[Instance], ready: set[str]) -> None:
        """Begin to replace as many as the healthy percentages allow."""
        waits = [each for each in group.staying() if each.id not in ready]
        for each in old:
            if each in waits:
                group.leave(each, f"instance {each.id} was replaced: instance refresh")
        waits = [each for each in waits if each not in old]
        if waits or group.doomed() or len(group.staying()) < group.desired:
            example = waits[0].id if waits else "an instance"
            refresh.reason = f"Waiting for remaining instances to be available. For example: {example} is not ready."
            return
        most = math.floor(group.desired * PREFERENCES["MaxHealthyPercentage"] / 100)
        for each in sorted(old, key=lambda each: each.number)[: max(most - group.desired, 1)]:
            each.doomed = True

    def _finish(self, group: Group, refresh: Refresh) -> None:
        if refresh.rollback_reason:
            group.refreshed = {}
            refresh.end("RollbackSuccessful", refresh.rollback_reason)
            return
        for key in CONFIGURATION:
            group.settings.pop(key, None)
        group.settings |= refresh.desired
        group.refreshed = {}
        refresh.percent, refresh.reason = 100, ""
        refresh.end("Successful")

    def _fail(self, group: Group, refresh: Refresh) -> None:
        why = refresh.reason or "Not enough healthy instances to proceed."
        if not refresh.rollback_reason:
            self._return(group, refresh, why)
            return
        self._release(group)
        refresh.end("RollbackFailed", why)

    def _return(self, group: Group, refresh: Refresh, why: str) -> None:
        """Begin to go back to what was launched before."""
        if refresh.status == "Pending":
            self._begin(group, refresh)
        self._release(group)
        refresh.status, refresh.rollback_reason = "RollbackInProgress", f"Rollback initiated: {why}"
        specification, refresh.types = template_and_types(refresh.previous)
        refresh.template, group.refreshed = resolve(self._aws, specification)[0], refresh.previous
        group.current = refresh.template
        refresh.progress_at = time.monotonic()

    @staticmethod
    def _release(group: Group) -> None:
        """Keep those that were to be replaced, and launch what the group's settings say."""
        group.refreshed = {}
        for each in group.instances.values():
            each.doomed = False


def _shown(refresh: Refresh) -> dict[str, Any]:
    return {
        "InstanceRefreshId": refresh.id,
        NAME: refresh.group,
        "Status": refresh.status,
        **({"StatusReason": refresh.reason} if refresh.reason else {}),
        "StartTime": refresh.begun,
        **({"EndTime": refresh.ended} if refresh.ended else {}),
        "PercentageComplete": refresh.percent,
        "InstancesToUpdate": refresh.left,
        "DesiredConfiguration": dict(refresh.desired),
        **({"RollbackDetails": {"RollbackReason": refresh.rollback_reason}} if refresh.rollback_reason else {}),
    }
