"""The mock engine itself: what it must not let through."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest
from pulumi.dynamic import CreateResult, Resource, ResourceProvider

from harness.mock_engine import Secret, build

DYNAMIC = "pulumi-python:dynamic/tests:Thing"


class Provider(ResourceProvider):
    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("unused", props)


class Thing(Resource, module="tests", name="Thing"):
    text: pulumi.Output[Any]
    address: pulumi.Output[str]

    def __init__(self, name: str, text: pulumi.Input[Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(Provider(), name, {"text": text, "address": None}, opts)


def test_a_secret_is_told_from_plain_at_its_depth_and_stays_secret_downstream() -> None:
    def program() -> None:
        first = Thing("first", {"open": "door", "shut": pulumi.Output.secret("sesame")})
        Thing("second", first.text)

    first, second = build(program).of(DYNAMIC)
    assert first.inputs["text"] == {"open": "door", "shut": Secret("sesame")}
    assert first.values["text"] == {"open": "door", "shut": "sesame"}
    assert "sesame" not in first.plain_text
    assert "door" in first.plain_text
    assert "sesame" not in second.plain_text


def test_ids_are_unknown_in_a_preview() -> None:
    seen: list[str] = []

    def program() -> None:
        pulumi.export("id", Thing("one", "a").id.apply(seen.append))

    build(program, preview=True)
    assert seen == []


def test_what_an_apply_raises_reaches_the_test() -> None:
    def fails(text: str) -> str:
        raise ValueError(text)

    with pytest.raises(ValueError, match="lost"):
        build(lambda: Thing("one", "lost").text.apply(fails) and None)


def test_an_undeclared_lookup_fails_even_when_the_program_swallows_it() -> None:
    def program() -> None:
        try:
            pulumi.runtime.invoke("aws:ec2/getAmi:getAmi", {"mostRecent": True})
        except Exception as error:  # noqa: BLE001  the mistake that this is about
            pulumi.log.warn(str(error))

    with pytest.raises(AssertionError, match="getAmi"):
        build(program)


def test_two_resources_of_one_name_are_an_error() -> None:
    def program() -> None:
        Thing("same", "a")
        Thing("same", "b")

    with pytest.raises(AssertionError, match="two resources are named"):
        build(program)
