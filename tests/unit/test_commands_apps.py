"""The operator's command on a stack of two applications: what it shows of both, and how one is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from commands.__main__ import app
from platforms.transport import PrefixStore
from releases import pointers
from tests.unit.fake_stack import ADDRESSES, GONE, NEW, OLD, FakeStack, front, make, on_new

SITE = "/usr/local/lib/wsgi-fleet/proxy_site.py"
TRAFFIC = "/usr/local/lib/wsgi-fleet/balancer_status.py"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    """Create a stack on which hello serves OLD on two servers, and shop serves NEW on one."""
    stack = make(monkeypatch)
    hello: dict[str, Any] = stack.output["apps"]["hello"]
    shop = {"name": "shop-1", "target": "m-shop-1", "address": "10.0.0.3"}
    hello["routes"] = ["/ of every host"]
    hosts = [f"{name}.example.org/" for name in ("shop", "www", "a", "b")]
    stack.output["apps"]["shop"] = hello | {"servers": [shop], "routes": hosts}
    stack.machines.status("shop-1", on_new())
    stack.machines.traffic(front(active=[*ADDRESSES.values(), "10.0.0.3"]))
    pointers.set_current(PrefixStore(stack.whole, "shop"), NEW)
    return stack


def fleet(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_status_shows_both_in_one_table_and_asks_the_balancer_once(stack: FakeStack) -> None:
    result = fleet("status")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.output.splitlines()]
    running = "servers run debian-13 with Python 3.13.5"
    assert lines[0] == f"http://192.0.2.1  2 applications of stack prod; {running}; maintenance is off"
    assert lines[1].startswith(f"hello (/ of every host): release {OLD} (abc1234) by ")
    assert lines[2] == f"shop (shop.example.org/, www.example.org/ and 2 more): release {NEW}; no rollout is running"
    names, states, releases = zip(*(line.split()[:3] for line in lines[5:]), strict=True)
    assert names == ("hello-1", "hello-2", "shop-1", "balancer")
    assert (states, releases) == (("serving",) * 4, (OLD, OLD, NEW, "1.0"))
    assert stack.machines.asked("m-balancer") == [TRAFFIC]


def test_status_as_json_has_what_they_share_once_and_one_that_is_named_looks_like_the_only_one(
    stack: FakeStack,
) -> None:
    report = json.loads(fleet("status", "--json").output)
    assert report.keys() == {"stack", "url", "maintenance", "balancer", "healthy", "apps"}
    assert report["apps"].keys() == {"hello", "shop"}
    shop = report["apps"]["shop"]
    assert (shop["release"]["id"], [each["name"] for each in shop["servers"]]) == (NEW, ["shop-1"])
    assert shop["routes"][0] == "shop.example.org/"
    stack.machines.calls.clear()
    report = json.loads(fleet("status", "--json", "--app", "shop").output)
    assert (report["app"], report["healthy"]) == ("shop", True)
    assert fleet("status", "--app", "shop").output.startswith(f"http://192.0.2.1  shop of stack prod, release {NEW}\n")
    assert stack.machines.asked("m-hello-1") == []


def test_a_server_of_one_that_is_not_well_makes_the_whole_unwell(stack: FakeStack) -> None:
    stack.machines.status("shop-1", GONE)
    result = fleet("status")
    assert (result.exit_code, json.loads(fleet("status", "--json").output)["healthy"]) == (1, False)
    assert "shop-1 is unreachable: no route to host" in result.output
    assert fleet("status", "--app", "hello").exit_code == 0
    output = fleet("doctor").output
    assert "wrong  shop-1: unreachable: no route to host" in output
    assert output.count("ok     balancer\n") == 1
    assert "ok     disk of hello-2" in output


@pytest.mark.parametrize(
    "arguments",
    [["releases"], ["rollback", "--yes"], ["allow", NEW], ["exec", "--", "true"], ["console"], ["shell"], ["bundle"]],
)
def test_what_is_about_one_application_wants_it_named_and_names_them(stack: FakeStack, arguments: list[str]) -> None:
    result = fleet(*arguments)
    assert result.output == "error: stack prod has several applications: add `--app` with one of hello, shop\n"
    assert (result.exit_code, stack.machines.calls) == (2, [])
    result = fleet(arguments[0], "--app", "shp", *arguments[1:])
    assert result.output == "error: there is no application shp; did you mean shop?\n"
    assert (result.exit_code, stack.machines.calls) == (2, [])


def test_a_server_says_which_application_is_meant(stack: FakeStack) -> None:
    assert fleet("exec", "--server", "shop-1", "--", "true").exit_code == 0
    assert [target for target, _, _ in stack.machines.calls] == ["m-shop-1"]
    why = "error: 10.0.0.3 is no server of this balancer (its servers: 10.0.0.1, 10.0.0.2)"
    stack.machines.answers["m-balancer", f"{SITE} drain"] = (1, why)
    message = "error: the balancer: shop-1 is no server of this balancer (its servers: hello-1, hello-2)\n"
    assert fleet("drain", "shop-1").output == message
    assert stack.machines.asked("m-balancer") == [f"{SITE} drain 10.0.0.3"]
    result = fleet("admit", "shop-2")
    assert (result.output, result.exit_code) == ("error: there is no server shop-2; did you mean shop-1?\n", 2)


def test_logs_are_those_of_all_servers_of_one_application_or_of_one_machine(stack: FakeStack) -> None:
    def asked(*arguments: str) -> set[str]:
        stack.machines.calls.clear()
        assert fleet("logs", *arguments).exit_code == 0
        return {target for target, _, _ in stack.machines.calls}

    assert asked() == {"m-hello-1", "m-hello-2", "m-shop-1"}
    assert asked("--app", "shop") == {"m-shop-1"}
    assert asked("--server", "hello-2") == {"m-hello-2"}
    assert asked("--server", "balancer") == {"m-balancer"}


def test_maintenance_is_of_all_applications_and_takes_no_name_of_one(stack: FakeStack) -> None:
    result = fleet("maintenance", "on", "--app", "shop")
    assert "No such option: --app" in result.output
    assert (result.exit_code, stack.machines.calls) == (2, [])
    assert fleet("maintenance", "on").exit_code == 0
    assert stack.machines.asked("m-balancer") == [f"{SITE} maintenance on"]


def test_rollback_and_releases_move_and_show_one_application_alone(stack: FakeStack) -> None:
    stack.released(NEW)
    stack.released(OLD)
    before = {key: value for key, value in stack.whole.files.items() if key.startswith("shop/")}
    assert fleet("rollback", "--yes", "--app", "hello").exit_code == 0
    assert pointers.current(stack.store) == NEW
    assert {key: value for key, value in stack.whole.files.items() if key.startswith("shop/")} == before
    assert stack.machines.asked("m-shop-1") == []
    assert fleet("releases", "--app", "shop").output == "nothing was released yet; `pulumi up` does\n"
