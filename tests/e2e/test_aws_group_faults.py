"""What happens to a group of servers meanwhile: releases, load, a zone that goes, Spot notices. By the real engine.

See tests/aws/ for what stands in for AWS. Tests share one group of Spot instances; each says with how many it begins.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator

import pytest

from harness.evidence import assert_nothing_was_lost
from harness.load import PAUSE_S
from harness.stack import eventually, lxc
from tests.aws.session import Running, running
from tests.e2e.test_aws import REGION
from tests.e2e.test_aws_alb import losses
from tests.e2e.test_aws_group import MINUTE_S, GroupStack

pytestmark = [pytest.mark.aws, pytest.mark.long]
TERMINATE = "wsgi-fleet-terminate"
# Seconds that a client of the load waits for a response.
PATIENCE_S = 30
ILL = """\
def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
    if os.environ["WSGI_FLEET_SERVER"] == "SERVER" and os.environ.get("WSGI_FLEET_SLOT", "proof") != "proof":
        raise RuntimeError("ill")
"""


class FaultStack(GroupStack):
    """A group to which something happens while a release moves."""

    def zones(self) -> dict[str, str]:
        """Return the instances that get requests -> their zones."""
        there = {*self.servers().values()}
        found = {each["InstanceId"]: each["AvailabilityZone"] for each in self.group()["Instances"]}
        return {id_: zone for id_, zone in found.items() if id_ in there}

    def protected(self) -> list[str]:
        """Return the states of its instances while a release holds some; then none."""
        found = self.group()["Instances"]
        return [each["LifecycleState"] for each in found] if any(each["ProtectedFromScaleIn"] for each in found) else []


@pytest.fixture(scope="module")
def region() -> Generator[Running]:
    with running(REGION, f"e2e-{os.getpid()}-faults", minute_s=MINUTE_S) as region:
        yield region


@pytest.fixture(scope="module")
def fleet(region: Running, tmp_path_factory: pytest.TempPathFactory) -> Generator[FaultStack]:
    capacity = {"min": 1, "max": 3, "spot_percent": 100}
    folder = tmp_path_factory.mktemp("faults")
    stack = FaultStack.prepare_group(folder, region, nat_gateways="one_per_az", **capacity)
    stack.app["rollout"]["start_timeout_s"] = 20
    with stack.serving():
        yield stack


def test_scale_in_waits_for_a_release_and_takes_nobody_who_switches(fleet: FaultStack) -> None:
    fleet.scale(3)
    fleet.set_version("two")
    with fleet.load() as load:
        up = fleet.start_up()
        eventually(fleet.protected, message="the release holds its servers")
        fleet.ask_for(1)
        while states := fleet.protected():
            assert states == ["InService"] * 3
            time.sleep(0.5)
        output, _ = up.communicate(timeout=120)
        fleet.wait_for(1)
        load.wait_for(50)
    print(load.outcome)
    assert up.returncode == 0, output
    assert "serves on 3 servers" in output
    assert losses(load.outcome) == 0, load.outcome
    assert fleet.responding_servers() == {(machine, "two") for machine in fleet.servers().values()}


def test_a_bad_release_is_taken_back_on_every_server_and_one_that_boots_meanwhile_has_the_good_one(
    fleet: FaultStack,
) -> None:
    fleet.scale(2)
    before = fleet.get()["version"]
    # Servers are listed by their ids.
    last = max(fleet.servers().values())
    source = fleet.folder / "tests" / "e2e" / "app" / "probe.py"
    good = source.read_text()
    source.write_text(good.replace(ILL.splitlines(keepends=True)[0], ILL.replace('"SERVER"', f'"{last}"')))
    fleet.set_version("bad")
    with fleet.load() as load:
        up = fleet.start_up()
        eventually(fleet.protected, message="the release holds its servers")
        fleet.ask_for(3)
        output, _ = up.communicate(timeout=240)
        fleet.wait_for(3)
        load.wait_for(100)
    source.write_text(good)
    print(load.outcome, output)
    assert up.returncode != 0
    assert f"hello-{last}, switch: GET / was not 200" in output
    # By the first server, which went back.
    assert "bad" in load.outcome.versions
    assert_nothing_was_lost(fleet, load.outcome)
    assert fleet.responding_servers() == {(machine, before) for machine in fleet.servers().values()}
    assert len(fleet.servers()) == 3
    assert fleet.protected() == []
    fleet.up()


def test_a_zone_that_goes_costs_what_its_servers_had_and_the_other_one_takes_over(fleet: FaultStack) -> None:
    fleet.scale(3)
    where = fleet.zones()
    (zone, number), (other, _) = Counter(where.values()).most_common()
    victims = {id_ for id_, its in where.items() if its == zone}
    fleet.running.scaling.closed.add(zone)
    with fleet.load() as load:
        start_s = time.monotonic()
        lxc("stop", "--force", *victims)
        eventually(lambda: not victims & {*fleet.servers().values()}, message="they are taken out")
        out_s = time.monotonic() - start_s
        time.sleep(PATIENCE_S)
        lost = losses(load.outcome)
        fleet.wait_for(3)
        whole_s = time.monotonic() - start_s
        load.wait_for(100)
    fleet.running.scaling.closed.discard(zone)
    print(f"{number} of 3 gone: out after {out_s:.0f} s, three again after {whole_s:.0f} s; {load.outcome}")
    assert losses(load.outcome) == lost
    assert {*fleet.zones().values()} == {other}


def test_a_server_that_goes_without_its_drain_loses_requests(fleet: FaultStack) -> None:
    """It is the control of the load: without the group's hook and the delay, scale-in costs requests."""
    (group,) = fleet.elb.describe_target_groups()["TargetGroups"]
    arn, key = group["TargetGroupArn"], "deregistration_delay.timeout_seconds"
    (hook,) = fleet.api.describe_lifecycle_hooks(
        AutoScalingGroupName=fleet.name_of_group, LifecycleHookNames=[TERMINATE]
    )["LifecycleHooks"]
    attributes = fleet.elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
    before = [each for each in attributes if each["Key"] == key]
    fleet.scale(3)
    fleet.elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=[{"Key": key, "Value": "0"}])
    fleet.api.delete_lifecycle_hook(AutoScalingGroupName=fleet.name_of_group, LifecycleHookName=TERMINATE)
    with fleet.load(slow_s=(5.0,)) as load:
        fleet.scale(2)
        load.wait_for(50)
    print(load.outcome)
    fleet.elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=before)
    del hook["GlobalTimeout"]
    fleet.api.put_lifecycle_hook(**hook)
    assert losses(load.outcome) > 0


