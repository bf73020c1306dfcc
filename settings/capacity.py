"""The settings of app servers whose number follows the load: an Auto Scaling group."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, model_validator

from settings.constraint import InstanceType, Name, matching
from settings.model import Model, reject
from settings.time_zone import UTC, TimeZone

if TYPE_CHECKING:
    from settings.application import App
    from settings.stack import Settings

# Servers of a group; an ALB has a quota of its own (settings/alb_support.py).
MAX_SERVERS = 1000
# TimeoutStartSec of templates/systemd/app-boot.service: a server that joins has it for all of a release.
BOOT_STAGE_S = 900
# Overrides of a launch template (LaunchTemplate of the API of EC2 Auto Scaling), of which one is fleet.size's own.
MAX_TYPES = 40 - 1
# Schedules of a group. AWS takes 125, of which those of other names that replace all at once need some.
MAX_SCHEDULES = 100
# Characters of Recurrence (PutScheduledUpdateGroupAction).
RECURRENCE_CHARS = 255
_CRON = r"([0-9*/,-]+ ){2}([0-9*/,-]+ )([0-9A-Za-z*/,-]+ )[0-9A-Za-z*/,-]+"
# The numbers of each field (crontab(5)), and the words for them in order. 7 is Sunday as well.
_FIELDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
_CRON_WORDS = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
_ITEM = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d{1,2}))?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,2}")
# Days of each month in the years that have most.
_MONTH_DAYS = dict(zip(range(1, 13), (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))


def _check_recurrence(text: str) -> str:
    """Check each field's numbers and words. AWS does so when it makes the action, in the middle of an `up`."""
    numbers: dict[str, set[int]] = {}
    for field, items in zip(_FIELDS, text.split(), strict=True):
        least, most = _FIELDS[field]
        found = [_numbers(each, field) for each in items.split(",")]
        if not all(found):
            words = f" or {_CRON_WORDS[field][0]} to {_CRON_WORDS[field][-1]}" if field in _CRON_WORDS else ""
            raise ValueError(
                f"{json.dumps(text)}: {items} is no {field}: it should be *, or {least} to {most}{words}, with , - or "
                f"/ between them, and 1 to {most} behind /; correct it"
            )
        numbers[field] = {number for each in found for number in each}
    _, _, days, months, weekdays = text.split()
    # With weekdays as well, either of both is enough.
    if weekdays.startswith("*") and min(numbers["day"]) > max(_MONTH_DAYS[month] for month in numbers["month"]):
        raise ValueError(
            f"{json.dumps(text)}: never comes: no month of {months} has a day {days}; take an earlier day, or more "
            "months"
        )
    return text


def _numbers(item: str, field: str) -> range:
    """Return what an item of a field stands for; no number for one that cron does not know."""
    least, most = _FIELDS[field]
    found = _ITEM.fullmatch(item)
    step = int(found["step"] or 1) if found else 0
    if found is None or not 1 <= step <= most:
        return range(0)
    first = _number(found["first"], field) if found["first"] else least
    # Of a step without an end, the last of the field.
    end = most if found["step"] or not found["first"] else first
    last = _number(found["last"], field) if found["last"] else end
    if first is None or last is None or not least <= first <= last <= most:
        return range(0)
    return range(first, last + 1, step)


def _number(text: str, field: str) -> int | None:
    words = _CRON_WORDS.get(field, [])
    if text.lower() in words:
        return words.index(text.lower()) + _FIELDS[field][0]
    return int(text) if _NUMBER.fullmatch(text) else None


class CapacitySchedule(Model):
    """Other bounds from a time on."""

    recurrence: Annotated[
        str,
        matching(
            rf"^{_CRON}$",
            "five fields of cron: minute, hour, day, month, weekday, each of digits, letters and any of * / , "
            '-; write one such as "30 6 * * 1-5"',
            max_length=RECURRENCE_CHARS,
        ),
        AfterValidator(_check_recurrence),
    ] = Field(description='when, as cron writes it: "30 6 * * 1-5"')
    time_zone: TimeZone = Field(default=UTC, description="time zone of recurrence, such as Europe/Berlin")
    min: int = Field(ge=1, le=MAX_SERVERS, description="servers at least from then on")
    max: int = Field(ge=1, le=MAX_SERVERS, description="servers at most from then on")

    @model_validator(mode="after")
    def _check_bounds(self) -> CapacitySchedule:
        _check_order(self.min, self.max)
        return self


