"""The load balancers of a region: what moto knows of them is what their HAProxy does, looked at again and again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.aws.follower import Follower
from tests.aws.haproxy import State, backend, server_lines
from tests.aws.haproxy_control import Haproxy, Key, Member, NotRunning
from tests.aws.kind import Clients
from tests.aws.load_balancing import machine_name
from tests.aws.target_health import TargetHealth
from tests.certificates import Authority


@dataclass(frozen=True)
class _Target:
    """group: its ARN."""

    group: str
    id: str
    member: Member


class Balancing(Follower):
    """Keeps the HAProxy of each load balancer as moto has it.

    folder: has one for each of their machines. authority: signs what ACM's certificates stand for: for the same names.
    """

    def __init__(self, aws: Clients, folder: Path, authority: Authority, health: TargetHealth) -> None:
        super().__init__()
        self._aws, self._folder, self._authority, self._health = aws, folder, authority, health
        self._proxies: dict[str, Haproxy] = {}
        self._certificates: dict[str, str] = {}

    def look(self) -> None:
        """Look once at every load balancer."""
        there = {each["LoadBalancerArn"] for each in self._aws.elbv2.describe_load_balancers()["LoadBalancers"]}
        self._proxies = {
            arn: self._proxies.get(arn) or Haproxy(self._folder / machine_name(arn)) for arn in sorted(there)
        }
        for arn, proxy in self._proxies.items():
            state = self._state(arn)
            targets = self._targets(state)
            # HAProxy's sockets are not there before its machine has booted, nor after it has ended.
            with suppress(NotRunning):
                for key, health in proxy.apply(state, {key: each.member for key, each in targets.items()}).items():
                    self._health.publish(targets[key].group, targets[key].id, health)

    def requests(self, group: str) -> int:
        """Return how many requests the targets of a group got, by its ARN."""
        name = backend({"TargetGroupName": group.split("/")[1]})
        return sum(each.requests[name] for each in list(self._proxies.values()))

    def _state(self, arn: str) -> State:
        elb = self._aws.elbv2
        given = elb.describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"]
        listeners: list[dict[str, Any]] = elb.describe_listeners(LoadBalancerArn=arn)["Listeners"]
        for each in listeners:
            pages = elb.get_paginator("describe_rules").paginate(ListenerArn=each["ListenerArn"])
            each["Rules"] = [rule for page in pages for rule in page["Rules"]]
        groups: list[dict[str, Any]] = [
            each for each in elb.describe_target_groups()["TargetGroups"] if arn in each["LoadBalancerArns"]
        ]
        for each in groups:
            found = elb.describe_target_group_attributes(TargetGroupArn=each["TargetGroupArn"])["Attributes"]
            each["Attributes"] = {pair["Key"]: pair["Value"] for pair in found}
        named = {each["CertificateArn"] for listener in listeners for each in listener.get("Certificates", ())}
        return State(
            {pair["Key"]: pair["Value"] for pair in given},
            listeners,
            {each["TargetGroupArn"]: each for each in groups},
            {each: self._certificate(each) for each in sorted(named)},
        )

    def _targets(self, state: State) -> dict[Key, _Target]:
        pages = self._aws.ec2.describe_instances()["Reservations"]
        addresses = {each["InstanceId"]: each.get("PrivateIpAddress") for page in pages for each in page["Instances"]}
        found: dict[Key, _Target] = {}
        for arn, group in state.groups.items():
            for each in self._aws.elbv2.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]:
                id_, port, health = each["Target"]["Id"], each["Target"]["Port"], each["TargetHealth"]["State"]
                if health != "unused":
                    name = f"{id_}:{port}"
                    lines = server_lines(group, name, f"{addresses.get(id_)}:{port}")
                    found[backend(group), name] = _Target(arn, id_, Member(lines, draining=health == "draining"))
        return found

    def _certificate(self, arn: str) -> str:
        if arn not in self._certificates:
            found = self._aws.acm.describe_certificate(CertificateArn=arn)["Certificate"]
            signed = self._authority.sign(sorted({found["DomainName"], *found["SubjectAlternativeNames"]}))
            self._certificates[arn] = signed.certificate + signed.private_key
        return self._certificates[arn]
