"""The settings of app servers whose number follows the load: an Auto Scaling group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from settings.constraint import InstanceType, Name, matching
from settings.model import Model, reject

if TYPE_CHECKING:
    from settings import Settings
    from settings.application import App

# Servers of a group; an ALB has a quota of its own (settings/alb_support.py).
MOST_SERVERS = 1000
# Overrides of a launch template (LaunchTemplate of the API of EC2 Auto Scaling).
MOST_TYPES = 40
_CRON = r"([0-9*/,-]+ ){2}([0-9*/,-]+ )([0-9A-Za-z*/,-]+ )[0-9A-Za-z*/,-]+"


class CapacitySchedule(Model):
    """Other bounds from a time on."""

    recurrence: Annotated[
        str,
        matching(
            rf"^{_CRON}$",
            "five fields of cron in UTC: minute, hour, day, month, weekday, each of digits, letters and any of * / , "
            '-; write one such as "30 6 * * 1-5"',
        ),
    ] = Field(description='when, as cron writes it, in UTC: "30 6 * * 1-5"')
    min: int = Field(ge=1, le=MOST_SERVERS, description="servers at least from then on")
    max: int = Field(ge=1, le=MOST_SERVERS, description="servers at most from then on")

    @model_validator(mode="after")
    def _the_bounds_are_in_order(self) -> CapacitySchedule:
        _check_order(self.min, self.max)
        return self


class Capacity(Model):
    """How many app servers there are: at least, at most, and what makes them more."""

    min: int = Field(ge=1, le=MOST_SERVERS, description="servers at least")
    max: int = Field(ge=1, le=MOST_SERVERS, description="servers at most")
    requests_per_target: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="requests in a minute for each server that the group keeps to; null: it does not count them",
    )
    cpu_percent: int | None = Field(
        default=None, ge=10, le=90, description="CPU of the servers that the group keeps to; null: it does not look"
    )
    instance_types: list[InstanceType] = Field(
        default_factory=list[str],
        max_length=MOST_TYPES,
        description="further types that servers may be of, besides fleet.size.instance_type",
    )
    spot_percent: int = Field(default=0, ge=0, le=100, description="share of the servers that are Spot instances")
    schedules: dict[Name, CapacitySchedule] = Field(
        default_factory=dict[str, CapacitySchedule], description="other bounds at set times, by name"
    )

    @model_validator(mode="after")
    def _the_bounds_are_in_order(self) -> Capacity:
        _check_order(self.min, self.max)
        return self


def _check_order(least: int, most: int) -> None:
    if least > most:
        reject(f"min: {least}: is more than max ({most}); lower it, or raise max")


def problems(given: Settings) -> list[str]:
    """Return what of a whole stack keeps groups from working, each with its path."""
    return [
        f"apps.{name}.{problem}"
        for name, app in given.apps.items()
        if app.fleet.capacity
        for problem in _problems_of(app, given)
    ]


def _problems_of(app: App, given: Settings) -> list[str]:
    found: list[str] = []
    if "servers" in app.fleet.model_fields_set:
        found.append(f"fleet.servers: {app.fleet.servers}: stands beside fleet.capacity; remove one of both")
    if given.platform != "aws" or given.balancer.kind != "alb":
        found.append(
            "fleet.capacity: needs platform: aws and balancer.kind: alb, which finds servers that come and go; "
            "set both, or take fleet.servers"
        )
    if app.schedules:
        found.append(
            "schedules: run on the first server, and of a group none is the first for long (fleet.capacity); start "
            "them from outside, or take fleet.servers"
        )
    found += [
        f"workers.{name}.servers: first: of a group no server is the first for long (fleet.capacity); take all"
        for name, worker in app.workers.items()
        if worker.servers == "first"
    ]
    if given.aws and given.aws.vpc and given.aws.vpc.nat_gateways == "none":
        found.append(
            "fleet.capacity: servers tell EC2 Auto Scaling that they serve, and do not reach it with "
            "aws.vpc.nat_gateways: none; take single or one_per_az"
        )
    return found + _problems_of_types(app, given)


def _problems_of_types(app: App, given: Settings) -> list[str]:
    size, capacity = app.fleet.size, app.fleet.capacity
    if not capacity or given.platform != "aws" or given.aws is None:
        return []
    found: list[str] = []
    own = given.aws.capacity(size)
    for type_ in capacity.instance_types:
        other = size.model_copy(update={"instance_type": type_})
        has = given.aws.capacity(other)
        place = f"fleet.capacity.instance_types: {type_}:"
        if other.architecture != size.architecture:
            found.append(
                f"{place} is {other.architecture}, and fleet.size.instance_type ({size.instance_type}) is "
                f"{size.architecture}: one image (aws.ami) boots all; take types of one architecture"
            )
        elif own and has and has.memory_mib < own.memory_mib:
            found.append(
                f"{place} has {has.memory_mib} MiB, and fleet.size.instance_type ({size.instance_type}), for which "
                f"gateway is set, has {own.memory_mib}; take types that have as much"
            )
    return found
