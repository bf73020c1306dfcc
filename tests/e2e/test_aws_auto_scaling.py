"""The stand-in of an Auto Scaling group does what AWS says that one does, with small servers behind a load balancer."""

from __future__ import annotations

import base64
import gzip
import json
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from harness.stack import eventually, lxc, on
from platforms.lxd import machine
from platforms.lxd.client import Client as LxdClient
from tests.aws.machines import Ec2OnLxd
from tests.aws.server import image
from tests.aws.session import Running, running
from tests.aws.subnets import free_block
from tests.e2e.test_aws_load_balancer import SERVER, UNIT, Clients, Site

pytestmark = [pytest.mark.aws, pytest.mark.long]
REGION, NAME = "eu-central-1", "servers"
# What a minute of metrics, warm-up and grace lasts; how long a target drains; requests of a minute for each target.
MINUTE_S, DELAY_S, TARGET = 3.0, 3, 1000
ROOT = Path(__file__).parents[2]
# Says that the server serves, and later that it has ended, as scripts on machines do.
AGENT = """\
import subprocess, time, urllib.parse, urllib.request
from aws_service import Refused, Service
from fetch import metadata
service = Service("autoscaling")
def call(action, **given):
    fields = {"Action": action, "Version": "2011-01-01", "AutoScalingGroupName": "servers", **given}
    service.post("application/x-www-form-urlencoded; charset=utf-8", urllib.parse.urlencode(fields).encode())
def complete(hook):
    while True:
        try:
            given = {"LifecycleHookName": hook, "InstanceId": service.machine, "LifecycleActionResult": "CONTINUE"}
            return call("CompleteLifecycleAction", **given)
        except Refused as error:
            print(error, flush=True)
            time.sleep(0.5)
def main():
    while True:
        try:
            urllib.request.urlopen("http://127.0.0.1:8000/health").close()
            break
        except OSError:
            time.sleep(0.2)
    complete("launch")
    while metadata("meta-data/autoscaling/target-lifecycle-state", metadata("api/token")) != "Terminated":
        time.sleep(0.5)
    complete("terminate")
if __name__ == "__main__":
    main()
"""
TEXTS = {
    "/srv/server.py": SERVER,
    "/srv/agent.py": AGENT,
    "/srv/fetch.py": (ROOT / "machine/common/fetch.py").read_text(),
    "/srv/aws_service.py": (ROOT / "machine/common/aws_service.py").read_text(),
    "/etc/systemd/system/server.service": UNIT,
    "/etc/systemd/system/agent.service": "[Service]\nExecStart=/usr/bin/python3 /srv/agent.py\n",
}
USER_DATA = "#cloud-config\n" + json.dumps(
    {
        "write_files": [{"path": path, "content": text} for path, text in TEXTS.items()],
        "runcmd": [["systemctl", "start", "server", "agent"]],
    }
)


class GroupSite(Site):
    """A load balancer with a group behind."""

    @property
    def api(self) -> Any:
        return self.running.account.aws.autoscaling

    def instances(self, state: str = "InService") -> list[dict[str, Any]]:
        """Return the group's instances in a state, in the order of their launch."""
        found = self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[NAME])["AutoScalingGroups"][0]
        return [each for each in found["Instances"] if each["LifecycleState"] == state]

    def serving(self) -> set[str]:
        """Return the instances of the group that are healthy targets."""
        return {id_ for id_, (state, _) in self.health().items() if state == "healthy"}


@pytest.fixture(scope="module")
def site() -> Generator[GroupSite]:
    with running(REGION, f"e2e-{os.getpid()}-scaling", minute_s=MINUTE_S) as region:
        yield build(region)


