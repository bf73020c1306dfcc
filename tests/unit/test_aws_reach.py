"""How machines on EC2 are entered: by which key, and by which host keys steps and releases know them."""

from __future__ import annotations

import sys
from typing import Any, cast

import asyncssh
import pytest
from pulumi.dynamic import ResourceProvider

from harness.mock_aws import GENERATED_KEY, HOST_KEY, KEY, PUBLIC_KEY
from harness.mock_engine import Build, Secret
from platforms.aws import host_key, key_pair
from platforms.aws.ssh import SshTransport
from platforms.transport import Unreachable
from tests.unit.test_aws import INSTANCE, STEP, built

KEY_PAIR = "aws:ec2/keyPair:KeyPair"
PINNER: ResourceProvider = host_key._Provider()  # pyright: ignore[reportPrivateUsage]
GENERATOR: ResourceProvider = key_pair._Provider()  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(scope="module")
def prod() -> Build:
    return built()


@pytest.fixture(scope="module")
def keyless() -> Build:
    """Build a stack whose settings name no key pair."""
    return built(ssh_key_name=None, ssh_private_key=None)


def test_a_stack_without_a_key_pair_generates_one_and_registers_its_public_half(keyless: Build) -> None:
    generated, registered = keyless.one(GENERATED_KEY), keyless.one(KEY_PAIR)
    assert registered.inputs == {"publicKey": PUBLIC_KEY}
    assert registered.parent == generated.urn
    assert {each.inputs["keyName"] for each in keyless.of(INSTANCE)} == {"ssh-key-b0b0b0b"}
    assert all(each.values["connection"]["privateKey"] == KEY for each in keyless.of(STEP))


def test_the_generated_private_key_is_secret_wherever_it_goes(keyless: Build) -> None:
    assert keyless.one(GENERATED_KEY).additional_secret_outputs == ["private_key"]
    assert [each.name for each in keyless.resources if KEY in each.plain_text] == []
    assert keyless.exports["late"]["private_key"] == Secret(KEY)


def test_a_key_pair_that_is_given_is_used_and_none_is_made() -> None:
    made = built()
    assert (made.of(GENERATED_KEY), made.of(KEY_PAIR)) == ([], [])
    assert {each.inputs["keyName"] for each in made.of(INSTANCE)} == {"ops"}


def test_a_generated_key_is_an_ed25519_pair_that_ssh_reads_and_each_is_another() -> None:
    first, second = GENERATOR.create({}), GENERATOR.create({})
    outs = cast("dict[str, str]", first.outs)
    read = asyncssh.import_private_key(outs["private_key"])
    assert read.export_public_key().decode().split() == outs["public_key"].split()
    assert outs["public_key"].startswith("ssh-ed25519 ")
    assert first.id in outs["public_key"]
    assert cast("dict[str, str]", second.outs)["private_key"] != outs["private_key"]


def test_a_generated_key_stays_as_it_is() -> None:
    outs: dict[str, Any] = GENERATOR.create({}).outs or {}
    found = GENERATOR.diff("id", outs, {"private_key": None, "public_key": None})
    assert (found.changes, found.replaces) == (False, None)


def test_every_machine_has_its_host_key_pinned_through_the_jump_host_that_is_known_by_its_own(prod: Build) -> None:
    keys = {each.name.removesuffix("-host-key"): each for each in prod.of(HOST_KEY)}
    assert sorted(keys) == ["balancer", "hello-1", "hello-2", "hello-3"]
    way = {"platform": "aws", "user": "admin", "private_key": KEY, "stack": "prod", "jump_id": "balancer-id"}
    for role, key in keys.items():
        address = f"10.0.0.{1 + prod.one(INSTANCE, role).index}"
        known = {} if role == "balancer" else {"balancer-id": "ssh-ed25519 AAAAbalancer-host-key"}
        reach = way | {"jump_address": "198.51.100.9", "host_keys": known}
        assert key.inputs["reach"]["private_key"] == Secret(KEY)
        del key.inputs["__provider"]
        assert key.values == {"machine": f"{role}-id", "target": f"{role}-id@{address}", "reach": reach}


def test_a_step_demands_the_host_keys_of_its_machine_and_of_the_jump_host(prod: Build) -> None:
    on_server = prod.one(STEP, "hello-2-booted").values["connection"]
    assert on_server["hostKey"] == "ssh-ed25519 AAAAhello-2-host-key"
    assert on_server["proxy"]["hostKey"] == "ssh-ed25519 AAAAbalancer-host-key"
    assert prod.one(STEP, "members").values["connection"]["hostKey"] == "ssh-ed25519 AAAAbalancer-host-key"
    assert prod.one(STEP, "hello-2-booted").depends_on(prod.one(HOST_KEY, "hello-2-host-key"))


def test_the_rollout_and_the_operator_are_told_the_host_keys_of_all_machines_described_so_far(prod: Build) -> None:
    every = {f"{role}-id": f"ssh-ed25519 AAAA{role}-host-key" for role in ("balancer", "hello-1", "hello-2", "hello-3")}
    assert prod.exports["early"]["host_keys"] == prod.exports["late"]["host_keys"] == every


def test_a_host_key_is_pinned_anew_for_another_machine_and_for_no_other_reason() -> None:
    olds = {"machine": "i-1", "host_key": "ssh-ed25519 AAAA1"}
    news: dict[str, Any] = {"machine": "i-1", "target": "i-1@10.0.0.1", "reach": {"jump_address": "192.0.2.1"}}
    assert PINNER.diff("i-1", olds, news).changes is False
    assert PINNER.diff("i-1", olds, news | {"reach": {"jump_address": "192.0.2.9"}}).changes is False
    found = PINNER.diff("i-1", olds, news | {"machine": "i-2"})
    assert (found.changes, found.replaces, found.delete_before_replace) == (True, ["machine"], False)


class AuthProxy:
    """Stands for SshTransport: one machine that lets in, or is unreachable."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.is_closed = spec, False

    def host_key(self, machine: str) -> str:
        if machine != "i-1@10.0.0.1":
            raise Unreachable(f"{machine} did not answer")
        return "ssh-ed25519 AAAA1"

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> list[AuthProxy]:
    """Return the transports that were opened."""
    opened: list[AuthProxy] = []

    def from_spec(spec: dict[str, Any]) -> AuthProxy:
        opened.append(AuthProxy(spec))
        return opened[-1]

    monkeypatch.setattr(SshTransport, "from_spec", from_spec)
    return opened


def test_a_host_key_waits_for_its_machine_and_leaves_no_secret_in_the_state(doors: list[AuthProxy]) -> None:
    made = PINNER.create({"machine": "i-1", "target": "i-1@10.0.0.1", "reach": {"private_key": "opensesame"}})
    assert (made.id, made.outs) == ("i-1", {"machine": "i-1", "host_key": "ssh-ed25519 AAAA1"})
    assert doors[0].spec == {"private_key": "opensesame", "deadline_s": 300}
    assert doors[0].is_closed


def test_a_machine_that_lets_nobody_in_fails_with_its_name_alone(doors: list[AuthProxy]) -> None:
    with pytest.raises(Unreachable, match=r"^i-2@10.0.0.2 did not answer$") as error:
        PINNER.create({"machine": "i-2", "target": "i-2@10.0.0.2", "reach": {}})
    assert error.value.__suppress_context__
    assert sys.tracebacklimit == 0
    assert doors[0].is_closed
