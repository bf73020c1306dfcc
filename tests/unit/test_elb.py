"""Servers in a target group: registered, healthy, drained; and the maintenance rule. AWS is moto, or made up."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, cast

import boto3
import pytest
from moto import mock_aws

from platforms.aws import elb, target
from platforms.aws.elb import AlbOperator, Elb
from platforms.load_balancer import LoadBalancerError, TargetHealth

REGION, PROPS = "eu-central-1", {"name": "hello-1", "region": "eu-central-1", "drain_timeout_s": 1}


@pytest.fixture(scope="module")
def alb() -> Generator[dict[str, str]]:
    """Yield the ARNs of a listener and of a target group, and the id of a machine. Tests leave it without targets."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "x")
        for module in (elb, target):
            patch.setattr(module, "LOOK_S", 0.01)
        ec2: Any = cast("Any", boto3).client("ec2", region_name=REGION)
        client: Any = cast("Any", boto3).client("elbv2", region_name=REGION)
        subnets = [each["SubnetId"] for each in ec2.describe_subnets()["Subnets"]][:2]
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        made = client.create_load_balancer(Name="balancer", Subnets=subnets)["LoadBalancers"][0]["LoadBalancerArn"]
        group = client.create_target_group(Name="hello", Protocol="HTTP", Port=8000, VpcId=vpc)
        arn = group["TargetGroups"][0]["TargetGroupArn"]
        actions = [{"Type": "forward", "TargetGroupArn": arn}]
        listener = client.create_listener(LoadBalancerArn=made, Protocol="HTTP", Port=80, DefaultActions=actions)
        machine = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
        yield {"listener": listener["Listeners"][0]["ListenerArn"], "group": arn, "machine": machine}


def operator(alb: dict[str, str]) -> AlbOperator:
    return AlbOperator.from_spec(
        {
            "region": REGION,
            "listener": alb["listener"],
            "groups": {"hello": alb["group"]},
            "drain_timeout_s": {"hello": 1},
        }
    )


def test_a_server_is_registered_until_it_is_drained(alb: dict[str, str]) -> None:
    made, props = target._Provider(), PROPS | alb  # pyright: ignore[reportPrivateUsage]
    created = made.create(props)
    assert operator(alb).health("hello") == {alb["machine"]: TargetHealth("healthy")}
    operator(alb).drain("hello", f"{alb['machine']}@10.0.0.1")
    assert operator(alb).health("hello") == {}
    operator(alb).admit("hello", f"{alb['machine']}@10.0.0.1")
    assert operator(alb).health("hello") == {alb["machine"]: TargetHealth("healthy")}
    made.delete(created.id or "", props)
    # What is gone is no error.
    made.delete(created.id or "", props)
    assert operator(alb).health("hello") == {}


def set_states(monkeypatch: pytest.MonkeyPatch, machine: str, *states: str) -> None:
    """Have AWS find these states of a machine, one after the other, and the last for ever."""
    left: Iterator[str] = iter(states[:-1])

    def health(elb: Elb, group: str) -> dict[str, tuple[str, str]]:
        del elb, group
        return {machine: (next(left, states[-1]), "Health checks failed")}

    monkeypatch.setattr(Elb, "health", health)


def test_a_server_that_does_not_become_healthy_is_taken_out_again(
    alb: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "HEALTHY_S", 0.05)
    health = Elb.health
    set_states(monkeypatch, alb["machine"], "initial", "unhealthy")
    with pytest.raises(target.TargetError, match=r"^hello-1: .* \(Health checks failed\), and it gets no requests; "):
        target._Provider().create(PROPS | alb)  # pyright: ignore[reportPrivateUsage]
    assert health(Elb(REGION), alb["group"]) == {}


def test_a_server_leaves_when_its_requests_have_ended(alb: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    states = iter(["draining", "draining", "unused"])

    def health(*_: Any) -> dict[str, tuple[str, str]]:
        asked.append(next(states))
        return {alb["machine"]: (asked[-1], "")}

    monkeypatch.setattr(Elb, "health", health)
    target._Provider().delete("id", PROPS | alb)  # pyright: ignore[reportPrivateUsage]
    assert asked == ["draining", "draining", "unused"]
    monkeypatch.setattr(elb, "DRAINED_S", -1)
    set_states(monkeypatch, alb["machine"], "draining")
    with pytest.raises(LoadBalancerError, match="it still has requests after 0 s"):
        operator(alb).drain("hello", alb["machine"])


def test_another_machine_is_another_target_and_a_change_of_the_drain_is_none() -> None:
    diff = target._Provider().diff  # pyright: ignore[reportPrivateUsage]
    old = PROPS | {"group": "g", "machine": "i-1"}
    assert not diff("", old, old).changes
    assert diff("", old, old | {"drain_timeout_s": 9}).replaces == []
    assert diff("", old, old | {"machine": "i-2"}).replaces == ["machine"]


def test_maintenance_is_a_rule_before_all_others_that_can_be_changed_and_taken_away(alb: dict[str, str]) -> None:
    made = operator(alb)
    assert not made.in_maintenance()
    made.set_maintenance(None)
    for page in ("<h1>soon</h1>", "<h1>later</h1>"):
        made.set_maintenance(page)
        assert made.in_maintenance()
        client: Any = cast("Any", boto3).client("elbv2", region_name=REGION)
        first, _default = client.describe_rules(ListenerArn=alb["listener"])["Rules"]
        assert first["Priority"] == "1"
        assert first["Actions"][0]["FixedResponseConfig"] == {
            "StatusCode": "503",
            "ContentType": "text/html",
            "MessageBody": page,
        }
    made.set_maintenance(None)
    assert not made.in_maintenance()


def test_an_error_of_aws_says_what_to_do(alb: dict[str, str]) -> None:
    with pytest.raises(LoadBalancerError, match=r"`\./fleet doctor` looks at the credentials"):
        operator(alb | {"listener": alb["listener"] + "x"}).in_maintenance()
