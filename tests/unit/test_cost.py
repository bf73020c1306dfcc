"""What a stack costs in a month: from its plan and a price table."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from harness import program
from policies import cost, page
from policies.control import Planned
from policies.cost import Cost


def planned_resource(type_: str, **inputs: object) -> Planned:
    return Planned(f"aws:{type_}", "it", "urn:pulumi:prod::p::it", "", inputs)


def machine(kind: str) -> Planned:
    return planned_resource(
        "ec2/instance:Instance", instanceType=kind, rootBlockDevice={"volumeSize": 10}, monitoring=True
    )


def price(monkeypatch: pytest.MonkeyPatch, *plan: Planned) -> int:
    """Print the costs of a plan. Return the exit code."""

    def plan_of(argument: str) -> tuple[str, list[Planned]]:
        return argument, list(plan)

    monkeypatch.setattr(cost, "plan_of", plan_of)
    return cost.main(["prod"])


def test_the_costs_in_the_docs_are_those_of_the_stack_files() -> None:
    for file, text in page.pages_of_costs().items():
        assert file.read_text() == text, "run `python -m policies.page`"


def test_equal_things_are_counted_and_sizes_are_multiples_of_large() -> None:
    endpoint = planned_resource("ec2/vpcEndpoint:VpcEndpoint", vpcEndpointType="Interface", subnetIds=["a", "b"])
    alarm = planned_resource("cloudwatch/metricAlarm:MetricAlarm", namespace="wsgi-fleet/prod")
    found = cost.costs([machine("t3.micro"), machine("t3.micro"), machine("m6g.2xlarge"), endpoint, alarm])
    assert [Cost(each.what, each.usd and round(each.usd, 2), each.number) for each in found] == [
        Cost("alarm", 0.10),
        Cost("disk, 10 GiB gp3", 0.95, 3),
        Cost("interface endpoint, each zone", 8.76, 2),
        Cost("machine, m6g.2xlarge", 268.64),
        Cost("machine, t3.micro", 8.76, 2),
        Cost("metric that a machine reports", 0.30),
        Cost("metrics of a machine by the minute", 2.10, 3),
    ]
    assert round(cost.total_usd(found), 2) == 313.24


def test_a_group_costs_its_fewest_servers_and_says_what_more_of_them_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disks = [{"ebs": {"volumeSize": 10}}]
    template = planned_resource("ec2/launchTemplate:LaunchTemplate", instanceType="t3.micro", blockDeviceMappings=disks)
    plan = [template, planned_resource("autoscaling/group:Group", minSize=2, maxSize=5)]
    assert {each.what: each.number for each in cost.costs(plan)} == {
        "machine, t3.micro": 2, "disk, 10 GiB gp3": 2, "metrics of a machine by the minute": 2,
    }  # fmt: skip
    assert price(monkeypatch, *plan) == 0
    assert "it has 2 servers in this; each further one is 11.81, 35.44 more with 5" in (out := capsys.readouterr().out)
    assert "traffic to the internet" in out


def test_a_load_balancer_has_an_address_in_each_zone_and_its_own_metrics_are_free() -> None:
    metric = {"namespace": "AWS/ApplicationELB"}
    share = planned_resource("cloudwatch/metricAlarm:MetricAlarm", metricQueries=[{"id": "x"}, {"metric": metric}] * 2)
    found = cost.costs([planned_resource("lb/loadBalancer:LoadBalancer", subnets=["a", "b", "c"]), share])
    assert [Cost(each.what, each.usd and round(each.usd, 2), each.number) for each in found] == [
        Cost("alarm", 0.10, 2),
        Cost("load balancer", 19.71),
        Cost("public address", 3.65, 3),
    ]


def test_a_type_without_a_price_is_said_and_the_sum_is_a_least_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert price(monkeypatch, machine("x9.large")) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["machine,", "x9.large", "1", "x", "no", "price"] in lines
    assert ["together", "at", "least", "3.05"] in lines


def test_what_the_table_does_not_know_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert price(monkeypatch, planned_resource("rds/instance:Instance")) == 2
    assert "the price table knows no aws:rds/instance:Instance" in capsys.readouterr().err


def test_a_source_beside_the_checkout_is_found_and_a_mistake_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "requirements.txt").touch()
    blocks = program.stack_file("dev")
    blocks["apps"]["hello"]["source"] = os.path.relpath(tmp_path / "shop", program.ROOT)

    def stack_file(stack: str) -> dict[str, Any]:
        del stack
        return copy.deepcopy(blocks)

    monkeypatch.setattr(program, "stack_file", stack_file)
    blocks["apps"]["hello"]["rollout"] = {"drain_timeout_s": 62}
    assert cost.main(["dev"]) == 0
    out, err = capsys.readouterr()
    assert "together" in out
    assert err.startswith("warning: apps.hello.rollout.drain_timeout_s: 62: is less than Nginx waits")
    blocks["apps"]["hello"]["fleet"]["servers"] = 0
    assert cost.main(["dev"]) == 2
    assert "apps.hello.fleet.servers: 0" in capsys.readouterr().err
    assert cost.main(["nosuch"]) == 2
    assert "there is no file stacks/Pulumi.nosuch.yaml; there are dev" in capsys.readouterr().err
