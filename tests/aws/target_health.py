"""Targets of load balancers, as moto does not keep them: those that drain, and how healthy each was found."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock


@dataclass(frozen=True)
class Health:
    """What DescribeTargetHealth says of a target."""

    state: str
    reason: str | None = None
    description: str | None = None


HEALTHY = Health("healthy")
REGISTERING = Health("initial", "Elb.RegistrationInProgress", "Target registration is in progress")
DRAINING = Health("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress")
UNUSED = Health("unused", "Target.NotInUse", "Target group is not configured to receive traffic from the load balancer")


class TargetHealth:
    """The targets of a region. Safe for threads. Keys are (ARN of the group, id of the target)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], Health] = {}
        # When a target that drains is gone, as time.monotonic(); and its port.
        self._until: dict[tuple[str, str], tuple[float, int]] = {}

    def publish(self, group: str, target: str, health: Health) -> None:
        """Take what a load balancer found of a target."""
        with self._lock:
            self._found[group, target] = health

    @contextmanager
    def in_moto(self) -> Generator[None]:
        """Have moto, in this process, answer by it: moto forgets who is deregistered, and finds all others healthy."""
        models: Any = importlib.import_module("moto.elbv2.models")
        group, backend = models.FakeTargetGroup, models.ELBv2Backend
        register, deregister, describe = group.register, group.deregister, backend.describe_target_health
        terminate = group.deregister_terminated_instances

        def registers(self: Any, targets: list[Any]) -> None:
            register(self, targets)
            keep.forget(self.arn, [each["Id"] for each in targets])

        def deregisters(self: Any, targets: list[Any]) -> None:
            # ELB takes those that are not registered as well.
            there = {each["Id"]: self.targets[each["Id"]] for each in targets if each["Id"] in self.targets}
            deregister(self, [each for each in targets if each["Id"] in there])
            keep.drain(self, there)

        def terminates(self: Any, ids: list[str]) -> None:
            there = {id_: target for id_, target in self.targets.items() if id_ in ids}
            terminate(self, ids)
            keep.drain(self, there)

        def describes(self: Any, arn: str, targets: list[Any]) -> list[Any]:
            return keep.describe(self.target_groups.get(arn), targets, describe(self, arn, targets), models)

        keep = self
        with (
            mock.patch.object(group, "register", registers),
            mock.patch.object(group, "deregister", deregisters),
            mock.patch.object(group, "deregister_terminated_instances", terminates),
            mock.patch.object(backend, "describe_target_health", describes),
        ):
            yield

    def forget(self, group: str, ids: list[str]) -> None:
        """Begin anew with targets that were registered."""
        with self._lock:
            for id_ in ids:
                self._found.pop((group, id_), None)
                self._until.pop((group, id_), None)

    def drain(self, group: Any, targets: Mapping[str, Any]) -> None:
        """Keep targets that were deregistered for the delay of their group (moto's object)."""
        until = time.monotonic() + int(group.attributes["deregistration_delay.timeout_seconds"])
        with self._lock:
            for id_, target in targets.items():
                self._until[group.arn, id_] = until, int(target["Port"])

    def describe(self, group: Any, asked: list[Any], listed: list[Any], models: Any) -> list[Any]:
        """Return moto's list with those that drain, as long as they do; and what was found of the others."""
        with self._lock:
            now = time.monotonic()
            draining = {
                id_: port for (arn, id_), (until, port) in self._until.items() if arn == group.arn and now < until
            }
            if asked:
                draining = {id_: port for id_, port in draining.items() if id_ in {each["Id"] for each in asked}}
            rest = {each.instance_id: each for each in listed if each.instance_id not in draining}
            for id_, each in rest.items():
                if each.status == "healthy":
                    found = self._found.get((group.arn, id_), REGISTERING)
                    _set(each, found if group.load_balancer_arns else UNUSED)
            left = [models.FakeHealthStatus(id_, port, group.health_check_port, "") for id_, port in draining.items()]
            for each in left:
                _set(each, DRAINING)
            return [*rest.values(), *left]


def _set(status: Any, health: Health) -> None:
    status.status, status.reason, status.description = health.state, health.reason, health.description
