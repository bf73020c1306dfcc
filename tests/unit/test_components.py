"""The components over both platforms: what waits for what, what is a secret, and what a change touches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pydantic import SecretStr

from components.app_server_fleet import AppServerFleet, AppServerFleetArgs
from components.balancer import Balancer, BalancerArgs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from harness import mock_aws, mock_lxd
from harness.mock_engine import Build, Registered, Secret, build
from harness.mock_lxd import ADDRESS, GROUP, MACHINE, ROLLOUT, SECRET, STEP
from platforms import Platform
from platforms.aws.platform import AwsPlatform
from platforms.lxd.platform import LxdPlatform
from releases.manifest import make_manifest
from releases.release import release_id
from rendering.app_server import app_server_files, app_server_user_data
from rendering.balancer import balancer_user_data
from rendering.common import apply_files_command
from rendering.monitoring import OFF
from rendering.site import render_site
from rendering.upstream import Upstream
from settings.application import App
from settings.aws import Aws
from settings.balancer import Balancer as BalancerSettings
from settings.lxd import Lxd
from tests.unit.source_archive import SOURCE

PREFIX = "wsgi-fleet:"
GROUPS, FLEET, BALANCER = (
    f"{PREFIX}security_groups:SecurityGroups",
    f"{PREFIX}app_server_fleet:AppServerFleet",
    f"{PREFIX}balancer:Balancer",
)
OUTPUTS = {**mock_lxd.OUTPUTS, **mock_aws.OUTPUTS}
GIVEN, MADE, KEY = "opensesame", "made-for-hello-secret-HELLO_SECRET_KEY", "made-for-hello-key"
AWS = Aws(
    region="eu-central-1",
    ami="ami-0123456789abcdef0",
    admin_cidrs=["192.0.2.0/24"],
    vpc_id="vpc-01234567",
    balancer_subnet_id="subnet-0000000a",
    app_subnet_ids=["subnet-0000000b"],
    ssh_key_name="ops",
    ssh_private_key=SecretStr(mock_aws.KEY),
)


def app(**changes: Any) -> App:
    secrets = {"secrets": {"DATABASE_URL": GIVEN}, "generated_secrets": ["HELLO_SECRET_KEY"]}
    return App.model_validate_json(json.dumps({"source": "app", "module": "wsgi:app", **secrets, **changes}))


def lxd(folder: Path) -> Platform:
    return LxdPlatform(Lxd(), stack="test", project=folder)


def aws(folder: Path) -> Platform:
    del folder
    return AwsPlatform(AWS, stack="test", project_name="wsgi-fleet")


def made(
    folder: Path, *, on: Callable[[Path], Platform] = lxd, given: App | None = None, preview: bool = False
) -> Build:
    """Build a fleet of one application."""
    hello = given or app()

    def program() -> None:
        platform = on(folder)
        groups = SecurityGroups("groups", SecurityGroupsArgs(["hello"]), platform=platform)
        store = platform.store("releases", opts=pulumi.ResourceOptions())
        front = Balancer("balancer", BalancerArgs(BalancerSettings(), groups.balancer), platform=platform)
        args = AppServerFleetArgs(hello, groups.apps["hello"], store, SOURCE, front)
        fleet = AppServerFleet("hello", args, platform=platform)
        front.serve({"hello": hello}, {"hello": fleet.addresses})

    return build(program, outputs=OUTPUTS, lookups=mock_aws.LOOKUPS, preview=preview)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def local(folder: Path) -> Build:
    return made(folder)


ON = pytest.mark.parametrize("on", [lxd, aws])
# Types of a machine, a step and what leads the public address to a balancer; and the balancer's target.
TYPES: dict[Callable[[Path], Platform], tuple[str, str, str, str]] = {
    lxd: (MACHINE, STEP, ADDRESS, "test-balancer-3fa9c2"),
    aws: (
        *("aws:ec2/instance:Instance", "command:remote:Command", "aws:ec2/eipAssociation:EipAssociation"),
        "balancer-id@10.0.0.",
    ),
}


def children(build_: Build, type_: str) -> list[str]:
    return sorted(each.name for each in build_.children(build_.one(type_)))


def test_every_component_is_the_parent_of_all_it_makes_and_registers_what_its_attributes_hold(local: Build) -> None:
    assert children(local, GROUPS) == ["app-hello", "balancer"]
    machines = ["hello-1", "hello-1-booted", "hello-2", "hello-2-booted", "hello-3", "hello-3-booted"]
    assert children(local, FLEET) == [*machines, "hello-key", "hello-rollout", "hello-secret-HELLO_SECRET_KEY"]
    assert children(local, BALANCER) == ["balancer", "balancer-address", "balancer-booted", "balancer-site"]
    alone = sorted(each.name for each in local.resources if not each.parent)
    assert alone == ["balancer", "groups", "hello", "image", "releases"]
    network = {each.name: each.inputs["network"] for each in local.of(GROUP)}
    assert local.one(GROUPS).outputs == {"balancer": network["balancer"], "apps": {"hello": network["app-hello"]}}
    assert local.one(FLEET).outputs == {
        "machines": {role: f"test-{role}-3fa9c2" for role in ("hello-1", "hello-2", "hello-3")},
        "addresses": ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
        "release": local.one(ROLLOUT).inputs["release"],
    }
    front = {"machine": "test-balancer-3fa9c2", "url": "http://127.0.0.1:8080", "address": "127.0.0.1"}
    assert local.one(BALANCER).outputs == front


@ON
def test_machines_boot_before_a_release_goes_there_and_serve_it_before_the_public_address_leads_to_them(
    on: Callable[[Path], Platform], tmp_path: Path
) -> None:
    built = made(tmp_path, on=on)
    machine, step, address, _ = TYPES[on]
    rollout, site = built.one(ROLLOUT), built.one(step, "balancer-site")
    for role in ("hello-1", "hello-2", "hello-3"):
        booted = built.one(step, f"{role}-booted")
        assert booted.depends_on(built.one(machine, role))
        assert rollout.depends_on(booted)
    front = built.one(step, "balancer-booted")
    assert front.depends_on(built.one(machine, "balancer"))
    assert site.depends_on(front)
    assert site.depends_on(rollout)
    assert built.one(address).depends_on(site)


def test_clients_reach_the_balancer_and_the_balancer_alone_the_servers_which_share_a_store(
    local: Build, folder: Path
) -> None:
    rules = {each.name: (each.inputs["rules"], each.inputs["isolated"]) for each in local.of(GROUP)}
    assert rules == {
        "balancer": ([{"port": 80, "addresses": ""}], False),
        "app-hello": ([{"port": 8000, "addresses": "10.0.1.2-10.0.1.254"}], True),
    }
    network = {each.name: each.inputs["network"] for each in local.of(GROUP)}
    keys = ("user_data", "network", "isolated", "store", "memory_mib")
    server = (app_server_user_data([]), network["app-hello"], True, str(folder / ".state/test/store/hello"), 512)
    front = (balancer_user_data(), network["balancer"], False, "", 512)
    expected = {"balancer": front} | dict.fromkeys(("hello-1", "hello-2", "hello-3"), server)
    assert {each.name: tuple(each.inputs[key] for key in keys) for each in local.of(MACHINE)} == expected


def test_a_server_learns_at_boot_where_releases_are_and_the_key_of_its_secrets(local: Build) -> None:
    step = local.one(STEP, "hello-2-booted").inputs
    assert (step["machine"], step["command"]) == ("test-hello-2-3fa9c2", apply_files_command())
    assert step["stdin"] == Secret(app_server_files("file:///srv/store/hello", KEY, OFF))


@ON
def test_static_files_go_to_a_balancer_that_has_booted_before_its_site_serves_them(
    on: Callable[[Path], Platform], tmp_path: Path
) -> None:
    built = made(tmp_path, on=on, given=app(static={"folder": "public"}))
    machine, step, _, target = TYPES[on]
    rollout, front = built.one(ROLLOUT), built.one(step, "balancer-booted")
    assert rollout.inputs["balancer"]["name"] == "balancer"
    assert rollout.inputs["balancer"]["target"].startswith(target)
    assert rollout.depends_on(front)
    assert rollout.depends_on(built.one(machine, "balancer"))
    site = built.one(step, "balancer-site")
    assert site.depends_on(rollout)
    assert "location ^~ /static/ {" in site.inputs["stdin"]


def test_without_static_files_a_release_does_not_wait_until_the_balancer_has_booted(local: Build) -> None:
    rollout = local.one(ROLLOUT)
    front = {"name": "balancer", "target": "test-balancer-3fa9c2", "unit": "nginx.service"}
    assert (rollout.inputs["balancer"], rollout.inputs["static"]) == (front, False)
    assert not rollout.depends_on(local.one(STEP, "balancer-booted"))


def test_the_site_names_the_members_addresses_and_its_step_probes_the_health_path(local: Build) -> None:
    step = local.one(STEP, "balancer-site").inputs
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    site = render_site(BalancerSettings(), [Upstream("hello", addresses, 60, "/healthz")])
    assert json.loads(step["stdin"]) == site
    assert site["upstreams"]["app_hello"]["probe"] == "/healthz"
    assert step["command"] == ["/usr/local/lib/wsgi-fleet/proxy_site.py", "site"]
    assert step["machine"] == "test-balancer-3fa9c2"


def test_a_rollout_gets_its_servers_in_order_and_limits_that_follow_from_the_settings(tmp_path: Path) -> None:
    keys = ("stage_timeout_s", "start_timeout_s", "task_timeout_s", "bake_s", "keep_releases")
    rollout = dict(zip(keys, range(11, 16), strict=True)) | {"batch_size": "25%", "allow_unreachable": 1}
    rollout |= {"task_before_proof": True}
    judged = {"max_error_percent": 2.5, "max_latency_ratio": 3}
    given = app(rollout=rollout | judged | {"release_task": "migrate"}, gateway={"request_timeout_s": 20})
    inputs = made(tmp_path, given=given).one(ROLLOUT).inputs
    addresses = {name: inputs["client_limits"]["addresses"][name] for name in ("hello-1", "hello-2", "hello-3")}
    assert inputs["client_limits"] == judged | {"addresses": addresses}
    assert inputs["limits"] == rollout | {"drain_timeout_s": 35}
    names = ("hello-1", "hello-2", "hello-3")
    assert inputs["servers"] == [{"name": name, "target": f"test-{name}-3fa9c2"} for name in names]
    assert (inputs["app"], inputs["revision"]) == ("hello", "abc1234")
    assert inputs["store"] == {"platform": "lxd", "path": str(tmp_path / ".state" / "test" / "store")}


def test_the_rollout_gets_the_manifest_that_it_is_given_the_id_of_and_both_secrets(tmp_path: Path) -> None:
    inputs = made(tmp_path).one(ROLLOUT).inputs
    secrets = {"DATABASE_URL": GIVEN, "HELLO_SECRET_KEY": MADE}
    manifest = make_manifest(app(), SOURCE, key=KEY, secrets=secrets)
    assert inputs["manifest"] == Secret(manifest.decode())
    assert inputs["release"] == release_id(manifest)
    assert (inputs["source"], inputs["secrets"]) == (str(SOURCE.path), Secret(secrets))


@ON
def test_no_secret_stands_in_a_plain_input_or_output(on: Callable[[Path], Platform], tmp_path: Path) -> None:
    built = made(tmp_path, on=on)
    texts = [f"{each.name} {each.plain_text} {each.outputs}" for each in built.resources]
    lines = [text.split()[0] for text in texts if any(secret in text for secret in (GIVEN, MADE, KEY, "PRIVATE KEY"))]
    assert lines == []


def test_each_generated_secret_of_any_name_is_made_once_however_many_servers_there_are(tmp_path: Path) -> None:
    built = made(tmp_path, given=app(generated_secrets=["KEY", "A_B", "a_b"], fleet={"servers": 5}))
    names = ["hello-key", "hello-secret-A_B", "hello-secret-KEY", "hello-secret-a_b"]
    assert sorted(each.name for each in built.of(SECRET)) == names


def by_urn(built: Build) -> dict[str, Registered]:
    return {each.urn.rpartition("::")[0].rpartition("::")[2] + " " + each.name: each for each in built.resources}


def test_a_fourth_server_changes_nothing_but_the_rollout_and_the_balancers_members(tmp_path: Path) -> None:
    three, four = (by_urn(made(tmp_path, given=app(fleet={"servers": number}))) for number in (3, 4))
    assert {key.split()[1] for key in four.keys() - three.keys()} == {"hello-4", "hello-4-booted"}
    changed = {each.name for key, each in three.items() if each.inputs != four[key].inputs}
    assert changed == {"hello-rollout", "balancer-site"}
    (before,), (after,) = ([each.inputs for each in fleet.values() if each.type == ROLLOUT] for fleet in (three, four))
    assert {key for key in before if before[key] != after[key]} == {"servers", "client_limits"}
    assert after["servers"][:3] == before["servers"]


@ON
def test_a_preview_of_a_new_stack_names_all_that_up_makes(on: Callable[[Path], Platform], tmp_path: Path) -> None:
    planned, done = (by_urn(made(tmp_path, on=on, preview=preview)) for preview in (True, False))
    assert planned.keys() == done.keys()
