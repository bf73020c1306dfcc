"""Move a group's instances to its launch template by an AWS instance refresh, and wait for its end.

A property of the group would start a refresh without waiting. A bad image would then replace servers after `up`
reported success.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from functools import cached_property
from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult, CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

from platforms.aws.client import client
from platforms.provider import log, without_traceback

LOOK_S = 5.0
# Launches that fail until it goes back: one may be a machine of EC2's that was ill.
MAX_FAILED_LAUNCHES = 2
# Seconds for all of it. AWS itself gives up after an hour in which nothing moved.
REFRESH_TIMEOUT_S = 6 * 3600.0
FINAL_STATUSES = ("Successful", "Failed", "Cancelled", "RollbackSuccessful", "RollbackFailed")
# Servers are replaced one after another or a tenth at a time, each once another one serves. Those that a rollout left
# protected are replaced as well. What has the template already stays. AWS would wait an hour for one that an operator
# drained, and then fail.
PREFERENCES = {
    "MinHealthyPercentage": 100,
    "MaxHealthyPercentage": 110,
    "SkipMatching": True,
    "AutoRollback": True,
    "ScaleInProtectedInstances": "Refresh",
    "StandbyInstances": "Terminate",
}


class RefreshError(Exception):
    """Not every instance is as the launch template says. The text says why and what serves."""


class _Provider(ResourceProvider):
    serialize_as_secret_always = False

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Implement ResourceProvider.check: reject another gateway, at preview already."""
        before, after = _olds.get("layout"), news.get("layout")
        if before is None or before == after:
            return CheckResult(news, [])
        why = (
            f"new servers of the group boot the current release, which was made for {before} and not for {after}: "
            "set gateway.kind, gateway.processes and fleet.process_manager as they were, or bring up a second "
            "application and move its hosts or path (docs/scaling.md)"
        )
        return CheckResult(news, [CheckFailure("layout", f"{news['group']}: {why}")])

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        other = [key for key in ("region", "group") if _olds.get(key) != _news.get(key)]
        changed = other or _olds.get("configuration") != _news.get("configuration")
        return DiffResult(changes=bool(changed), replaces=other, delete_before_replace=False)

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Implement ResourceProvider.create: a new group already has this configuration."""
        return CreateResult(props["group"], dict(props))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        try:
            Refresh(_news["region"], _news["group"]).run(json.loads(_news["configuration"]))
        except RefreshError as error:
            raise without_traceback(error) from None
        return UpdateResult(dict(_news))

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete: it goes with its group."""


class Refresh:
    """An instance refresh of a group."""

    def __init__(self, region: str, group: str) -> None:
        self._region, self._group = region, group

    @cached_property
    def client(self) -> Any:
        """Return the client, made once it is needed."""
        return client("autoscaling", self._region)

    def run(self, configuration: dict[str, Any]) -> None:
        """Refresh the instances to a configuration, or roll back to the previous one. Raises RefreshError."""
        id_ = self._find_running(configuration) or str(
            self.client.start_instance_refresh(
                AutoScalingGroupName=self._group,
                Strategy="Rolling",
                DesiredConfiguration=configuration,
                Preferences=PREFERENCES,
            )["InstanceRefreshId"]
        )
        start_s, last_line, cause = time.monotonic(), "", ""
        while (found := self._describe_refresh(id_))["Status"] not in FINAL_STATUSES:
            if (line := _progress_line(found)) != last_line:
                log(f"{self._group}: {line}")
            last_line = line
            if not cause and found["Status"] == "InProgress" and (cause := self._rollback_cause(found, start_s)):
                log(f"{self._group}: goes back: {cause}")
                self.client.rollback_instance_refresh(AutoScalingGroupName=self._group)
            time.sleep(LOOK_S)
        if found["Status"] != "Successful":
            why = cause or " ".join(str(found.get("StatusReason", "AWS tells no reason")).split())
            serves = "servers of the template before serve" if found["Status"] == "RollbackSuccessful" else "look at it"
            raise RefreshError(
                f"{self._group}: its servers were not replaced ({found['Status']}): {why}\n"
                f"{serves} (`./fleet status`). Mend the cause and run the same command again"
            )
        log(f"{self._group}: every server is of the new launch template")

    def _find_running(self, configuration: dict[str, Any]) -> str:
        """Return the refresh to this configuration that runs, "" where none does. Raises RefreshError for another."""
        every = self.client.describe_instance_refreshes(AutoScalingGroupName=self._group)["InstanceRefreshes"]
        for each in every:
            if each["Status"] in FINAL_STATUSES:
                continue
            if each.get("DesiredConfiguration") == configuration and each["Status"] in ("Pending", "InProgress"):
                return str(each["InstanceRefreshId"])
            raise RefreshError(
                f"{self._group}: another instance refresh is {each['Status']}; run the same command again once it has "
                "ended (`aws autoscaling describe-instance-refreshes`)"
            )
        return ""

    def _describe_refresh(self, id_: str) -> dict[str, Any]:
        selection = {"AutoScalingGroupName": self._group, "InstanceRefreshIds": [id_]}
        return dict(self.client.describe_instance_refreshes(**selection)["InstanceRefreshes"][0])

    def _rollback_cause(self, refresh: dict[str, Any], start_s: float) -> str:
        """Return why the refresh should be rolled back; "" while it may succeed."""
        if time.monotonic() - start_s > REFRESH_TIMEOUT_S:
            return f"it did not end in {REFRESH_TIMEOUT_S / 3600:.0f} hours"
        since: datetime = refresh.get("StartTime") or datetime.now().astimezone()
        found = self.client.describe_scaling_activities(AutoScalingGroupName=self._group, MaxRecords=20)["Activities"]
        failed = [
            each
            for each in found
            if each["StartTime"] >= since
            and each["StatusCode"] in ("Failed", "Cancelled")
            and str(each.get("Description", "")).startswith("Launching")
        ]
        if len(failed) < MAX_FAILED_LAUNCHES:
            return ""
        words = " ".join(str(failed[0].get("StatusMessage") or failed[0]["Description"]).split())
        return f"{len(failed)} servers did not come: {words}"


def _progress_line(refresh: dict[str, Any]) -> str:
    left = refresh.get("InstancesToUpdate")
    return f"{refresh['Status']}, {refresh.get('PercentageComplete', 0)} %" + (f", {left} to go" if left else "")


class InstanceRefresh(Resource, module="aws", name="InstanceRefresh"):
    """The instances of a group are of this configuration, a DesiredConfiguration of AWS's API as JSON text.

    layout: what of the servers a release is made for, as a person reads it; it stays.
    """

    def __init__(
        self,
        name: str,
        *,
        region: str,
        group: pulumi.Input[str],
        configuration: pulumi.Input[str],
        layout: str,
        opts: pulumi.ResourceOptions,
    ) -> None:
        props = {"region": region, "group": group, "configuration": configuration, "layout": layout}
        super().__init__(_Provider(), name, props, opts)
