"""Two applications in one stack, on both platforms: each has what is its own, and a change of one leaves the other."""

from __future__ import annotations

import runpy
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import mock_aws, mock_lxd
from harness.mock_engine import Build, Registered, build
from harness.mock_lxd import ROLLOUT, STEP
from harness.program import project
from tests.aws.account import Account
from tests.aws.policy import allows
from tests.aws.program import carry_out
from tests.aws.server import serving
from tests.unit.stack_blocks import ROOT, config_of
from tests.unit.test_aws_model import Stack

INSTANCE, COMMAND = "aws:ec2/instance:Instance", "command:remote:Command"
HELLO = {"source": "examples/flask-hello", "module": "hello.wsgi:app", "fleet": {"servers": 2}}
BARE = {"source": "examples/bare-wsgi", "module": "bare:app", "fleet": {"servers": 1}, "hosts": ["bare.example.org"]}


def run(platform: str, apps: Mapping[str, Any]) -> Build:
    """Run the program with these applications."""
    blocks: dict[str, Any] = {"platform": platform, "apps": apps}
    if platform == "aws":
        blocks["aws"] = {
            "region": "eu-central-1",
            "ami": "ami-0123456789abcdef0",
            "admin_cidrs": ["192.0.2.0/24"],
            "vpc": {"cidr": "10.20.0.0/16", "zones": ["eu-central-1a", "eu-central-1b"]},
        }
    return build(
        _main,
        config=config_of(blocks),
        lookups=mock_aws.LOOKUPS,
        outputs={**mock_lxd.OUTPUTS, **mock_aws.OUTPUTS, INSTANCE: _instance},
        stack="two",
    )


def _instance(made: Registered) -> Mapping[str, Any]:
    """Return outputs with an address that does not depend on the number of instances."""
    return {"privateIp": f"address-of-{made.name}", "arn": f"arn:aws:ec2:::{made.name}"}


def _main() -> None:
    runpy.run_path(str(ROOT / "__main__.py"))


def by_urn(built: Build) -> dict[str, Registered]:
    return {each.urn: each for each in built.resources}


@dataclass(frozen=True)
class Both:
    """The same stack with hello alone and with bare before it."""

    platform: str
    one: Build
    two: Build


@pytest.fixture(scope="module", params=["lxd", "aws"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("project")
        (folder / "examples").symlink_to(ROOT / "examples")
        patch.chdir(folder)
        one, two = ({"hello": HELLO}, {"bare": BARE, "hello": HELLO})
        return Both(request.param, run(request.param, one), run(request.param, two))


def test_another_application_changes_nothing_of_the_first_and_nothing_but_the_members_of_the_balancer(
    both: Both,
) -> None:
    one, two = by_urn(both.one), by_urn(both.two)
    assert {two[urn].name for urn in one.keys() & two.keys() if one[urn].inputs != two[urn].inputs} == {
        "balancer-members"
    }
    assert one.keys() <= two.keys()
    added = {two[urn].name for urn in two.keys() - one.keys()}
    assert [name for name in added if "bare" not in name] == []
    assert {"bare-1", "bare-1-booted", "bare-key", "bare-rollout", "app-bare"} <= added


def test_a_rollout_waits_for_nothing_of_another_application_and_the_members_for_both(both: Both) -> None:
    rollouts = {each.name.removesuffix("-rollout"): each for each in both.two.of(ROLLOUT)}
    assert rollouts.keys() == {"bare", "hello"}
    for name, rollout in rollouts.items():
        (other,) = rollouts.keys() - {name}
        waits = {each.name for each in both.two.resources if rollout.depends_on(each)}
        assert [each for each in waits if each.startswith(f"{other}-")] == []
        assert f"{name}-1-booted" in waits
    members = both.two.one(STEP if both.platform == "lxd" else COMMAND, "balancer-members")
    assert all(members.depends_on(rollout) for rollout in rollouts.values())


def test_what_is_exported_tells_them_apart(both: Both) -> None:
    exports = both.two.exports
    assert exports["releases"].keys() == {"bare", "hello"}
    assert exports["servers"].keys() == {"bare-1", "hello-1", "hello-2"}
    apps = exports["fleet"].value["apps"]
    assert {name: [each["name"] for each in app["servers"]] for name, app in apps.items()} == {
        "bare": ["bare-1"],
        "hello": ["hello-1", "hello-2"],
    }
    assert {name: app["routes"] for name, app in apps.items()} == {
        "bare": ["bare.example.org/"],
        "hello": ["/ of every host"],
    }


def test_the_same_secret_of_two_applications_is_two_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    apps = {"bare": BARE | {"generated_secrets": ["KEY_A"]}, "hello": HELLO | {"generated_secrets": ["KEY_A"]}}
    built = run("lxd", apps)
    names = {each.name for each in built.resources if each.name.endswith("-secret-KEY_A")}
    assert names == {"bare-secret-KEY_A", "hello-secret-KEY_A"}


def test_what_is_probably_not_meant_is_a_warning_of_the_preview(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    warned: list[str] = []
    monkeypatch.setattr("pulumi.log.warn", warned.append)
    run("lxd", {"bare": BARE | {"rollout": {"drain_timeout_s": 60}}})
    (line,) = warned
    assert line.startswith("apps.bare.rollout.drain_timeout_s: 60: is less than Nginx waits for an answer")


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """Yield staging with a second application, carried out on an emulated account."""
    with pytest.MonkeyPatch.context() as patch, serving() as endpoint:
        patch.chdir(project(tmp_path_factory.mktemp("project")))
        apps = {"bare": BARE, "hello": HELLO}
        yield Stack("staging", carry_out("staging", Account(endpoint, "eu-central-1"), apps=apps))


@pytest.mark.aws
def test_servers_of_each_application_are_reached_by_the_balancer_alone(account: Stack) -> None:
    groups = {
        role: {group["GroupId"] for interface in each["NetworkInterfaces"] for group in interface["Groups"]}
        for role, each in account.instances.items()
    }
    assert groups["hello-1"] == groups["hello-2"]
    assert groups["hello-1"] & groups["bare-1"] == set()
    for role in ("hello-1", "bare-1"):
        assert account.ingress(role) == {("tcp", 8000, 8000, "balancer"), ("tcp", 22, 22, "balancer")}


@pytest.mark.aws
def test_a_server_reads_releases_and_secrets_of_its_own_application_alone(account: Stack) -> None:
    (bucket,) = [each["Name"] for each in account.aws.s3.list_buckets()["Buckets"]]
    for role, own, other in (("hello-1", "hello", "bare"), ("bare-1", "bare", "hello")):
        documents = account.role_documents(role)
        objects, parameters = (
            f"arn:aws:s3:::{bucket}/staging",
            "arn:aws:ssm:eu-central-1:1:parameter/wsgi-fleet/staging",
        )
        asked = {
            app: (
                allows(documents, "s3:GetObject", f"{objects}/{app}/pointer"),
                allows(documents, "s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": f"staging/{app}/pointer"}),
                allows(documents, "ssm:GetParametersByPath", f"{parameters}/{app}/0123456789ab"),
            )
            for app in (own, other)
        }
        assert asked == {own: (True, True, True), other: (False, False, False)}
