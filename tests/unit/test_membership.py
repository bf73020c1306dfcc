"""How a balancer learns which servers groups have, from AWS's own answers, and which it has replaced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import group_members
import membership
import pytest
import scaling_groups
from aws_service import Refused
from membership import ASK_S, CONDEMN_S, SILENT_S, Membership, dead_members
from server_health import Server
from site_state import State

ONE, TWO, THREE = "10.0.0.1", "10.0.0.2", "10.0.0.3"
INSTANCE = """<member><InstanceId>{}</InstanceId><LifecycleState>{}</LifecycleState></member>"""


class Aws:
    """Answers as AWS's API references show it. states: instance -> lifecycle state; address of i-N: 10.0.0.N.

    refuses: actions. asked: (action, other parameters).
    """

    def __init__(self) -> None:
        self.states = {"i-1": "InService", "i-2": "InService", "i-3": "Terminating:Wait", "i-4": "Pending:Wait"}
        self.refuses: set[str] = set()
        self.asked: list[tuple[str, dict[str, str]]] = []

    def post(self, content_type: str, body: bytes, target: str = "") -> bytes:
        assert (content_type.partition(";")[0], target) == ("application/x-www-form-urlencoded", "")
        given = dict(parse_qsl(body.decode()))
        action, version = given.pop("Action"), given.pop("Version")
        assert version == ("2016-11-15" if action == "DescribeInstances" else "2011-01-01")
        self.asked.append((action, given))
        if action in self.refuses:
            raise Refused("autoscaling", 403, "<Code>AccessDenied</Code>")
        return getattr(self, f"_{action}")(given).encode()

    def _DescribeAutoScalingGroups(self, given: dict[str, str]) -> str:
        # Each group in a page of its own.
        names = [value for key, value in given.items() if key.startswith("AutoScalingGroupNames.member.")]
        page = int(given.get("NextToken", "0"))
        token = f"<NextToken>{page + 1}</NextToken>" if page + 1 < len(names) else ""
        there = "".join(INSTANCE.format(*each) for each in self.states.items()) if names[page] == "g" else ""
        group = f"<AutoScalingGroupName>{names[page]}</AutoScalingGroupName><Instances>{there}</Instances>"
        groups = "" if names[page] == "gone" else f"<member>{group}</member>"
        return (
            '<DescribeAutoScalingGroupsResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/">'
            f"<DescribeAutoScalingGroupsResult><AutoScalingGroups>{groups}</AutoScalingGroups>{token}"
            "</DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>"
        )

    def _DescribeInstances(self, given: dict[str, str]) -> str:
        assert given["Filter.1.Name"] == "instance-id"
        ids = [value for key, value in given.items() if key.startswith("Filter.1.Value.")]
        items = "".join(
            f"<item><instanceId>{id_}</instanceId><privateIpAddress>10.0.0.{id_[-1]}</privateIpAddress></item>"
            for id_ in ids
        )
        return (
            '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet><item>'
            f"<instancesSet>{items}</instancesSet></item></reservationSet></DescribeInstancesResponse>"
        )

    def _SetInstanceHealth(self, given: dict[str, str]) -> str:
        assert given["HealthStatus"] == "Unhealthy"
        return "<SetInstanceHealthResponse/>"


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """Create AWS with a group g, and a balancer that asks for it."""
    made = Aws()

    class Service:
        def __init__(self, _name: str) -> None:
            self.post = made.post

    monkeypatch.setattr(scaling_groups, "Service", Service)
    monkeypatch.setattr(membership, "GROUPS", tmp_path / "groups.json")
    monkeypatch.setattr(membership, "FILE", tmp_path / "members.json")
    membership.GROUPS.write_text('["g"]')
    return made


def state(*members: tuple[str, str], drained: tuple[str, ...] = ()) -> State:
    """Return a site of one group with these servers: address, instance."""
    group = {"name": "g", "line": "@ADDRESS@", "no_server": "", "members": dict(members)}
    upstream: Any = {"servers": dict.fromkeys(dict(members), ""), "group": group}
    return State({"parts": [], "upstreams": {"app_a": upstream}, "https": False}, drained, [])


def ask(made: Membership, now: float, site: State | None = None, servers: dict[str, Server] | None = None) -> None:
    """Have AWS be asked, where that is due, and wait for the answer."""

    async def live() -> None:
        made.ask(site or state(), servers or {}, now)
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    asyncio.run(live())


def test_members_are_in_service_and_an_address_is_asked_for_once(aws: Aws) -> None:
    client = scaling_groups.ScalingGroups()
    assert client.in_service(["g", "gone", "empty"]) == {"g": {ONE: "i-1", TWO: "i-2"}, "empty": {}}
    aws.states |= {"i-1": "Terminating", "i-3": "InService"}
    assert client.in_service(["g"]) == {"g": {TWO: "i-2", THREE: "i-3"}}
    asked = [sorted(given.values()) for action, given in aws.asked if action == "DescribeInstances"]
    assert asked == [["i-1", "i-2", "instance-id"], ["i-3", "instance-id"]]


def test_what_aws_names_stands_in_a_file_and_silence_changes_nothing(aws: Aws) -> None:
    made, start_s = Membership(1000), 1000.0
    ask(made, start_s)
    assert json.loads(membership.FILE.read_text()) == {"g": {ONE: "i-1", TWO: "i-2"}}
    assert made.differs(state((ONE, "i-1")))
    assert not made.differs(state((ONE, "i-1"), (TWO, "i-2")))
    aws.states, aws.refuses = {}, {"DescribeAutoScalingGroups"}
    ask(made, start_s + ASK_S - 1)
    assert len(aws.asked) == 2
    ask(made, start_s + ASK_S)
    assert made.problem(start_s + ASK_S) == ""
    assert "autoscaling responded with 403" in made.problem(start_s + SILENT_S)
    assert json.loads(membership.FILE.read_text()) == {"g": {ONE: "i-1", TWO: "i-2"}}
    aws.refuses = set()
    ask(made, start_s + 2 * ASK_S)
    assert made.problem(start_s + 2 * ASK_S) == ""
    assert json.loads(membership.FILE.read_text()) == {"g": {}}


def test_a_group_that_is_not_there_is_a_problem_and_a_balancer_without_groups_asks_nobody(aws: Aws) -> None:
    membership.GROUPS.write_text('["gone"]')
    made = Membership(1000)
    ask(made, 1000, state((ONE, "i-1")))
    assert made.problem(1000) == "AWS has no Auto Scaling group gone; `pulumi up` makes it"
    assert not made.differs(state((ONE, "i-1")))
    aws.asked.clear()
    membership.GROUPS.unlink()
    made = Membership(1000)
    ask(made, 1000)
    assert (aws.asked, made.problem(1000)) == ([], "")


def server(dead_s: float) -> Server:
    """Return a server that is unhealthy for so long at the second 1000; 0: healthy."""
    return Server(0, 1000 - dead_s, is_healthy=not dead_s)


LONG = CONDEMN_S + 1


@pytest.mark.parametrize(
    ("dead_s", "drained", "expected"),
    [
        ((LONG, 0, 0), (), ["i-1"]),
        ((CONDEMN_S - 1, 0, 0), (), []),
        ((LONG, 0, 0), (ONE,), []),
        # The application, or the way to it: one that fell ill a moment later would be next.
        ((LONG, 5, 0), (), []),
        ((LONG, LONG, LONG), (), []),
        ((LONG, 0), (), ["i-1"]),
        ((LONG,), (), []),
    ],
)
def test_who_is_dead_for_long_is_replaced_unless_most_are(
    dead_s: tuple[float, ...], drained: tuple[str, ...], expected: list[str]
) -> None:
    members = [(f"10.0.0.{number}", f"i-{number}") for number in range(1, len(dead_s) + 1)]
    servers = {address: server(each) for (address, _), each in zip(members, dead_s, strict=True)}
    assert dead_members(state(*members, drained=drained), servers, 1000) == expected


def test_one_is_condemned_once_in_a_minute_and_a_refusal_hides_no_member(
    aws: Aws, capsys: pytest.CaptureFixture[str]
) -> None:
    made, site, start_s = Membership(1000), state((ONE, "i-1"), (TWO, "i-2")), 1000.0
    servers = {ONE: Server(0, start_s - LONG, is_healthy=False), TWO: Server(0, 0)}
    aws.refuses = {"SetInstanceHealth"}
    for after in (0, ASK_S, membership.AGAIN_S):
        ask(made, start_s + after, site, servers)
    condemned = [given["InstanceId"] for action, given in aws.asked if action == "SetInstanceHealth"]
    assert condemned == ["i-1", "i-1"]
    assert made.members == {"g": {ONE: "i-1", TWO: "i-2"}}
    assert "error: i-1 is not replaced: autoscaling responded with 403" in capsys.readouterr().out


def test_a_site_waits_for_the_first_answer_about_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_members, "FILE", tmp_path / "members.json")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        responses: list[dict[str, Any]] = [{}, {"g": {}}, {"g": {ONE: "i-1"}}]
        group_members.FILE.write_text(json.dumps(responses[len(slept) - 1]))

    monkeypatch.setattr(group_members.time, "sleep", sleep)
    wait: Callable[[State], None] = group_members.wait_for
    wait(state())
    assert len(slept) == 3
