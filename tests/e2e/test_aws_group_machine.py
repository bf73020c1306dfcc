"""A group of fixed size behind a balancer of the stack's own, by the real engine: two servers that heal, under load.

See tests/aws/ for what stands in for AWS. Tests share one group and leave it well; the last one destroys it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator

import pytest

from harness.evidence import assert_nothing_was_lost
from harness.load import CLIENTS, REQUEST_KINDS, Load, LoadOutcome
from harness.stack import eventually, lxc, on
from tests.aws.session import Running, running
from tests.e2e.test_aws import REGION, SCRIPTS, fleet_output
from tests.e2e.test_aws_group import MINUTE_S, Grouped

pytestmark = [pytest.mark.aws, pytest.mark.long]
# What may be under way at a time on connections of one kind.
IN_FLIGHT = len(REQUEST_KINDS) * CLIENTS


class HealingStack(Grouped):
    """The balancer learns by itself which servers there are."""

    def health(self) -> dict[str, str]:
        """Return instance -> state, as the balancer's site has it."""
        state = json.loads(on(self.balancer(), "cat", "/etc/wsgi-fleet/site.json"))
        members: dict[str, str] = state["site"]["upstreams"]["app_hello"]["group"]["members"]
        out = {*state["drained"], *state["unhealthy"]}
        return {id_: "unused" if address in out else "healthy" for address, id_ in members.items()}

    def balancer(self) -> str:
        (found,) = {each["name"] for each in self.instances()} - self.members
        return found


@pytest.fixture(scope="module")
def region() -> Generator[Running]:
    with running(REGION, f"e2e-{os.getpid()}-heal", minute_s=MINUTE_S) as region:
        yield region


@pytest.fixture(scope="module")
def fleet(region: Running, tmp_path_factory: pytest.TempPathFactory) -> Generator[HealingStack]:
    stack = HealingStack.prepare_group(tmp_path_factory.mktemp("heal"), region, min=2, max=2)
    with stack.serving():
        yield stack


def lost_on_fresh(outcome: LoadOutcome) -> int:
    """Return the failures of requests that no reload of the proxy can cut."""
    return len(outcome.failed_fresh)


def test_the_first_release_comes_to_the_group_and_the_balancer_finds_its_servers(fleet: HealingStack) -> None:
    fleet.wait_for(2)
    assert {server for server, _ in fleet.responding_servers()} == {*fleet.servers().values()}
    report = json.loads(fleet_output(fleet, "status", "--json"))
    assert {each["name"]: each["state"] for each in report["servers"]} == dict.fromkeys(fleet.servers(), "serving")
    assert report["balancer"]["problem"] == ""
    assert not any(id_ in fleet.export() for id_ in fleet.servers().values())
    fleet.up("--expect-no-changes")


def test_a_release_loses_no_request(fleet: HealingStack) -> None:
    with Load(fleet.url) as load:
        fleet.release_version("two")
        load.wait_for(50)
    print(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert fleet.responding_servers() == {(machine, "two") for machine in fleet.servers().values()}


def test_a_drained_server_gets_no_request_and_stays(fleet: HealingStack) -> None:
    drained, other = fleet.servers()
    fleet_output(fleet, "drain", drained)
    try:
        fleet.release_version("three")
        assert fleet.responding_servers() == {(fleet.servers()[other], "three")}
        assert "would have no server left" in fleet.fleet("drain", other).stderr
    finally:
        fleet_output(fleet, "admit", drained)
    assert {server for server, _ in fleet.responding_servers()} == {*fleet.servers().values()}


def test_a_server_that_leaves_finishes_its_requests_first(fleet: HealingStack) -> None:
    leaving = next(iter(fleet.servers().values()))
    with Load(fleet.url) as load:
        fleet.api.terminate_instance_in_auto_scaling_group(InstanceId=leaving, ShouldDecrementDesiredCapacity=False)
        fleet.wait_until_gone(leaving)
        fleet.wait_for(2)
        load.wait_for(50)
    print(load.outcome)
    assert lost_on_fresh(load.outcome) == 0, load.outcome
    assert leaving in load.outcome.servers
    assert load.outcome.servers.keys() - {leaving} == {*fleet.servers().values()}


def test_a_killed_server_costs_what_was_under_way_there_and_another_one_comes(fleet: HealingStack) -> None:
    victim = next(iter(fleet.servers().values()))
    with Load(fleet.url) as load:
        start_s = time.monotonic()
        lxc("stop", "--force", victim)
        eventually(lambda: victim not in fleet.health(), message="the balancer has it no more")
        out_s = time.monotonic() - start_s
        fleet.wait_for(2)
        replaced_s = time.monotonic() - start_s
        before = lost_on_fresh(load.outcome)
        load.wait_for(100)
    print(f"out after {out_s:.0f} s, replaced after {replaced_s:.0f} s; {load.outcome}")
    assert before <= IN_FLIGHT, load.outcome
    assert lost_on_fresh(load.outcome) == before, load.outcome
    assert {server for server, _ in fleet.responding_servers()} == {*fleet.servers().values()}


def test_a_server_that_hangs_is_replaced_on_the_balancers_word(fleet: HealingStack) -> None:
    hung = next(iter(fleet.servers().values()))
    balancer = fleet.balancer()
    # Not three minutes.
    on(balancer, "sed", "-i", "s/180.0/15.0/", f"{SCRIPTS}/membership.py")
    on(balancer, "systemctl", "restart", "wsgi-fleet-health")
    on(hung, "sh", "-c", "for slot in blue green; do systemctl kill --signal=STOP app@$slot; done", check=False)
    start_s = time.monotonic()
    eventually(lambda: hung not in fleet.servers().values(), timeout_s=90, message="the group lets it go")
    fleet.wait_for(2)
    print(f"replaced after {time.monotonic() - start_s:.0f} s")
    fleet.wait_until_gone(hung)
    assert f"{hung} is dead for 15 s" in on(balancer, "journalctl", "-u", "wsgi-fleet-health", "-o", "cat")


def test_a_group_becomes_a_fixed_number_of_servers_and_a_group_again(fleet: HealingStack) -> None:
    capacity = fleet.app["fleet"].pop("capacity")
    members = {*fleet.servers().values()}
    fleet.app["fleet"]["servers"] = 2
    with Load(fleet.url) as load:
        fleet.up()
        load.wait_for(50)
        fixed = {*fleet.output("servers").values()}
        assert {server for server, _ in fleet.responding_servers()} == fixed
        to_fixed = lost_on_fresh(load.outcome)
        del fleet.app["fleet"]["servers"]
        fleet.app["fleet"]["capacity"] = capacity
        fleet.up()
        fleet.wait_for(2)
        load.wait_for(50)
    print(f"{to_fixed} lost on the way to a fixed number; {load.outcome}")
    assert lost_on_fresh(load.outcome) == 0, load.outcome
    assert load.outcome.servers.keys() >= members | fixed
    assert not {*fleet.servers().values()} & (members | fixed)
    assert {server for server, _ in fleet.responding_servers()} == {*fleet.servers().values()}


def test_destroy_leaves_nothing(fleet: HealingStack) -> None:
    aws = fleet.destroy_protected()
    assert aws.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []
