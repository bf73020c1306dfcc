"""What a balancer with more to do than spreading requests brings onto its machine, over both platforms."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.balancer import Balancer, BalancerArgs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from harness import mock_aws, mock_lxd
from harness.mock_engine import Build, Secret, build
from harness.mock_lxd import STEP
from platforms import Platform
from platforms.aws.platform import AwsPlatform
from platforms.lxd.platform import LxdPlatform
from rendering.balancer import balancer_user_data, proxy_packages_command
from settings import App, Lxd
from settings import Balancer as Settings
from tests.unit.test_components import AWS, MACHINE

COMMAND = "command:remote:Command"
PASSWORDS = {"ann": "correct horse", "bob": "battery staple"}
OUTPUTS = {**mock_lxd.OUTPUTS, **mock_aws.OUTPUTS}


def made(proxy: Mapping[str, Any], on: str = "lxd") -> Build:
    """Build a balancer whose one application has one member."""
    given = Settings.model_validate_json(json.dumps({"proxy": proxy}))

    def program() -> None:
        platform: Platform = (
            LxdPlatform(Lxd(), stack="test", project=Path("/nowhere"))
            if on == "lxd"
            else AwsPlatform(AWS, stack="test", project_name="wsgi-fleet")
        )
        groups = SecurityGroups("groups", SecurityGroupsArgs(["a"]), platform=platform)
        members = {"a": pulumi.Output.from_input(["10.0.0.1"])}
        balancer = Balancer("balancer", BalancerArgs(given, groups.balancer), platform=platform)
        balancer.serve({"a": App(source="a", module="a:app")}, members)

    return build(program, outputs=OUTPUTS, lookups=mock_aws.LOOKUPS)


def steps(built: Build) -> list[str]:
    return [each.name for each in built.of(STEP) + built.of(COMMAND)]


@pytest.mark.parametrize("on", ["lxd", "aws"])
def test_a_balancer_that_needs_nothing_beside_its_site_has_no_step_for_it(on: str) -> None:
    # On AWS every machine has a step for what watches it.
    made_steps = [each for each in steps(made({"cache": {}, "status": True}, on)) if each != "balancer-monitoring"]
    assert made_steps == ["balancer-booted", "balancer-members"]


@pytest.mark.parametrize(("on", "step"), [("lxd", STEP), ("aws", COMMAND)])
def test_packages_and_users_are_there_before_the_site_that_names_them(on: str, step: str) -> None:
    built = made({"geoip": True, "basic_auth": {"users": PASSWORDS}}, on)
    proxy = built.one(step, "balancer-proxy")
    assert proxy.depends_on(built.one(step, "balancer-booted"))
    assert built.one(step, "balancer-members").depends_on(proxy)


def test_users_travel_hashed_on_standard_input_as_a_secret() -> None:
    step = made({"basic_auth": {"users": PASSWORDS}}).one(STEP, "balancer-proxy").inputs
    assert step["command"] == proxy_packages_command(
        Settings.model_validate_json(json.dumps({"proxy": {"basic_auth": {"users": {}}}}))
    )
    assert isinstance(step["stdin"], Secret)
    lines = step["stdin"].value.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["ann", "bob"]
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    for line, password in zip(lines, PASSWORDS.values(), strict=True):
        kept = line.partition(":")[2]
        assert library.crypt(password.encode(), kept.encode()).decode() == kept


@pytest.mark.parametrize("on", ["lxd", "aws"])
def test_neither_a_password_nor_its_hash_stands_anywhere_in_plain(on: str) -> None:
    built = made({"basic_auth": {"users": PASSWORDS}}, on)
    words = [*PASSWORDS.values(), "$6$"]
    told = [
        each.name
        for each in built.resources
        if any(word in each.plain_text + str(each.outputs) for word in words)
    ]  # fmt: skip
    assert told == []
    assert [word for word in words if word in str(built.exports) + str(built.logs)] == []


def test_another_kind_of_proxy_is_another_balancer() -> None:
    plain, other = (made(proxy).one(MACHINE, "balancer").inputs for proxy in ({}, {"kind": "apache"}))
    assert {name for name in plain if plain[name] != other[name]} == {"user_data"}
    assert other["user_data"] == balancer_user_data(proxy="apache")


def test_no_setting_of_the_proxy_but_its_kind_replaces_the_balancer() -> None:
    plain, busy = (
        made(proxy).one(MACHINE, "balancer").inputs
        for proxy in ({}, {"geoip": True, "cache": {}, "basic_auth": {"users": PASSWORDS}})
    )
    assert plain == busy
