"""How machines on EC2 are entered: by which key, and by which host keys steps and releases know them."""

from __future__ import annotations

import sys
from typing import Any, cast
from unittest import mock

import asyncssh
import pytest
from pulumi.dynamic import ResourceProvider

from harness.mock_aws import GENERATED_KEY, HOST_KEY, KEY, PUBLIC_KEY
from harness.mock_engine import Secret
from platforms.aws import host_key, key_pair
from platforms.aws.ssh import SshTransport
from platforms.transport import Unreachable
from tests.unit.aws_fleet import INSTANCE, ROLES, STEP, built

KEY_PAIR = "aws:ec2/keyPair:KeyPair"
PINNER: ResourceProvider = host_key._Provider()  # pyright: ignore[reportPrivateUsage]
GENERATOR: ResourceProvider = key_pair._Provider()  # pyright: ignore[reportPrivateUsage]


def test_a_stack_without_a_key_pair_generates_one_and_registers_its_public_half() -> None:
    keyless = built(ssh_key_name=None, ssh_private_key=None)
    generated, registered = keyless.one(GENERATED_KEY), keyless.one(KEY_PAIR)
    assert registered.inputs == {"publicKey": PUBLIC_KEY}
    assert registered.parent == generated.urn
    assert {each.inputs["keyName"] for each in keyless.of(INSTANCE)} == {"ssh-key-b0b0b0b"}
    assert all(each.values["connection"]["privateKey"] == KEY for each in keyless.of(STEP))
    assert generated.additional_secret_outputs == ["private_key"]
    assert (built().of(GENERATED_KEY), built().of(KEY_PAIR)) == ([], [])


@pytest.mark.parametrize("key", [{}, {"ssh_key_name": None, "ssh_private_key": None}], ids=["given", "generated"])
def test_no_secret_stands_in_a_plain_input_or_export(key: dict[str, Any]) -> None:
    made = built(**key)
    assert [each.name for each in made.resources if KEY in each.plain_text or "opensesame" in each.plain_text] == []
    assert made.exports["early"]["private_key"] == made.exports["late"]["private_key"] == Secret(KEY)


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


@pytest.mark.parametrize("role", ROLES)
def test_a_machine_has_its_host_key_pinned_through_the_jump_host_that_is_known_by_its_own(role: str) -> None:
    prod = built()
    known = {} if role == "balancer" else {"balancer-id": "ssh-ed25519 AAAAbalancer-host-key"}
    target = f"{role}-id@10.0.0.{1 + prod.one(INSTANCE, role).index}"
    way = {"platform": "aws", "user": "admin", "private_key": Secret(KEY), "stack": "prod", "jump_id": "balancer-id"}
    reach = way | {"jump_address": "198.51.100.9", "host_keys": known}
    inputs = prod.one(HOST_KEY, f"{role}-host-key").inputs
    assert {key: inputs[key] for key in inputs if key != "__provider"} == {
        "machine": f"{role}-id", "target": target, "reach": reach,
    }  # fmt: skip
    step = prod.one(STEP, f"{role}-monitoring")
    assert step.depends_on(prod.one(HOST_KEY, f"{role}-host-key"))


def test_a_host_key_is_pinned_anew_for_another_machine_and_for_no_other_reason() -> None:
    olds = {"machine": "i-1", "host_key": "ssh-ed25519 AAAA1"}
    news: dict[str, Any] = {"machine": "i-1", "target": "i-1@10.0.0.1", "reach": {"jump_address": "192.0.2.1"}}
    assert PINNER.diff("i-1", olds, news).changes is False
    assert PINNER.diff("i-1", olds, news | {"reach": {"jump_address": "192.0.2.9"}}).changes is False
    found = PINNER.diff("i-1", olds, news | {"machine": "i-2"})
    assert (found.changes, found.replaces, found.delete_before_replace) == (True, ["machine"], False)


@pytest.fixture
def transports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the transports that were opened, to one machine that lets in."""
    opened: list[Any] = []

    def host_key(machine: str) -> str:
        if machine != "i-1@10.0.0.1":
            raise Unreachable(f"{machine} did not respond")
        return "ssh-ed25519 AAAA1"

    def from_spec(spec: dict[str, Any]) -> Any:
        opened.append(mock.Mock(given=spec, host_key=host_key))
        return opened[-1]

    monkeypatch.setattr(SshTransport, "from_spec", from_spec)
    return opened


def test_a_host_key_waits_for_its_machine_and_leaves_no_secret_in_the_state(transports: list[Any]) -> None:
    made = PINNER.create({"machine": "i-1", "target": "i-1@10.0.0.1", "reach": {"private_key": "opensesame"}})
    assert (made.id, made.outs) == ("i-1", {"machine": "i-1", "host_key": "ssh-ed25519 AAAA1"})
    assert transports[0].given == {"private_key": "opensesame", "deadline_s": 300}
    assert transports[0].close.called


def test_a_machine_that_lets_nobody_in_fails_with_its_name_alone(transports: list[Any]) -> None:
    with pytest.raises(Unreachable, match=r"^i-2@10.0.0.2 did not respond$") as error:
        PINNER.create({"machine": "i-2", "target": "i-2@10.0.0.2", "reach": {}})
    assert error.value.__suppress_context__
    assert sys.tracebacklimit == 0
    assert transports[0].close.called
