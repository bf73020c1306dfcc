"""The operator's command where a load balancer stands in front, and no machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from platforms import operator
from platforms.load_balancer import LoadBalancerError, TargetHealth
from platforms.server_group import Phase
from releases.fleet import STATUS_COMMAND
from settings.alb_support import PAGE_CHARS
from tests.unit.fake_group import FakeGroup
from tests.unit.fake_stack import NEW, OLD, FakeStack, facts, make
from tests.unit.test_commands import fleet

HEALTHY = {"m-hello-1": TargetHealth("healthy"), "m-hello-2": TargetHealth("healthy")}


@dataclass
class Front:
    """A load balancer in memory. calls: what it was told to do."""

    targets: dict[str, TargetHealth] = field(default_factory=lambda: dict(HEALTHY))
    page: str | None = None
    error: str = ""
    calls: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])

    def health(self, app: str) -> dict[str, TargetHealth]:
        assert app == "hello"
        if self.error:
            raise LoadBalancerError(self.error)
        return self.targets

    def drain(self, *what: str) -> None:
        self.calls.append(("drain", *what))

    def admit(self, *what: str) -> None:
        if self.error:
            raise LoadBalancerError(self.error)
        self.calls.append(("admit", *what))

    def in_maintenance(self) -> bool:
        return self.page is not None

    def set_maintenance(self, page: str | None) -> None:
        self.page = page


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    made = make(monkeypatch)
    del made.output["balancer"]
    made.output["load_balancer"] = {"platform": "memory", "maintenance_page": "<h1>soon</h1>"}
    return made


@pytest.fixture
def front(stack: FakeStack, monkeypatch: pytest.MonkeyPatch) -> Front:
    del stack
    made = Front()

    def load_balancer(spec: object) -> Front:
        del spec
        return made

    monkeypatch.setattr(operator, "load_balancer", load_balancer)
    return made


def test_status_shows_what_the_load_balancer_finds(front: Front) -> None:
    result = fleet("status")
    assert result.exit_code == 0, result.output
    rows = [line.split()[:3] for line in result.output.splitlines()[3:]]
    assert [row[:2] for row in rows[1:3]] == [["hello-1", "serving"], ["hello-2", "serving"]]
    assert rows[3] == ["load", "balancer", "serving"]
    front.page = "x"
    assert "maintenance is ON" in fleet("status").output


@pytest.mark.parametrize(
    ("health", "code", "message"),
    [
        (TargetHealth("unused"), 0, "hello-2 is drained: it gets no requests: drained by hand, or not yet registered"),
        (TargetHealth("draining"), 0, "hello-2 is drained: "),
        (TargetHealth("initial"), 1, "hello-2 is starting: the load balancer has not found it healthy yet"),
        (
            TargetHealth("unhealthy", "Health checks failed with these codes: [500]"),
            1,
            "hello-2 is unhealthy: the load balancer finds it unhealthy: Health checks failed with these codes: [500]",
        ),
    ],
)
def test_status_says_why_a_server_gets_no_requests(front: Front, health: TargetHealth, code: int, message: str) -> None:
    front.targets["m-hello-2"] = health
    result = fleet("status")
    assert message in result.output
    assert result.exit_code == code


def test_a_load_balancer_that_cannot_be_asked_is_a_problem_of_the_stack_and_not_of_servers(front: Front) -> None:
    front.error = "ExpiredToken: log in"
    result = fleet("status", "--json")
    report = json.loads(result.output)
    assert (result.exit_code, report["maintenance"], report["balancer"]["problem"]) == (1, None, "ExpiredToken: log in")
    assert [server["state"] for server in report["servers"]] == ["serving", "serving"]
    assert "ExpiredToken: log in" in fleet("doctor").output


def test_drain_and_admit_go_to_the_load_balancer(front: Front) -> None:
    for verb in ("drain", "admit"):
        assert fleet(verb, "hello-2").exit_code == 0
    assert front.calls == [("drain", "hello", "m-hello-2"), ("admit", "hello", "m-hello-2")]
    front.error = "Throttling"
    result = fleet("admit", "hello-2")
    assert (result.exit_code, "hello-2: Throttling" in result.output) == (1, True)


def test_maintenance_is_a_page_of_the_load_balancer(front: Front, tmp_path: Path) -> None:
    assert fleet("maintenance", "on").exit_code == 0
    assert front.page == "<h1>soon</h1>"
    page = tmp_path / "page.html"
    page.write_text("x" * PAGE_CHARS)
    assert fleet("maintenance", "on", "--page", str(page)).exit_code == 0
    assert front.page == page.read_text()
    page.write_text("x" * (PAGE_CHARS + 1))
    result = fleet("maintenance", "on", "--page", str(page))
    assert (result.exit_code, f"has {PAGE_CHARS + 1} characters" in result.output) == (2, True)
    assert fleet("maintenance", "off").exit_code == 0
    assert front.page is None


@pytest.mark.parametrize(
    ("command", "way"),
    [
        (("logs", "--server", "balancer"), "its access log is in S3, where balancer.alb.access_logs is set"),
        (("shell", "--server", "balancer"), "name a server"),
    ],
)
def test_what_needs_a_machine_in_front_is_refused_with_the_way_out(
    front: Front, command: tuple[str, ...], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del front
    monkeypatch.setenv("COLUMNS", "300")
    result = fleet(*command)
    assert result.exit_code == 2
    assert "there is no balancer machine, because balancer.kind is alb" in result.output
    assert way in result.output


def test_a_bundle_has_what_there_is(front: Front, stack: FakeStack, tmp_path: Path) -> None:
    del front
    file = tmp_path / "bundle.tar.gz"
    assert fleet("bundle", "--output", str(file)).exit_code == 0
    asked: Any = {target for target, _, _ in stack.machines.calls}
    assert asked == {"m-hello-1", "m-hello-2"}
    assert file.exists()


def test_a_release_for_another_kind_of_balancer_is_not_gone_back_to(front: Front, stack: FakeStack) -> None:
    del front
    stack.released(NEW)
    result = fleet("rollback", "--yes")
    assert result.exit_code == 1
    assert f"release {OLD} is made for balancer.kind machine, and alb is in front" in " ".join(result.output.split())
    stack.store.write(f"releases/{OLD}/manifest.json", b'{"front": "alb"}')
    assert fleet("rollback", "--yes").exit_code == 0


@pytest.fixture
def group(stack: FakeStack, front: Front, monkeypatch: pytest.MonkeyPatch) -> FakeGroup:
    """Have the servers be a group of three, of which one waits and one leaves."""
    made = FakeGroup({"i-1": Phase.SERVING, "i-2": Phase.WAITING, "i-3": Phase.LEAVING})

    def server_group(spec: object) -> FakeGroup:
        assert spec == {"platform": "memory", "name": "g"}
        return made

    monkeypatch.setattr(operator, "server_group", server_group)
    stack.output["apps"]["hello"] |= {"servers": [], "group": {"platform": "memory", "name": "g"}}
    for number in (1, 2):
        stack.machines.answers[f"i-{number}@10.0.0.{number}", STATUS_COMMAND] = facts()
    front.targets = {"i-1": TargetHealth("healthy")}
    return made


def test_the_servers_of_a_group_are_those_that_it_has_now(group: FakeGroup, stack: FakeStack) -> None:
    report = json.loads(fleet("status", "--json").output)["servers"]
    assert [(each["name"], each["state"]) for each in report] == [("hello-i-1", "serving"), ("hello-i-2", "starting")]
    assert report[1]["cause"] == "its group waits until it serves the current release"
    del group.phases["i-2"]
    assert [each["name"] for each in json.loads(fleet("status", "--json").output)["servers"]] == ["hello-i-1"]
    group.phases.clear()
    assert "hello has no servers now" in fleet("exec", "--", "true").output
    assert stack.output["apps"]["hello"]["servers"] == []


@pytest.mark.parametrize("name", ["hello-i-1", "i-1"])
def test_a_drained_server_of_a_group_is_on_standby_for_else_it_would_be_replaced(
    group: FakeGroup, front: Front, name: str
) -> None:
    for verb in ("drain", "admit"):
        assert fleet(verb, name).exit_code == 0
    assert group.standing_by == [("i-1", True), ("i-1", False)]
    assert front.calls == [("drain", "hello", "i-1@10.0.0.1")]
