"""Two applications in one stack, on both platforms: each has what is its own, and a change of one leaves the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import mock_aws, mock_lxd, program
from harness.mock_engine import Build, Registered, build
from harness.mock_lxd import ROLLOUT, STEP
from tests.unit.stack_blocks import config_of

INSTANCE, COMMAND = "aws:ec2/instance:Instance", "command:remote:Command"
IN, POLICY = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "aws:iam/rolePolicy:RolePolicy"
HELLO = {"source": "examples/flask-hello", "module": "hello.wsgi:app", "fleet": {"servers": 2}}
BARE = {"source": "examples/bare-wsgi", "module": "bare:app", "fleet": {"servers": 1}, "hosts": ["bare.example.org"]}


def run(platform: str, apps: Mapping[str, Any]) -> Build:
    """Run the program with these applications."""
    vpc = {"cidr": "10.20.0.0/16", "zones": ["eu-central-1a", "eu-central-1b"]}
    aws = {"region": "eu-central-1", "ami": "ami-0123456789abcdef0", "admin_cidrs": ["192.0.2.0/24"], "vpc": vpc}
    blocks = {"platform": platform, "apps": apps} | ({"aws": aws} if platform == "aws" else {})
    outputs = {**mock_lxd.OUTPUTS, **mock_aws.OUTPUTS, INSTANCE: _instance}
    return build(program.run, config=config_of(blocks), lookups=mock_aws.LOOKUPS, outputs=outputs, stack="two")


def _instance(made: Registered) -> Mapping[str, Any]:
    """Return outputs with an address that does not depend on the number of instances."""
    return {"privateIp": f"address-of-{made.name}", "arn": f"arn:aws:ec2:::{made.name}"}


@dataclass(frozen=True)
class Both:
    """The same stack with hello alone and with bare before it."""

    platform: str
    one: Build
    two: Build


@pytest.fixture(scope="module", params=["lxd", "aws"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(program.project(tmp_path_factory.mktemp("project")))
        secret = {"generated_secrets": ["KEY_A"]}
        one, two = ({"hello": HELLO | secret}, {"bare": BARE | secret, "hello": HELLO | secret})
        return Both(request.param, run(request.param, one), run(request.param, two))


def test_another_application_changes_nothing_of_the_first_and_nothing_but_the_site_of_the_balancer(
    both: Both,
) -> None:
    one, two = ({each.urn: each for each in built.resources} for built in (both.one, both.two))
    changed = {two[urn].name for urn in one.keys() & two.keys() if one[urn].inputs != two[urn].inputs}
    assert changed == {"balancer-site"}
    assert one.keys() <= two.keys()
    added = {two[urn].name for urn in two.keys() - one.keys()}
    assert [name for name in added if "bare" not in name] == []
    assert {"bare-1", "bare-1-booted", "bare-key", "bare-secret-KEY_A", "bare-rollout", "app-bare"} <= added
    exports = both.two.exports
    assert exports["releases"].keys() == {"bare", "hello"}
    assert exports["servers"].keys() == {"bare-1", "hello-1", "hello-2"}
    apps = exports["fleet"].value["apps"]
    assert {name: ([each["name"] for each in app["servers"]], app["routes"]) for name, app in apps.items()} == {
        "bare": (["bare-1"], ["bare.example.org/"]),
        "hello": (["hello-1", "hello-2"], ["/ of every host"]),
    }


def test_a_rollout_waits_for_nothing_of_another_application_and_the_members_for_both(both: Both) -> None:
    rollouts = {each.name.removesuffix("-rollout"): each for each in both.two.of(ROLLOUT)}
    assert rollouts.keys() == {"bare", "hello"}
    for name, rollout in rollouts.items():
        (other,) = rollouts.keys() - {name}
        waits = {each.name for each in both.two.resources if rollout.depends_on(each)}
        assert [each for each in waits if each.startswith(f"{other}-")] == []
        assert f"{name}-1-booted" in waits
    site = both.two.one(STEP if both.platform == "lxd" else COMMAND, "balancer-site")
    assert all(site.depends_on(rollout) for rollout in rollouts.values())


def test_what_is_probably_not_meant_is_a_warning_of_the_preview(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(program.project(tmp_path))
    warned: list[str] = []
    monkeypatch.setattr("pulumi.log.warn", warned.append)
    run("lxd", {"bare": BARE | {"rollout": {"drain_timeout_s": 60}}})
    (line,) = warned
    assert line.startswith("apps.bare.rollout.drain_timeout_s: 60: is less than Nginx waits for a response")


@pytest.mark.parametrize("both", ["aws"], indirect=True)
def test_servers_of_each_application_have_a_group_and_a_role_of_their_own(both: Both) -> None:
    made = both.two
    for app, servers in {"hello": ["hello-1", "hello-2"], "bare": ["bare-1"]}.items():
        for server in servers:
            inputs = made.one(INSTANCE, server).inputs
            assert inputs["vpcSecurityGroupIds"] == [f"app-{app}-id"]
            assert inputs["iamInstanceProfile"] == f"app-{app}-0d0d0d0"
        mine = [each.inputs for each in made.of(IN) if each.inputs["securityGroupId"] == f"app-{app}-id"]
        ends = {(each["fromPort"], each["toPort"], each.get("referencedSecurityGroupId")) for each in mine}
        assert ends == {(8000, 8000, "balancer-id"), (22, 22, "balancer-id")}
        policy = made.one(POLICY, f"app-{app}").inputs["policy"]
        assert f"two/{app}/*" in policy
        assert not [other for other in ("hello", "bare") if other != app and other in policy]