def test_a_spot_instance_that_is_taken_back_finishes_its_requests_and_is_replaced(fleet: FaultStack) -> None:
    fleet.scale(2)
    victim = next(iter(fleet.servers().values()))
    with fleet.load() as load:
        start_s = time.monotonic()
        fleet.running.scaling.interrupt(victim)
        fleet.wait_until_gone(victim)
        left_s = time.monotonic() - start_s
        fleet.wait_for(2)
        print(f"left after {left_s:.0f} s, replaced after {time.monotonic() - start_s:.0f} s")
        load.wait_for(50)
    print(load.outcome)
    assert left_s < 120
    assert losses(load.outcome) == 0, load.outcome
    assert victim in load.outcome.servers


def test_requests_bring_servers_and_go_with_them_and_none_is_lost(fleet: FaultStack) -> None:
    fleet.scale(1)
    fleet.app["fleet"]["capacity"]["requests_per_target"] = 1000
    fleet.up()
    for number, pause_s, more in ((3, PAUSE_S, 100), (1, 2.0, 50)):
        with fleet.load(pause_s=pause_s) as load:
            start_s = time.monotonic()
            fleet.wait_for(number)
            print(f"{number} servers after {time.monotonic() - start_s:.0f} s of requests each {pause_s} s")
            load.wait_for(more)
        print(load.outcome)
        assert losses(load.outcome) == 0, load.outcome
