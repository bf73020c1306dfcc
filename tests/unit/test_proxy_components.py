"""What a balancer with more to do than spreading requests brings onto its machine, over both platforms."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from typing import Any

import pytest

from harness.mock_engine import Build, Secret
from harness.mock_lxd import STEP
from rendering.balancer import balancer_user_data, proxy_packages_command
from settings import Balancer as Settings
from tests.unit.balancer_build import COMMAND, balancer_build, names_that_tell, steps
from tests.unit.test_components import MACHINE

PASSWORDS = {"ann": "correct horse", "bob": "battery staple"}


def made(proxy: Mapping[str, Any], on: str = "lxd") -> Build:
    return balancer_build({"proxy": proxy}, on)


@pytest.mark.parametrize("on", ["lxd", "aws"])
def test_a_balancer_that_needs_nothing_beside_its_site_has_no_step_for_it(on: str) -> None:
    built = made({"cache": {}, "status": True}, on)
    assert steps(built) == ["balancer-booted", "balancer-members"]


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
    assert names_that_tell(built, [*PASSWORDS.values(), "$6$"]) == []


def test_another_kind_of_proxy_is_another_balancer_and_no_other_setting_is() -> None:
    busy_ = {"geoip": True, "cache": {}, "basic_auth": {"users": PASSWORDS}}
    plain, busy, other = (made(proxy).one(MACHINE, "balancer").inputs for proxy in ({}, busy_, {"kind": "apache"}))
    assert plain == busy
    assert other == plain | {"user_data": balancer_user_data(proxy="apache")} != plain