def build(region: Running) -> GroupSite:
    """Create a load balancer in two zones, and a group of one to two servers in the same zones behind."""
    site, block = GroupSite(region, Ec2OnLxd(region.region)), free_block()
    vpc = site.create("aws:ec2/vpc:Vpc", cidrBlock=str(block))
    cidrs = [str(each) for each, _ in zip(block.subnets(new_prefix=20), range(4), strict=False)]
    nets = [
        site.create("aws:ec2/subnet:Subnet", vpcId=vpc, cidrBlock=cidr, availabilityZone=f"{REGION}{zone}")
        for cidr, zone in zip(cidrs, "abab", strict=True)
    ]
    group = site.create("aws:ec2/securityGroup:SecurityGroup", vpcId=vpc, description="d")
    balancer = site.create(
        "aws:lb/loadBalancer:LoadBalancer", loadBalancerType="application", internal=False, subnets=nets[:2],
        securityGroups=[group],
    )  # fmt: skip
    targets = site.create(
        "aws:lb/targetGroup:TargetGroup", targetType="instance", vpcId=vpc, port=8000, protocol="HTTP",
        loadBalancingAlgorithmType="least_outstanding_requests", deregistrationDelay=DELAY_S,
        healthCheck={
            "path": "/health", "protocol": "HTTP", "port": "traffic-port", "matcher": "200", "interval": 5,
            "timeout": 2, "healthyThreshold": 2, "unhealthyThreshold": 2,
        },
    )  # fmt: skip
    site.create(
        "aws:lb/listener:Listener", loadBalancerArn=balancer, port=80, protocol="HTTP",
        defaultActions=[{"type": "forward", "targetGroupArn": targets}],
    )  # fmt: skip
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = site.create("aws:iam/role:Role", name="server", assumeRolePolicy=document)
    may = {
        "Effect": "Allow",
        "Action": ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"],
        "Resource": f"arn:aws:autoscaling:{REGION}:*:autoScalingGroup:*:autoScalingGroupName/{NAME}",
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    site.create("aws:iam/rolePolicy:RolePolicy", name="hooks", role=role, policy=document)
    profile = site.create("aws:iam/instanceProfile:InstanceProfile", name="server", role=role)
    template = site.create("aws:ec2/launchTemplate:LaunchTemplate", **template_of(region, group, profile))
    hooks = [
        {"name": name, "lifecycleTransition": f"autoscaling:EC2_INSTANCE_{to}", "heartbeatTimeout": 60,
         "defaultResult": default}
        for name, to, default in (("launch", "LAUNCHING", "ABANDON"), ("terminate", "TERMINATING", "CONTINUE"))
    ]  # fmt: skip
    site.create(
        "aws:autoscaling/group:Group", name=NAME, minSize=1, maxSize=2, vpcZoneIdentifiers=nets[2:],
        targetGroupArns=[targets], healthCheckType="ELB", healthCheckGracePeriod=120, defaultInstanceWarmup=60,
        waitForCapacityTimeout="0", launchTemplate={"id": template, "version": "1"}, initialLifecycleHooks=hooks,
    )  # fmt: skip
    label = f"{balancer.partition('loadbalancer/')[2]}/{targets.rpartition(':')[2]}"
    metric = {"predefinedMetricType": "ALBRequestCountPerTarget", "resourceLabel": label}
    site.create(
        "aws:autoscaling/policy:Policy", name="requests", autoscalingGroupName=NAME, policyType="TargetTrackingScaling",
        targetTrackingConfiguration={"targetValue": TARGET, "predefinedMetricSpecification": metric},
    )  # fmt: skip
    return site


def template_of(region: Running, group: str, profile: str) -> dict[str, Any]:
    return {
        "name": NAME,
        "imageId": image(region.account),
        "instanceType": "t4g.micro",
        "updateDefaultVersion": True,
        "userData": base64.b64encode(gzip.compress(USER_DATA.encode())).decode(),
        "iamInstanceProfile": {"name": profile},
        "networkInterfaces": [{"deviceIndex": 0, "associatePublicIpAddress": "false", "securityGroups": [group]}],
    }


def test_an_instance_takes_traffic_once_it_says_so_by_its_role_which_may_do_nothing_else(site: GroupSite) -> None:
    (first,) = eventually(site.instances, timeout_s=120, message="an instance is in service")
    eventually(lambda: site.serving() == {first["InstanceId"]}, message="it is healthy")
    assert site.who() == {first["InstanceId"]}
    script = "import agent; agent.call('SetDesiredCapacity', DesiredCapacity=2)"
    output = on(first["InstanceId"], "env", "PYTHONPATH=/srv", "python3", "-c", script, check=False)
    assert "autoscaling responded with 403" in output


@pytest.mark.timeout(600)
def test_requests_bring_another_and_none_is_lost_when_it_goes(site: GroupSite) -> None:
    start_s = time.monotonic()
    with Clients(site.address) as clients:
        eventually(lambda: len(site.serving()) == 2, timeout_s=180, message="two serve")
        print(f"two serve after {time.monotonic() - start_s:.0f} s, {clients.responses} requests")
        time.sleep(2)
    assert clients.failed == []
    assert {each["AvailabilityZone"][-1] for each in site.instances()} == {"a", "b"}
    responses: list[int] = []
    while len(site.instances()) > 1 or site.instances("Terminating") or site.instances("Terminating:Wait"):
        responses.append(site.get("/")[0].status)
        time.sleep(0.1)
        assert time.monotonic() < start_s + 420
    assert set(responses) == {200}
    assert len(responses) > 100
    site.api.delete_policy(AutoScalingGroupName=NAME, PolicyName="requests")


@pytest.mark.timeout(600)
def test_a_refresh_loses_no_request(site: GroupSite) -> None:
    (old,) = site.instances()
    template, group, profile = site.id("LaunchTemplate"), site.id("SecurityGroup"), site.id("InstanceProfile")
    type_, id_, state = next(each for each in site.made if each[1] == template)
    changed = template_of(site.running, group, profile) | {"instanceType": "t4g.small"}
    assert site.provider.update(type_, id_, state, changed)["latestVersion"] == 2
    with Clients(site.address) as clients:
        site.api.start_instance_refresh(
            AutoScalingGroupName=NAME,
            DesiredConfiguration={"LaunchTemplate": {"LaunchTemplateId": template, "Version": "2"}},
            Preferences={
                "MinHealthyPercentage": 100, "MaxHealthyPercentage": 110, "SkipMatching": True, "AutoRollback": True,
            },
        )  # fmt: skip

        def is_over() -> bool:
            found = site.api.describe_instance_refreshes(AutoScalingGroupName=NAME)["InstanceRefreshes"][0]
            assert found["Status"] in ("Pending", "InProgress", "Successful"), found
            return found["Status"] == "Successful" and old["InstanceId"] not in site.health()

        eventually(is_over, timeout_s=240, message="the old instance is replaced")
    assert clients.failed == []
    (new,) = site.instances()
    assert (new["LaunchTemplate"]["Version"], new["InstanceType"]) == ("2", "t4g.small")


@pytest.mark.timeout(600)
def test_a_killed_instance_is_replaced(site: GroupSite) -> None:
    (old,) = site.instances()
    start_s = time.monotonic()
    lxc("stop", "--force", old["InstanceId"])
    eventually(lambda: site.serving() not in (set(), {old["InstanceId"]}), timeout_s=240, message="another one serves")
    print(f"another one serves after {time.monotonic() - start_s:.0f} s")


@pytest.mark.timeout(600)
def test_nothing_is_left_of_what_is_deleted(site: GroupSite) -> None:
    # The killed one completes no hook: it is there as long as the heartbeat.
    for type_, id_, state in reversed(site.made):
        site.provider.delete(type_, id_, state)
    aws = site.running.account.aws
    assert machine.machines_of(LxdClient(), site.running.region.owner) == []
    assert aws.autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"] == []
    assert aws.ec2.describe_launch_templates()["LaunchTemplates"] == []
    assert aws.ec2.describe_network_interfaces()["NetworkInterfaces"] == []