class Capacity(Model):
    """How many app servers there are: at least, at most, and what makes them more."""

    min: int = Field(ge=1, le=MAX_SERVERS, description="servers at least")
    max: int = Field(ge=1, le=MAX_SERVERS, description="servers at most")
    requests_per_target: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="requests in a minute for each server that the group keeps to, with balancer.kind alb alone; "
        "null: it does not count them",
    )
    cpu_percent: int | None = Field(
        default=None, ge=10, le=90, description="CPU of the servers that the group keeps to; null: it does not look"
    )
    instance_types: list[InstanceType] = Field(
        default_factory=list[str],
        max_length=MAX_TYPES,
        description="further instance types of servers, besides fleet.size.instance_type",
    )
    spot_percent: int = Field(default=0, ge=0, le=100, description="share of the servers that are Spot instances")
    schedules: dict[Name, CapacitySchedule] = Field(
        default_factory=dict[str, CapacitySchedule],
        max_length=MAX_SCHEDULES,
        description="other bounds at set times, by name",
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> Capacity:
        _check_order(self.min, self.max)
        return self

    @model_validator(mode="after")
    def _check_schedules(self) -> Capacity:
        first: dict[tuple[str, str], str] = {}
        found: list[str] = []
        for name, each in self.schedules.items():
            other = first.setdefault((each.recurrence.lower(), each.time_zone.lower()), name)
            if other != name:
                found.append(
                    f"schedules.{name}.recurrence: {json.dumps(each.recurrence)}: is that of {other} as well, and a "
                    "group has one action at a time; take another time, or remove one of both"
                )
        reject(*found)
        return self


def _check_order(least: int, most: int) -> None:
    if least > most:
        reject(f"min: {least}: is more than max ({most}); lower it, or raise max")


def problems(settings: Settings) -> list[str]:
    """Return what of a whole stack keeps groups from working, each with its path."""
    return [
        f"apps.{name}.{problem}"
        for name, app in settings.apps.items()
        if app.fleet.capacity
        for problem in _problems_of(app, settings)
    ]


def _problems_of(app: App, settings: Settings) -> list[str]:
    found: list[str] = []
    if "servers" in app.fleet.model_fields_set:
        found.append(f"fleet.servers: {app.fleet.servers}: conflicts with fleet.capacity; remove one of them")
    if settings.platform != "aws":
        found.append(f"fleet.capacity: {settings.platform} has no groups; set platform: aws, or take fleet.servers")
    capacity = app.fleet.capacity
    if settings.balancer.kind == "machine" and capacity and capacity.requests_per_target:
        found.append(
            f"fleet.capacity.requests_per_target: {capacity.requests_per_target}: is counted by an Application Load "
            "Balancer alone; take cpu_percent or schedules, or balancer.kind: alb"
        )
    if app.schedules:
        found.append(
            "schedules: run on the first server, and of a group none is the first for long (fleet.capacity); move them "
            "to a second application of the same source with fleet.servers: 1 (docs/scaling.md)"
        )
    found += [
        f"workers.{name}.servers: first: of a group no server is the first for long (fleet.capacity); take all, or "
        "move it to a second application of the same source with fleet.servers: 1 (docs/scaling.md)"
        for name, worker in app.workers.items()
        if worker.servers == "first"
    ]
    if settings.aws and settings.aws.vpc and settings.aws.vpc.nat_gateways == "none":
        found.append(
            "fleet.capacity: servers tell EC2 Auto Scaling that they serve, and do not reach it with "
            "aws.vpc.nat_gateways: none; take single or one_per_az"
        )
    if settings.security_updates.reboot:
        found.append(
            "fleet.capacity: a server that restarts fails its health checks, and the group replaces it: set "
            "security_updates.reboot to false, and take a newer aws.ami for a new kernel"
        )
    if app.rollout.stage_timeout_s > BOOT_STAGE_S:
        found.append(
            f"rollout.stage_timeout_s: {app.rollout.stage_timeout_s}: a server that joins the group "
            f"(fleet.capacity) has {BOOT_STAGE_S} s to install the release; take at most that"
        )
    return found + _problems_of_types(app, settings)


def _problems_of_types(app: App, settings: Settings) -> list[str]:
    size, capacity = app.fleet.size, app.fleet.capacity
    if not capacity or settings.platform != "aws" or settings.aws is None:
        return []
    found: list[str] = []
    reference = settings.aws.capacity(size)
    for type_ in capacity.instance_types:
        other = size.model_copy(update={"instance_type": type_})
        has = settings.aws.capacity(other)
        place = f"fleet.capacity.instance_types: {type_}:"
        if other.architecture != size.architecture:
            found.append(
                f"{place} is {other.architecture}, and fleet.size.instance_type ({size.instance_type}) is "
                f"{size.architecture}: one image (aws.ami) boots all; take types of one architecture"
            )
        elif reference and has and has.memory_mib < reference.memory_mib:
            found.append(
                f"{place} has {has.memory_mib} MiB, and fleet.size.instance_type ({size.instance_type}), for which "
                f"gateway is set, has {reference.memory_mib}; take types that have as much"
            )
    return found
