"""How machines on EC2 are entered: by which key, and by which host keys they are known."""

from __future__ import annotations

from typing import Any, cast

import asyncssh
import pytest
from pulumi.dynamic import ResourceProvider

from platforms.aws import key_pair
from tests.unit.aws_answers import GENERATED_KEY, KEY
from tests.unit.engine import Build, Secret
from tests.unit.test_aws import INSTANCE, STEP, built

KEY_PAIR = "aws:ec2/keyPair:KeyPair"
GENERATOR: ResourceProvider = key_pair._Provider()  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(scope="module")
def keyless() -> Build:
    """A stack whose settings name no key pair."""
    return built(ssh_key_name=None, ssh_private_key=None)


def test_a_stack_without_a_key_pair_generates_one_and_registers_its_public_half(keyless: Build) -> None:
    generated, registered = keyless.one(GENERATED_KEY), keyless.one(KEY_PAIR)
    assert registered.inputs == {"publicKey": "ssh-ed25519 AAAAmade"}
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
