"""Elastic Load Balancing from the operator's side: health of targets, draining, the maintenance page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from platforms.aws.client import client, convert_errors
from platforms.load_balancer import LoadBalancerError, TargetHealth
from platforms.transport import machine_id
from settings.application import APP_PORT

# A rule with a lower priority counts first; settings/listener_rule.py leaves those below its FIRST free.
MAINTENANCE_PRIORITY = 1
# Seconds for a drained server, in addition to the group's own delay.
DRAINED_S = 60
LOOK_S = 2.0


class Elb:
    """Targets of groups. Credentials come from where the AWS tools look; a call is the first to use the network."""

    def __init__(self, region: str) -> None:
        self._region = region

    @cached_property
    def client(self) -> Any:
        """Return the client, made once it is needed."""
        return client("elbv2", self._region)

    def health(self, group: str) -> dict[str, tuple[str, str]]:
        """Return instance -> (state, why) of the targets of a group; {} of a group that is gone."""
        try:
            found = self.client.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
        except self.client.exceptions.TargetGroupNotFoundException:
            return {}
        return {
            str(each["Target"]["Id"]): (
                str(each["TargetHealth"]["State"]),
                str(each["TargetHealth"].get("Description", "")),
            )
            for each in found
        }

    def admit(self, group: str, machine: str) -> None:
        """Register a machine. A registered one stays unchanged."""
        self.client.register_targets(TargetGroupArn=group, Targets=[{"Id": machine, "Port": APP_PORT}])

    def drain(self, group: str, machine: str) -> None:
        """Deregister a machine. A missing machine or group is no error."""
        gone = (self.client.exceptions.TargetGroupNotFoundException, self.client.exceptions.InvalidTargetException)
        try:
            self.client.deregister_targets(TargetGroupArn=group, Targets=[{"Id": machine, "Port": APP_PORT}])
        except gone:
            return


class AlbOperator:
    """Implements platforms.load_balancer.LoadBalancer. listener: the one that serves. groups: application -> ARN."""

    def __init__(
        self, region: str, listener: str, groups: Mapping[str, str], drain_timeout_s: Mapping[str, int]
    ) -> None:
        self._elb, self._listener, self._groups = Elb(region), listener, groups
        self._drain_timeout_s = drain_timeout_s

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> AlbOperator:
        """Return the load balancer of a LoadBalancer.spec."""
        times = {app: int(seconds) for app, seconds in spec["drain_timeout_s"].items()}
        return cls(spec["region"], spec["listener"], spec["groups"], times)

    def health(self, app: str) -> Mapping[str, TargetHealth]:
        """Implement LoadBalancer.health. Targets are known by the id of their instance."""
        with convert_errors(LoadBalancerError):
            found = self._elb.health(self._groups[app])
        return {machine: TargetHealth(state, why) for machine, (state, why) in found.items()}

    def drain(self, app: str, target: str) -> None:
        """Implement LoadBalancer.drain."""
        machine, start_s = machine_id(target), time.monotonic()
        limit = self._drain_timeout_s[app] + DRAINED_S
        with convert_errors(LoadBalancerError):
            self._elb.drain(self._groups[app], machine)
            while self._elb.health(self._groups[app]).get(machine, ("unused", ""))[0] == "draining":
                if time.monotonic() - start_s > limit:
                    raise LoadBalancerError(f"it still has requests after {limit} s; `./fleet status` shows when not")
                time.sleep(LOOK_S)

    def admit(self, app: str, target: str) -> None:
        """Implement LoadBalancer.admit."""
        with convert_errors(LoadBalancerError):
            self._elb.admit(self._groups[app], machine_id(target))

    def in_maintenance(self) -> bool:
        """Implement LoadBalancer.in_maintenance."""
        with convert_errors(LoadBalancerError):
            return self._maintenance_rule() is not None

    def set_maintenance(self, page: str | None) -> None:
        """Implement LoadBalancer.set_maintenance: a rule before all others. `pulumi up` knows nothing of it."""
        with convert_errors(LoadBalancerError):
            rule, client = self._maintenance_rule(), self._elb.client
            if page is None:
                if rule:
                    client.delete_rule(RuleArn=rule)
                return
            response = {"StatusCode": "503", "ContentType": "text/html", "MessageBody": page}
            actions = [{"Type": "fixed-response", "FixedResponseConfig": response}]
            if rule:
                client.modify_rule(RuleArn=rule, Actions=actions)
                return
            any_path = [{"Field": "path-pattern", "PathPatternConfig": {"Values": ["*"]}}]
            client.create_rule(
                ListenerArn=self._listener, Priority=MAINTENANCE_PRIORITY, Conditions=any_path, Actions=actions
            )

    def _maintenance_rule(self) -> str | None:
        pages = self._elb.client.get_paginator("describe_rules").paginate(ListenerArn=self._listener)
        rules = [rule for page in pages for rule in page["Rules"]]
        return next((str(each["RuleArn"]) for each in rules if each["Priority"] == str(MAINTENANCE_PRIORITY)), None)
