"""`pulumi up -s prod` with fleet.capacity, by the real engine: one to three servers in two zones, under load.

See tests/aws/ for what stands in for AWS. Tests share one group and leave it well; the last one destroys it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Self

import pytest

from harness.evidence import assert_nothing_was_lost
from harness.load import Load
from harness.stack import eventually
from tests.aws.load_balancing import public_address
from tests.aws.session import Running, running
from tests.aws.stack import AwsStack
from tests.e2e.test_aws import REGION
from tests.e2e.test_aws_alb import AlbStack, losses

pytestmark = pytest.mark.aws
# What a minute of warm-up and grace lasts here.
MINUTE_S = 5.0


class Grouped(AwsStack):
    """A stack whose servers are a group."""

    def health(self) -> dict[str, str]:
        """Return instance -> state, as what is in front finds it."""
        raise NotImplementedError

    @classmethod
    def prepare_group(cls, tmp: Path, region: Running, *, nat_gateways: str = "single", **capacity: int) -> Self:
        """Return the stack with its servers as a group over two zones, not up yet."""
        stack = cls.prepare(tmp, region, servers=1)
        stack.settings["aws"]["vpc"] |= {"zones": [f"{REGION}a", f"{REGION}b"], "nat_gateways": nat_gateways}
        del stack.app["fleet"]["servers"]
        stack.app["fleet"] |= {"capacity": capacity}
        stack.app["gateway"] = {"request_timeout_s": 10}
        stack.app["rollout"] = {"drain_timeout_s": 10}
        return stack

    @property
    def api(self) -> Any:
        return self.running.account.aws.autoscaling

    @property
    def name_of_group(self) -> str:
        return self.group()["AutoScalingGroupName"]

    @property
    def members(self) -> set[str]:
        """Return the instances of the group, whatever they do."""
        return {each["InstanceId"] for each in self.group()["Instances"]}

    def group(self) -> dict[str, Any]:
        groups = self.api.describe_auto_scaling_groups()["AutoScalingGroups"]
        return groups[0] if groups else {"Instances": []}

    def servers(self) -> dict[str, str]:
        """Return the servers that get requests, as `./fleet` names them -> the machine."""
        there = [each["InstanceId"] for each in self.group()["Instances"] if each["LifecycleState"] == "InService"]
        return {f"hello-{id_}": id_ for id_ in there}

    def ask_for(self, number: int) -> None:
        """Have so many servers, some time."""
        self.api.set_desired_capacity(AutoScalingGroupName=self.name_of_group, DesiredCapacity=number)

    def scale(self, number: int) -> None:
        """Have so many servers, and wait for them."""
        self.ask_for(number)
        self.wait_for(number)

    def wait_for(self, number: int) -> None:
        def are_there() -> bool:
            # A dead one does not say that it has ended, and the group waits for that for a while.
            there = [each["LifecycleState"] for each in self.group()["Instances"]]
            every = [each for each in there if not each.startswith("Terminating")]
            return every == ["InService"] * number and list(self.health().values()) == ["healthy"] * number

        eventually(are_there, timeout_s=240, message=f"{number} servers")

    def wait_until_gone(self, id_: str) -> None:
        eventually(lambda: id_ not in self.members, timeout_s=150, message=f"{id_} has gone")


class GroupStack(AlbStack, Grouped):
    """The same behind a load balancer, by plain HTTP."""

    @classmethod
    def prepare_group(cls, tmp: Path, region: Running, *, nat_gateways: str = "single", **capacity: int) -> Self:
        stack = super().prepare_group(tmp, region, nat_gateways=nat_gateways, **capacity)
        stack.settings["balancer"] = {"kind": "alb", "hostnames": ["shop.example.com"]}
        del stack.settings["aws"]["admin_cidrs"]
        stack.settings["aws"]["transport"] = "instance_connect_endpoint"
        stack.app["fleet"]["local_proxy"] = True
        stack.app["gateway"]["processes"] = 2
        return stack

    def load(self, **options: Any) -> Load:
        return Load(self.url, address=public_address(self.arn), **options)

    def get(self, path: str = "/") -> Any:
        response, body = self.ask(path)
        assert response.status == 200, f"{response.status} {body!r}"
        return json.loads(body)


@pytest.fixture(scope="module")
def region() -> Generator[Running]:
    with running(REGION, f"e2e-{os.getpid()}-group", minute_s=MINUTE_S) as region:
        yield region


@pytest.fixture(scope="module")
def fleet(region: Running, tmp_path_factory: pytest.TempPathFactory) -> Generator[GroupStack]:
    stack = GroupStack.prepare_group(tmp_path_factory.mktemp("group"), region, min=1, max=3)
    with stack.serving():
        yield stack


def test_the_first_release_comes_to_servers_that_wait_for_it(fleet: GroupStack) -> None:
    fleet.wait_for(1)
    assert {server for server, _ in fleet.responding_servers()} == set(fleet.servers().values())
    report = json.loads(fleet.fleet("status", "--json").stdout)
    assert [(each["name"], each["state"]) for each in report["servers"]] == [(next(iter(fleet.servers())), "serving")]
    (id_,) = fleet.servers().values()
    assert fleet.fleet("exec", "--server", id_, "--", "hostname").stdout.strip() == id_
    assert id_ not in fleet.export()


@pytest.mark.parametrize(("servers", "version"), [(1, "two"), pytest.param(2, "three", marks=pytest.mark.long)])
def test_a_release_loses_no_request(fleet: GroupStack, servers: int, version: str) -> None:
    fleet.scale(servers)
    with fleet.load() as load:
        fleet.release_version(version)
        load.wait_for(50)
    print(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert fleet.responding_servers() == {(machine, version) for machine in fleet.servers().values()}
    assert not any(each["ProtectedFromScaleIn"] for each in fleet.group()["Instances"])


@pytest.mark.long
def test_a_server_that_comes_while_a_release_moves_ends_on_it(fleet: GroupStack) -> None:
    fleet.scale(1)
    with fleet.load() as load:
        more = threading.Thread(target=fleet.scale, args=[3])
        more.start()
        time.sleep(5)
        fleet.release_version("four")
        more.join()
        load.wait_for(100)
    print(load.outcome)
    assert losses(load.outcome) == 0, load.outcome
    assert fleet.responding_servers() == {(machine, "four") for machine in fleet.servers().values()}
    assert len(fleet.servers()) == 3
    fleet.up("--expect-no-changes")


@pytest.mark.long
def test_a_change_of_the_template_replaces_servers_each_after_another_one_serves(fleet: GroupStack) -> None:
    fleet.scale(1)
    before = {*fleet.servers()}
    fleet.settings["security_updates"] = {"window": "04:30"}
    # Before, it would take away what tests ask for.
    fleet.app["fleet"]["capacity"]["cpu_percent"] = 90
    with fleet.load() as load:
        start_s = time.monotonic()
        output = fleet.up()
        load.wait_for(50)
    print(f"replaced after {time.monotonic() - start_s:.0f} s; {load.outcome}")
    assert "every server is of the new launch template" in output
    assert losses(load.outcome) == 0, load.outcome
    fleet.wait_for(1)
    assert not {*fleet.servers()} & before


@pytest.mark.long
def test_a_template_whose_servers_do_not_come_is_taken_back(fleet: GroupStack) -> None:
    before = {*fleet.servers()}
    fleet.app["system_packages"] = ["no-such-package"]
    with fleet.load() as load:
        output = fleet.up(fails=True)
        load.wait_for(50)
    print(output, load.outcome)
    assert "2 servers did not come" in output
    assert losses(load.outcome) == 0, load.outcome
    assert {*fleet.servers()} == before
    del fleet.app["system_packages"]
    fleet.up()


def test_destroy_leaves_nothing(fleet: GroupStack) -> None:
    aws = fleet.destroy_protected()
    assert aws.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []
    assert aws.ec2.describe_launch_templates()["LaunchTemplates"] == []
    assert aws.s3.list_buckets()["Buckets"] == []
    assert aws.ssm.describe_parameters()["Parameters"] == []
