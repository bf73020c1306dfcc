"""fleet.capacity: what is refused, with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from tests.unit.stack_blocks import ROOT, app, of_app, problems_of, production
from tests.unit.test_alb_settings import SERVERS, stack

CAPACITY: dict[str, Any] = {"min": 1, "max": 3, "requests_per_target": 1000}


def group(
    capacity: dict[str, Any] | None = None, fleet: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return an application whose servers are a group."""
    return app(
        **SERVERS | {"fleet": {**SERVERS["fleet"], "capacity": CAPACITY | (capacity or {}), **(fleet or {})}} | changes
    )


def test_a_group_behind_a_load_balancer_is_taken() -> None:
    whole = group({"cpu_percent": 60, "instance_types": ["t4g.medium"], "spot_percent": 50})
    assert problems_of(stack(apps={"hello": whole})) == []


@pytest.mark.parametrize(
    ("capacity", "fleet", "changes", "message"),
    [
        ({"min": 4}, {}, {}, "fleet.capacity.min: 4: is more than max (3); lower it, or raise max"),
        ({}, {"servers": 3}, {}, "fleet.servers: 3: conflicts with fleet.capacity; remove one of them"),
        (
            {"schedules": {"night": {"recurrence": "at night", "min": 1, "max": 1}}}, {}, {},
            'fleet.capacity.schedules.night.recurrence: "at night": should be five fields of cron: minute',
        ),
        (
            {"schedules": {"night": {"recurrence": "0 24 * * *", "min": 1, "max": 1}}}, {}, {},
            'fleet.capacity.schedules.night.recurrence: "0 24 * * *": 24 is no hour: it should be *, or 0 to 23,',
        ),
        (
            {"schedules": {"night": {"recurrence": "*/5 6 * * fri-mon", "min": 1, "max": 1}}}, {}, {},
            'fleet.capacity.schedules.night.recurrence: "*/5 6 * * fri-mon": fri-mon is no weekday: it should be *, or',
        ),
        (
            {"schedules": {"night": {"recurrence": "0 0 * * *", "time_zone": "Berlin", "min": 1, "max": 1}}}, {}, {},
            'fleet.capacity.schedules.night.time_zone: "Berlin": is no time zone; did you mean Europe/Berlin?',
        ),
        # One with that of fleet.size is one more than AWS takes.
        (
            {"instance_types": [f"m{number}g.large" for number in range(40)]}, {}, {},
            'fleet.capacity.instance_types: ["m0g.large", ',
        ),
        (
            {"instance_types": ["t4g.mediun"]}, {}, {},
            'fleet.capacity.instance_types.0: "t4g.mediun": should be an EC2 instance type, a family and a size',
        ),
        ({"instance_types": ["m7i.large"]}, {}, {}, "fleet.capacity.instance_types: m7i.large: is amd64, and"),
        ({"instance_types": ["t4g.micro"]}, {}, {}, "fleet.capacity.instance_types: t4g.micro: has 1024 MiB, and"),
        ({}, {}, {"schedules": {"x": {"command": "x", "calendar": "hourly"}}}, "schedules: run on the first server"),
        ({}, {}, {"workers": {"x": {"command": "x", "servers": "first"}}}, "workers.x.servers: first: of a group no"),
        ({}, {}, {"rollout": {"stage_timeout_s": 901}}, "rollout.stage_timeout_s: 901: a server that joins the group"),
    ],
)  # fmt: skip
def test_what_a_group_cannot_be_is_refused(
    capacity: dict[str, Any], fleet: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    found = problems_of(stack(apps={"hello": group(capacity, fleet, **changes)}))
    assert len(found) == 1, found
    assert found[0].startswith(f"apps.hello.{message}")


@pytest.mark.parametrize(
    "recurrence",
    ["* * * * *", "*/15 0,6-8 1 JAN-mar sun-5", "59 23 31 12 7", "5/20 0 29 2 *", "0 0 31 2-3 *", "0 0 31 2 mon"],
)
def test_a_recurrence_that_cron_knows_is_taken(recurrence: str) -> None:
    schedules = {"night": {"recurrence": recurrence, "min": 1, "max": 1}}
    assert problems_of(stack(apps={"hello": group({"schedules": schedules})})) == []


def problems_of_schedules(*recurrences: str, time_zones: Sequence[str] = ()) -> list[str]:
    """Return what is wrong with these schedules, without the path of all. Each has a time zone, or none has."""
    schedules = {f"s{n}": {"recurrence": each, "min": 1, "max": 1} for n, each in enumerate(recurrences)}
    for each, time_zone in zip(schedules.values(), time_zones, strict=False):
        each["time_zone"] = time_zone
    found = problems_of(stack(apps={"hello": group({"schedules": schedules})}))
    return [line.removeprefix("apps.hello.fleet.capacity.schedules") for line in found]


@pytest.mark.parametrize(
    ("recurrence", "why"),
    [
        (
            "*/61 * * * *",
            "*/61 is no minute: it should be *, or 0 to 59, with , - or / between them, and 1 to 59 behind",
        ),
        ("* */24 * * *", "*/24 is no hour: "),
        ("* */0 * * *", "*/0 is no hour: "),
        ("007 * * * *", "007 is no minute: "),
        ("0 0 31 2 *", "never comes: no month of 2 has a day 31; take an earlier day, or more months"),
        ("0 0 30-31 FEB */2", "never comes: no month of FEB has a day 30-31; "),
        ("0 0 31 4,6-6,sep,11 *", "never comes: no month of 4,6-6,sep,11 has a day 31; "),
    ],
)
def test_a_time_that_never_comes_or_that_cron_does_not_know_is_refused(recurrence: str, why: str) -> None:
    (message,) = problems_of_schedules(recurrence)
    assert message.startswith(f'.s0.recurrence: "{recurrence}": {why}')


def test_longer_recurrences_and_more_schedules_than_aws_takes_are_refused() -> None:
    (message,) = problems_of_schedules(f"{'9' * 5000} * * * *")
    assert message.startswith('.s0.recurrence: "999')
    assert "should be text of at most 255 characters; " in message
    times = [f"{n % 60} {n // 60} * * *" for n in range(101)]
    assert problems_of_schedules(*times[:100]) == []
    (message,) = problems_of_schedules(*times)
    assert "should be a mapping (name: value) of at most 100 names; " in message


def test_two_schedules_for_one_time_are_refused_unless_their_time_zones_differ() -> None:
    (message,) = problems_of_schedules("0 6 * * MON", "0 7 * * MON", "0 6 * * mon")
    assert message == (
        '.s2.recurrence: "0 6 * * mon": is that of s0 as well, and a group has one action at a time; take another '
        "time, or remove one of both"
    )
    assert problems_of_schedules("0 6 * * *", "0 6 * * *", time_zones=("UTC", "Europe/Berlin")) == []


def test_a_group_elsewhere_is_refused() -> None:
    (message,) = of_app(fleet={"capacity": {"min": 1, "max": 1}})
    assert message == "fleet.capacity: lxd has no groups; set platform: aws, or take fleet.servers"


def test_behind_a_machine_a_group_follows_all_but_requests_which_nobody_counts() -> None:
    whole = {"fleet": {"capacity": {"min": 2, "max": 2, "cpu_percent": 60}}}
    assert problems_of(production() | {"apps": {"hello": app(**whole)}}) == []
    whole["fleet"]["capacity"] |= {"requests_per_target": 1000}
    (message,) = problems_of(production() | {"apps": {"hello": app(**whole)}})
    assert message.startswith("apps.hello.fleet.capacity.requests_per_target: 1000: is counted by an Application Load")


def test_what_runs_on_the_first_server_has_a_place_beside_a_group_as_the_docs_say() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "scaling.md").read_text(), re.DOTALL)
    (apps,) = [yaml.safe_load(each)["wsgi-fleet:apps"] for each in blocks if "schedules:" in each]
    for each in apps.values():
        each.update(app())
    found = stack(apps=apps)
    assert problems_of(found) == []
    apps["shop"]["schedules"] = apps["shop-jobs"].pop("schedules")
    (message,) = problems_of(found)
    assert "move them to a second application of the same source with fleet.servers: 1" in message


def test_the_most_servers_of_a_group_count_where_room_is_needed() -> None:
    bounds = {"schedules": {"sale": {"recurrence": "0 6 * * *", "min": 2, "max": 1000}}}
    whole = {"hello": group(bounds), "other": group({}, path="/other")}
    found = problems_of(stack(apps=whole))
    assert any(line.startswith("apps: have 1003 servers, and an ALB takes 1000") for line in found)


def test_servers_of_a_group_are_not_restarted_by_updates() -> None:
    blocks = stack(apps={"hello": group()})
    assert problems_of(blocks | {"security_updates": {"reboot": False}}) == []
    (message,) = problems_of(blocks | {"security_updates": {"reboot": True}})
    assert message.startswith(
        "apps.hello.fleet.capacity: a server that restarts fails its health checks, and the group"
    )
