"""What Auto Scaling keeps of a group: its settings, its instances and how far each has come, and who is to go next.

See docs.aws.amazon.com/autoscaling/ec2/userguide/ (lifecycle hooks, the default termination policy).
"""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

LAUNCHING, TERMINATING = "autoscaling:EC2_INSTANCE_LAUNCHING", "autoscaling:EC2_INSTANCE_TERMINATING"
# States in which an instance counts towards the desired capacity.
STAYING = ("Pending", "Pending:Wait", "Pending:Proceed", "InService")


@dataclass
class Hook:
    """A lifecycle hook. transition: LAUNCHING or TERMINATING."""

    name: str
    transition: str
    heartbeat_s: int
    default: str


@dataclass
class Waiting:
    """A hook that an instance waits for. until: end of the heartbeat, as time.monotonic()."""

    hook: Hook
    until: float

    def beat(self) -> None:
        """Begin the heartbeat anew."""
        self.until = time.monotonic() + self.hook.heartbeat_s


@dataclass
class Instance:
    """An instance of a group. template: id, name and version (a number) of its launch template.

    target: state that it is on the way to, as its metadata shows it. since: time.monotonic() of its state.
    doomed: whether a refresh replaces it: it goes once others do its work. work: what is under way with its machine.
    spot_action: text of `spot/instance-action`, carried out at spot_end.
    """

    id: str
    type: str
    zone: str
    template: Mapping[str, str]
    number: int
    protected: bool = False
    is_spot: bool = False
    state: str = "Pending"
    since: float = field(default_factory=time.monotonic)
    target: str = ""
    unhealthy: str = ""
    waiting: dict[str, Waiting] = field(default_factory=dict[str, Waiting])
    in_service_at: float = math.inf
    doomed: bool = False
    work: Any = None
    skips_hooks: bool = False
    spot_action: str = ""
    spot_end: float = math.inf
    activity: Activity | None = None

    def enter(self, state: str) -> None:
        """Change the state now."""
        self.state, self.since = state, time.monotonic()

    def wait_for(self, hooks: Iterable[Hook]) -> None:
        """Wait for what these hooks stand for; the state follows."""
        for each in hooks:
            self.waiting[each.name] = Waiting(each, time.monotonic() + each.heartbeat_s)
        self.enter(f"{self.state}:Wait")

    def complete(self, name: str, result: str, why: str = "Lifecycle Action Completed with ABANDON Result") -> None:
        """End the wait for a hook. An instance that is abandoned waits for no other."""
        waited = self.waiting.pop(name)
        if result == "ABANDON":
            self.waiting.clear()
            if waited.hook.transition == LAUNCHING:
                self.unhealthy = f"Instance failed to complete user's Lifecycle Action: it was abandoned: {why}"

    def expire(self) -> None:
        """End each wait whose time is over, with the hook's default."""
        for name, each in list(self.waiting.items()):
            if name in self.waiting and time.monotonic() > each.until:
                self.complete(name, each.hook.default, "Heartbeat Timeout")


@dataclass
class Activity:
    """A scaling activity."""

    description: str
    cause: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    status: str = "InProgress"
    message: str = ""

    def end(self, status: str = "Successful", message: str = "") -> None:
        """End it now, unless it has ended."""
        if not self.ended:
            self.ended, self.status, self.message = datetime.now(UTC), status, message


