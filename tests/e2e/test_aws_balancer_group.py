"""A balancer that heals itself, by the real engine: its machine is killed, and its address serves the site again.

See tests/aws/ for what stands in for AWS. Tests share one fleet and leave it well; the last one destroys it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Generator
from http.client import HTTPException
from typing import Any

import pytest

from harness.evidence import assert_nothing_was_lost
from harness.stack import eventually, lxc, on
from tests.aws.https_stack import NAME, SHOP, HttpsStack
from tests.aws.session import Running, running
from tests.e2e.test_aws import REGION, SCRIPTS, fleet_output

pytestmark = [pytest.mark.aws, pytest.mark.long]
# What a minute of warm-up and grace lasts here.
MINUTE_S = 5.0


class HealingStack(HttpsStack):
    """A stack whose balancer is a group of one."""

    def group(self) -> dict[str, Any]:
        (found,) = self.running.account.aws.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
        return found

    def balancer(self) -> str:
        """Return the machine that has the address."""
        every = self.running.account.aws.ec2.describe_addresses(PublicIps=[self.address])["Addresses"]
        return str(every[0]["InstanceId"])

    def serves(self) -> bool:
        with contextlib.suppress(OSError, ValueError, HTTPException):
            return bool(json.loads(self.ask(NAME, timeout_s=5)[2]))
        return False

    def heal(self, dead: str) -> float:
        """Wait until another machine serves at the address, and return the seconds without a response."""
        begun = time.monotonic()
        eventually(lambda: not self.serves(), timeout_s=30, message="the dead one does not serve")
        eventually(self.serves, timeout_s=300, message="the address serves again")
        gap_s = time.monotonic() - begun
        assert self.balancer() != dead

        def is_settled() -> bool:
            done = on(self.balancer(), "sh", "-c", "ls /etc/wsgi-fleet/took-over", check=False)
            return bool(done) and dead not in {each["name"] for each in self.instances()}

        eventually(is_settled, timeout_s=120, message="every step is done, and the dead one is gone")
        return gap_s


@pytest.fixture(scope="module")
def region() -> Generator[Running]:
    with running(REGION, f"e2e-{os.getpid()}-self", minute_s=MINUTE_S) as region:
        yield region


@pytest.fixture(scope="module")
def fleet(region: Running, tmp_path_factory: pytest.TempPathFactory) -> Generator[HealingStack]:
    stack = HealingStack.prepare(tmp_path_factory.mktemp("self"), region, servers=1)
    stack.settings["aws"]["vpc"] |= {"zones": [f"{REGION}a", f"{REGION}b"], "nat_gateways": "single"}
    stack.settings["balancer"]["self_healing"] = True
    stack.add_shop()
    with stack.serving():
        yield stack


def test_the_machine_takes_the_address_and_no_state_knows_it(fleet: HealingStack) -> None:
    assert fleet.serves()
    assert fleet.balancer() == fleet.group()["Instances"][0]["InstanceId"]
    assert fleet.balancer() not in fleet.export()
    for app in ("hello", "shop"):
        told = json.loads(fleet_output(fleet, "status", "--app", app, "--json"))
        assert told["balancer"]["problem"] == ""
        assert [each["state"] for each in told["servers"]] == ["serving"]
    fleet.up("--expect-no-changes")


def test_a_killed_machine_is_replaced_and_a_release_comes_without_an_up_before(fleet: HealingStack) -> None:
    dead = fleet.balancer()
    lxc("stop", "--force", dead)
    print(f"the address served again after {fleet.heal(dead):.0f} s")
    assert fleet.ask(SHOP, fleet.page()["file"])[2].startswith(b"/* 1 */")
    with fleet.load() as load:
        fleet.release_version("two")
        load.wait_for(50)
    print(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert {version for _, version in fleet.responding_servers()} == {"two"}
    fleet.up("--expect-no-changes")


def test_a_machine_whose_nginx_does_not_come_back_has_itself_replaced(fleet: HealingStack) -> None:
    dead = fleet.balancer()
    # Not half a minute, and a minute and a half.
    on(dead, "sed", "-i", "s/30.0, 90.0/6.0, 15.0/", f"{SCRIPTS}/balancer_member.py")
    on(dead, "systemctl", "restart", "wsgi-fleet-member")
    on(dead, "sh", "-c", "mv /usr/sbin/nginx /usr/sbin/nginx.gone; systemctl kill --signal=KILL nginx")
    print(f"the address served again after {fleet.heal(dead):.0f} s")


def test_a_bad_site_fails_the_up_and_no_later_machine_gets_it(fleet: HealingStack) -> None:
    fleet.settings["balancer"]["proxy"] = {"snippets": [{"context": "http", "text": "no_such_directive on;"}]}
    assert "no_such_directive" in fleet.up(fails=True)
    del fleet.settings["balancer"]["proxy"]
    dead = fleet.balancer()
    lxc("stop", "--force", dead)
    fleet.heal(dead)
    fleet.up()


def test_a_change_of_its_template_moves_the_address_once_the_next_machine_serves(fleet: HealingStack) -> None:
    before = fleet.balancer()
    fleet.settings["balancer"]["size"]["disk_gib"] = 9
    with fleet.load() as load:
        fleet.up()
        load.wait_for(50)
    print(load.outcome)
    assert fleet.balancer() != before
    assert fleet.serves()


def test_without_the_setting_the_address_does_not_come_back_by_itself(fleet: HealingStack) -> None:
    fleet.settings["balancer"]["self_healing"] = False
    fleet.up()
    assert fleet.serves()
    lxc("stop", "--force", fleet.balancer())
    with pytest.raises(AssertionError, match="serves again"):
        eventually(fleet.serves, timeout_s=90, message="the address serves again")
    lxc("start", fleet.balancer())
    eventually(fleet.serves, timeout_s=90, message="the machine is back")


def test_destroy_leaves_nothing(fleet: HealingStack) -> None:
    fleet.settings["balancer"]["self_healing"] = True
    fleet.up()
    assert fleet.serves()
    aws = fleet.destroy_protected()
    assert aws.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []
    assert aws.ec2.describe_addresses()["Addresses"] == []
    assert aws.s3.list_buckets()["Buckets"] == []
    assert aws.ssm.describe_parameters()["Parameters"] == []
