"""The mock engine itself: what it must not let through."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest
from pulumi.dynamic import CreateResult, Resource, ResourceProvider
from pulumi.runtime import get_config_env

from harness.mock_engine import Build, Secret, build

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


class Group(pulumi.ComponentResource):
    def __init__(self) -> None:
        super().__init__("tests:index:Group", "group")
        self.thing = Thing("inside", "x", pulumi.ResourceOptions(parent=self))
        self.register_outputs({"id": self.thing.id})


def test_a_dynamic_resource_is_recorded_with_its_options_and_its_outputs_flow_on() -> None:
    def program() -> None:
        first = Thing("first", "a")
        opts = pulumi.ResourceOptions(depends_on=[first], replace_on_changes=["text"], delete_before_replace=True)
        second = Thing("second", first.address.apply(lambda address: f"at {address}"), opts)
        pulumi.export("text", second.text)

    built = build(program, outputs={DYNAMIC: lambda r: {"address": f"10.0.0.{r.index}"}})
    first, second = built.of(DYNAMIC)
    assert (first.name, second.name) == ("first", "second")
    assert second.inputs["text"] == "at 10.0.0.0"
    assert second.depends_on(first)
    assert not first.depends_on(second)
    assert second.replace_on_changes == ["text"]
    assert second.delete_before_replace
    assert built.exports == {"text": "at 10.0.0.0"}


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


def test_secret_config_is_secret() -> None:
    def program() -> None:
        Thing("one", pulumi.Config("wsgi-fleet").require_secret("key"))
        Thing("two", pulumi.Config("wsgi-fleet").require("plain"))

    built = build(program, config={"wsgi-fleet:plain": "a"}, secret_config={"wsgi-fleet:key": "b"})
    assert built.one(DYNAMIC, "one").inputs["text"] == Secret("b")
    assert built.one(DYNAMIC, "two").inputs["text"] == "a"


def test_config_stands_in_the_environment_as_the_language_host_puts_it() -> None:
    seen: dict[str, str] = {}
    build(lambda: seen.update(get_config_env()), config={"wsgi-fleet:a": "1"}, secret_config={"wsgi-fleet:b": "2"})
    assert seen == {"wsgi-fleet:a": "1", "wsgi-fleet:b": "2"}


def test_a_child_knows_its_parent_and_a_component_its_outputs() -> None:
    built = build(lambda: Group() and None)
    group, thing = built.one("tests:index:Group"), built.one(DYNAMIC)
    assert thing.parent == group.urn
    assert group.parent == ""
    assert built.children(group) == [thing]
    assert group.outputs == {"id": "inside-id"}


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


def test_a_declared_lookup_answers_and_logs_are_kept() -> None:
    def program() -> None:
        answer = pulumi.runtime.invoke("aws:ec2/getAmi:getAmi", {"mostRecent": True}).value
        pulumi.log.info(f"newest is {answer['id']}")

    built = build(program, lookups={"aws:ec2/getAmi:getAmi": {"id": "ami-1"}})
    assert built.logs == [("info", "newest is ami-1")]
    assert built.lookups == [("aws:ec2/getAmi:getAmi", {"mostRecent": True})]


def test_two_resources_of_one_name_are_an_error() -> None:
    def program() -> None:
        Thing("same", "a")
        Thing("same", "b")

    with pytest.raises(AssertionError, match="two resources are named"):
        build(program)


def test_one_lists_what_there_is_when_nothing_matches() -> None:
    with pytest.raises(AssertionError, match=r"0 resources are aws:s3/bucket:Bucket"):
        Build().one("aws:s3/bucket:Bucket")


def test_a_resource_gets_the_id_that_a_test_answers_with() -> None:
    def program() -> None:
        pulumi.export("ids", [Thing("one", "a").id, Thing("two", "b").id])

    built = build(program, outputs={DYNAMIC: lambda r: {"id": "i-1"} if r.name == "one" else {}})
    assert built.exports == {"ids": ["i-1", "two-id"]}
    assert built.one(DYNAMIC, "one").id == "i-1"