@dataclass
class Group:
    """A group. settings: as CreateAutoScalingGroup takes them, but for capacity, hooks and tags."""

    name: str
    arn: str
    settings: dict[str, Any]
    min: int
    max: int
    desired: int
    tags: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    hooks: dict[str, Hook] = field(default_factory=dict[str, Hook])
    instances: dict[str, Instance] = field(default_factory=dict[str, Instance])
    metrics: set[str] = field(default_factory=set[str])
    activities: list[Activity] = field(default_factory=list[Activity])
    launched: int = 0
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    # What an instance refresh launches instead of what the settings say; and what was launched last.
    refreshed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    current: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def subnets(self) -> list[str]:
        return str(self.settings["VPCZoneIdentifier"]).split(",")

    @property
    def target_groups(self) -> list[str]:
        return list(self.settings.get("TargetGroupARNs", ()))

    @property
    def configuration(self) -> Mapping[str, Any]:
        """Return what instances are launched from: LaunchTemplate, or MixedInstancesPolicy."""
        if self.refreshed:
            return self.refreshed
        return {key: self.settings[key] for key in ("LaunchTemplate", "MixedInstancesPolicy") if key in self.settings}

    def staying(self) -> list[Instance]:
        """Return those that count, without those which others replace."""
        return [each for each in self.instances.values() if each.state in STAYING and not each.doomed]

    def doomed(self) -> list[Instance]:
        """Return those that go once others do their work."""
        return [each for each in self.instances.values() if each.state in STAYING and each.doomed]

    def hooks_of(self, transition: str) -> list[Hook]:
        """Return the hooks of a transition."""
        return [each for each in self.hooks.values() if each.transition == transition]

    def note(self, description: str, cause: str) -> Activity:
        """Begin an activity."""
        made = Activity(description, f"At {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {cause}.")
        self.activities.insert(0, made)
        return made

    def leave(self, instance: Instance, cause: str, *, skips_hooks: bool = False) -> Activity:
        """Begin to terminate an instance."""
        if instance.activity:
            # Its launch, if that has not ended.
            instance.activity.end("Cancelled", instance.unhealthy or cause)
        instance.activity = self.note(f"Terminating EC2 instance: {instance.id}", cause)
        instance.waiting.clear()
        instance.target, instance.skips_hooks = "Terminated", skips_hooks
        instance.enter("Terminating")
        return instance.activity

    def stand_by(self, instance: Instance) -> Activity:
        """Begin to take an instance out of service that stays."""
        instance.activity = self.note(f"Moving EC2 instance to Standby: {instance.id}", "of a user request")
        instance.target = "Standby"
        instance.enter("EnteringStandby")
        return instance.activity

    def surplus(self) -> list[Instance]:
        """Return who goes on scale-in: whom the default policy chooses, of the zone that has most each time."""
        there = [each for each in self.staying() if each.unhealthy == ""]
        free = [each for each in there if not each.protected]
        chosen: list[Instance] = []
        while free and len(there) > self.desired:
            in_zones = Counter(each.zone for each in there)
            most = max(in_zones[each.zone] for each in free)
            of_zone = [each for each in free if in_zones[each.zone] == most]
            gone = min(of_zone, key=self._order)
            chosen.append(gone)
            there.remove(gone)
            free.remove(gone)
        return chosen

    def _order(self, instance: Instance) -> tuple[float, ...]:
        """Return what sorts those first that go first."""
        is_current = dict(instance.template) == dict(self.current)
        return (is_current, int(instance.template["Version"]), instance.number)

    def next_subnets(self, zones: Mapping[str, str]) -> list[str]:
        """Return the subnets, the one first whose zone has the fewest. zones: of each subnet."""
        there = Counter(each.zone for each in self.staying())
        return sorted(self.subnets, key=lambda subnet: there[zones[subnet]])

    def wants_spot(self, distribution: Mapping[str, Any]) -> bool:
        """Return whether the next one is a spot instance, by the InstancesDistribution of a mixed instances policy."""
        on_demand = sum(not each.is_spot for each in self.staying())
        base = int(distribution.get("OnDemandBaseCapacity", 0))
        percent = int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100))
        total = len(self.staying()) + 1
        return on_demand >= base + math.ceil(max(total - base, 0) * percent / 100)


@dataclass
class Policy:
    """A scaling policy of type TargetTrackingScaling. data: one value for each period that is over, newest last.

    counted: what its counters stood at, and when.
    """

    group: str
    name: str
    arn: str
    target_tracking: Mapping[str, Any]
    data: list[float] = field(default_factory=list[float])
    counted: tuple[float, Mapping[str, float]] = (0.0, {})
