"""Makes machines follow what Auto Scaling keeps of groups, looked at again and again."""

from __future__ import annotations

import time
import traceback
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.aws.follower import Follower
from tests.aws.group_calls import Groups
from tests.aws.group_launch import Launcher
from tests.aws.instance_refresh import Refreshes
from tests.aws.kind import Clients
from tests.aws.machines import Machines
from tests.aws.scaling_group import LAUNCHING, STAYING, TERMINATING, Group, Instance
from tests.aws.scaling_policies import Policies

# Between two looks at the machines themselves, which cost LXD more; and how long one is stopped that does not restart.
LOOK_AT_MACHINES_S, STOPPED_S = 2.0, 4.0
# After a launch that failed.
PAUSE_S = 5.0


@dataclass
class Facts:
    """What a look finds. states: of EC2. health: (ARN of a target group, instance) -> state. stopped: machines."""

    states: Mapping[str, str]
    zones: Mapping[str, str]
    health: Mapping[tuple[str, str], str]
    stopped: set[str] = field(default_factory=set[str])

    def is_healthy(self, group: Group, instance: Instance) -> bool:
        """Return whether it is in service and healthy in each target group."""
        found = [self.health.get((arn, instance.id)) for arn in group.target_groups]
        return instance.state == "InService" and not instance.unhealthy and all(each == "healthy" for each in found)


