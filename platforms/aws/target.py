"""A server behind a load balancer as a resource: it gets requests once it is healthy, and ends when they have.

AWS's own resource returns at once in both directions, and the engine would end a server with requests in flight.
"""

from __future__ import annotations

import time
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

from platforms.aws.elb import Elb
from platforms.provider import log, without_traceback

# Seconds for a server that serves to be found healthy: rules that were just made take some to reach every node.
HEALTHY_S = 180
# Seconds after the deregistration delay.
DRAINED_S = 60
LOOK_S = 3.0
# What must stay for a target to be the same.
_IDENTITY = ("region", "group", "machine")


class TargetError(Exception):
    """A server did not become healthy. The text says what to do."""


class _Provider(ResourceProvider):
    serialize_as_secret_always = False

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Implement ResourceProvider.diff without a call to AWS, so that an operator's `./fleet drain` stays."""
        other = [key for key in _IDENTITY if _olds.get(key) != _news.get(key)]
        changed = other or _olds.get("drain_timeout_s") != _news.get("drain_timeout_s")
        return DiffResult(changes=bool(changed), replaces=other, delete_before_replace=False)

    def create(self, props: dict[str, Any]) -> CreateResult:
        elb, group, machine = Elb(props["region"]), props["group"], props["machine"]
        elb.admit(group, machine)
        start_s, found = time.monotonic(), ""
        while time.monotonic() - start_s < HEALTHY_S:
            state, found = elb.health(group).get(machine, ("initial", ""))
            if state == "healthy":
                return CreateResult(f"{group}/{machine}", dict(props))
            time.sleep(LOOK_S)
        elb.drain(group, machine)
        why = f"the load balancer did not find it healthy in {HEALTHY_S} s ({found or 'no response'})"
        remedy = f"`./fleet logs --server {props['name']}` says why; then run `pulumi up` again"
        raise without_traceback(TargetError(f"{props['name']}: {why}, and it gets no requests; {remedy}"))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(dict(_news))

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete: wait until requests have ended. One that is gone is no error."""
        elb, group, machine = Elb(_props["region"]), _props["group"], _props["machine"]
        elb.drain(group, machine)
        start_s, limit = time.monotonic(), int(_props["drain_timeout_s"]) + DRAINED_S
        while elb.health(group).get(machine, ("unused", ""))[0] == "draining":
            if time.monotonic() - start_s > limit:
                log(f"{_props['name']}: still drains after {limit} s; its requests are cut")
                return
            time.sleep(LOOK_S)


class Target(Resource, module="aws", name="Target"):
    """A machine in a target group. group: its ARN. machine: id of the instance. server: by which people know it."""

    def __init__(
        self,
        name: str,
        *,
        server: str,
        region: str,
        group: pulumi.Input[str],
        machine: pulumi.Input[str],
        drain_timeout_s: int,
        opts: pulumi.ResourceOptions,
    ) -> None:
        props = {
            "name": server,
            "region": region,
            "group": group,
            "machine": machine,
            "drain_timeout_s": drain_timeout_s,
        }
        super().__init__(_Provider(), name, props, opts)