class Scaling(Follower):
    """Keeps the machines of the groups as what is kept of them says. minute_s: how long a minute is here."""

    def __init__(
        self,
        aws: Clients,
        groups: Groups,
        machines: Machines,
        *,
        policies: Policies,
        refreshes: Refreshes,
        minute_s: float,
    ) -> None:
        super().__init__()
        self._aws, self._groups, self._machines, self._minute_s = aws, groups, machines, minute_s
        self._policies, self._refreshes = policies, refreshes
        self._pool = ThreadPoolExecutor(max_workers=16)
        self._stopped: dict[str, float] = {}
        self._zones: dict[str, str] = {}
        self._looked = self._paused = 0.0
        self._launcher = Launcher(aws, machines, self._pool)

    @contextmanager
    def running(self) -> Generator[None]:
        """Look until the block ends, and wait for what is under way with machines."""
        with self._pool, super().running():
            yield

    @property
    def closed(self) -> set[str]:
        """Return the zones in which AWS has no machine left; a test changes it."""
        return self._launcher.closed

    def interrupt(self, id_: str, in_s: float = 120.0) -> None:
        """Let EC2 take a spot instance back, with a notice (two minutes before, at EC2).

        A group that rebalances its capacity acts on that at once (docs.aws.amazon.com/autoscaling/ec2/userguide/,
        Capacity Rebalancing). The recommendation that may come before is not carried out here.
        """
        with self._groups.lock:
            group, instance = self._groups.find_instance(id_)
            end = datetime.now(UTC) + timedelta(seconds=in_s)
            instance.spot_action = f'{{"action": "terminate", "time": "{end:%Y-%m-%dT%H:%M:%SZ}"}}'
            instance.spot_end = time.monotonic() + in_s
            if group.settings.get("CapacityRebalance"):
                cause = "taken out of service in response to an EC2 instance Spot interruption notice"
                group.leave(instance, f"instance {id_} was {cause}")

    def look(self) -> None:
        """Look once at every group."""
        with self._groups.lock:
            groups = list(self._groups.groups.values())
        if not groups:
            return
        facts = self._facts(groups)
        with self._groups.lock:
            for group in groups:
                for instance in list(group.instances.values()):
                    self._advance(group, instance, facts)
                    self._check(group, instance, facts)
                ready = {each.id for each in group.staying() if self._is_ready(group, each, facts)}
                self._refreshes.step(group, ready)
                self._plan(group, facts, ready)
            self._policies.step(facts.health)

    def _facts(self, groups: list[Group]) -> Facts:
        ids = [id_ for group in groups for id_ in group.instances]
        pages: list[Any] = self._aws.ec2.describe_instances(InstanceIds=ids)["Reservations"] if ids else []
        found: list[Any] = [each for page in pages for each in page["Instances"]]
        states = {str(each["InstanceId"]): str(each["State"]["Name"]) for each in found}
        if {each for group in groups for each in group.subnets} - self._zones.keys():
            subnets: list[Mapping[str, Any]] = self._aws.ec2.describe_subnets()["Subnets"]
            self._zones = {each["SubnetId"]: each["AvailabilityZone"] for each in subnets}
        health: dict[tuple[str, str], str] = {}
        for arn in {arn for group in groups for arn in group.target_groups}:
            targets = self._aws.elbv2.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
            health |= {(arn, each["Target"]["Id"]): each["TargetHealth"]["State"] for each in targets}
        now = time.monotonic()
        if now - self._looked > LOOK_AT_MACHINES_S:
            self._looked = now
            self._machines.subnets.renew()
            self._stopped = {each: self._stopped.get(each, now) for each in self._machines.stopped()}
        stopped = {each for each, since in self._stopped.items() if now - since > STOPPED_S}
        return Facts(states, self._zones, health, stopped)

    def _advance(self, group: Group, instance: Instance, facts: Facts) -> None:
        """Take an instance one state further, if it can go."""
        state, _, wait = instance.state.partition(":")
        if wait == "Wait":
            instance.expire()
            if not instance.waiting and instance.unhealthy and state == "Pending":
                group.leave(instance, instance.unhealthy)
            elif not instance.waiting:
                self._proceed(instance, state)
        elif instance.state == "Pending" and instance.work.done():
            self._begin(group, instance)
        elif instance.state == "Pending:Proceed":
            for arn in group.target_groups:
                self._aws.elbv2.register_targets(TargetGroupArn=arn, Targets=[{"Id": instance.id}])
            instance.enter("InService")
            instance.in_service_at = instance.since
            if instance.activity:
                instance.activity.end()
        elif instance.state in ("Terminating", "EnteringStandby"):
            self._drain(group, instance, facts)
        elif instance.state == "Terminating:Proceed" and instance.work.done():
            instance.work.result()
            del group.instances[instance.id]
            if instance.activity:
                instance.activity.end()

    def _begin(self, group: Group, instance: Instance) -> None:
        """Go on with an instance whose machine boots."""
        if problem := instance.work.exception():
            self.failures.append("".join(traceback.format_exception(problem)))
            group.leave(instance, f"instance {instance.id} could not be launched: {problem}", skips_hooks=True)
        elif hooks := group.hooks_of(LAUNCHING):
            instance.wait_for(hooks)
        else:
            instance.enter("Pending:Proceed")

    def _drain(self, group: Group, instance: Instance, facts: Facts) -> None:
        """Take an instance out of the target groups, wait until it is drained there, and go on."""
        there = {arn: facts.health.get((arn, instance.id), "unused") for arn in group.target_groups}
        if instance.skips_hooks:
            self._proceed(instance, "Terminating")
            return
        if registered := [arn for arn, state in there.items() if state not in ("draining", "unused")]:
            for arn in registered:
                self._aws.elbv2.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": instance.id}])
        elif "draining" in there.values():
            return
        elif instance.state == "EnteringStandby":
            instance.enter("Standby")
            if instance.activity:
                instance.activity.end()
        elif hooks := group.hooks_of(TERMINATING):
            instance.wait_for(hooks)
        else:
            self._proceed(instance, "Terminating")

    def _proceed(self, instance: Instance, state: str) -> None:
        instance.enter(f"{state}:Proceed")
        if state == "Terminating":
            instance.work = self._pool.submit(self._end, instance.id, instance.work)

    def _end(self, id_: str, launch: Future[None] | None) -> None:
        """Terminate an instance; its machine first: while that is there, its address is taken."""
        if launch:
            launch.exception()
        self._machines.terminate(id_)
        self._aws.ec2.modify_instance_attribute(InstanceId=id_, DisableApiTermination={"Value": False})
        self._aws.ec2.terminate_instances(InstanceIds=[id_])

    def _check(self, group: Group, instance: Instance, facts: Facts) -> None:
        """Look at the health of an instance, and replace one that is unhealthy."""
        if instance.spot_end < time.monotonic():
            instance.spot_end = float("inf")
            self._pool.submit(self._end, instance.id, None)
        if instance.state not in STAYING:
            return
        state = facts.states.get(instance.id, "running")
        if state in ("terminated", "shutting-down"):
            cause = (
                f"instance {instance.id} was taken out of service in response to an EC2 instance status check failure"
            )
            group.leave(instance, cause, skips_hooks=True)
            return
        if instance.state == "InService" and not instance.unhealthy:
            instance.unhealthy = self._illness(group, instance, facts)
        if instance.state == "InService" and instance.unhealthy:
            group.leave(instance, instance.unhealthy)

    def _illness(self, group: Group, instance: Instance, facts: Facts) -> str:
        output = f"an instance was taken out of service in response to {{}} health check failure: {instance.id}"
        if instance.id in facts.stopped:
            return output.format("an EC2")
        grace = self._scaled(group.settings.get("HealthCheckGracePeriod", 0))
        is_elb = group.settings.get("HealthCheckType") == "ELB"
        found = {facts.health.get((arn, instance.id)) for arn in group.target_groups}
        if is_elb and "unhealthy" in found and time.monotonic() > instance.in_service_at + grace:
            return output.format("an ELB system")
        return ""

    def _is_ready(self, group: Group, instance: Instance, facts: Facts) -> bool:
        """Return whether it is healthy and warm."""
        return facts.is_healthy(group, instance) and time.monotonic() > instance.in_service_at + self.warmup_s(group)

    def warmup_s(self, group: Group) -> float:
        """Return how long an instance of a group warms up here, in seconds."""
        return self._scaled(
            group.settings.get("DefaultInstanceWarmup", group.settings.get("HealthCheckGracePeriod", 0))
        )

    def _scaled(self, seconds: float) -> float:
        return seconds * self._minute_s / 60

    def _plan(self, group: Group, facts: Facts, ready: set[str]) -> None:
        """Launch what is missing, and let go what is too much."""
        there = group.staying()
        missing = group.desired - len(there)
        if time.monotonic() > self._paused:
            for _ in range(missing):
                if not self._launcher.launch(group, facts.zones):
                    self._paused = time.monotonic() + PAUSE_S
                    break
        cause = f"in response to a difference between desired and actual capacity, from {len(there)} to {group.desired}"
        for each in group.surplus():
            group.leave(each, f"instance {each.id} was taken out of service {cause}")
        if len([each for each in group.staying() if each.id in ready]) >= group.desired:
            for each in group.doomed():
                group.leave(each, f"instance {each.id} was replaced: instance refresh")
