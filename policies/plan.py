"""Where a plan comes from: the JSON of the Pulumi command line, or the program itself, run by the mock engine."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from policies.control import Planned
from releases.drift import UNKNOWN

if TYPE_CHECKING:
    from harness.mock_engine import Build

# What marks a value as special in Pulumi's JSON, and what a secret; what stands for a value that is not known yet
# (sdk/v3/go/common/resource: sig).
SIGNATURE, SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"


def plan_of(argument: str) -> tuple[str, list[Planned]]:
    """Return name and plan of a stack: by its file, or with "-" from standard input. Raises ValueError."""
    if argument != "-":
        return argument, from_program(argument)
    try:
        plan = from_json(json.load(sys.stdin))
    except ValueError as error:
        raise ValueError(f"standard input: {error}") from error
    return (plan[0].urn.split("::")[0].rpartition(":")[2] if plan else argument), plan


def from_json(text: Mapping[str, Any]) -> list[Planned]:
    """Return the plan in the output of a pulumi command. Raises ValueError.

    It is that of `pulumi preview --json` (what will be there) or `pulumi stack export` (what is).
    """
    if "steps" in text:
        states = [step.get("newState") for step in text["steps"] if not str(step["op"]).startswith("delete")]
    elif "deployment" in text:
        states = [each for each in text["deployment"].get("resources") or () if not each.get("delete")]
    else:
        raise ValueError("neither `pulumi preview --json` nor `pulumi stack export`: no steps and no deployment in it")
    return [
        Planned(
            each["type"],
            str(each["urn"]).rpartition("::")[2],
            each["urn"],
            each.get("parent", ""),
            _reveal(each.get("inputs") or {}),
        )
        # A replacement is two steps.
        for each in {each["urn"]: each for each in states if each}.values()
    ]


def _reveal(value: Any) -> Any:
    """Return a value without values of secrets, and with None for what is not known."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if fields.get(SIGNATURE) == SECRET:
            return "[secret]"
        return {key: _reveal(item) for key, item in fields.items()}
    if isinstance(value, list):
        return [_reveal(item) for item in cast("list[Any]", value)]
    return None if value == UNKNOWN else value


def from_program(stack: str, **changes: Any) -> list[Planned]:
    """Return the plan of the program with the settings of a stack file, without AWS: responses and ids are made up.

    Blocks given in `changes` take the place of its own. Warnings of the program are printed to standard error. Raises
    ValueError with what it logs where it rejects the settings.
    """
    # The mock engine stands with the tests; only who runs it needs it.
    from harness import program  # noqa: PLC0415

    there = sorted(each.name.split(".")[1] for each in (program.ROOT / "stacks").glob("Pulumi.*.yaml"))
    if stack not in there:
        raise ValueError(f"there is no file stacks/Pulumi.{stack}.yaml; there are {', '.join(there)}")
    apps = changes.pop("apps", None) or program.stack_file(stack).get("apps", {})
    for app in apps.values():
        # Beside the checkout, which the folder of this run is not.
        if str(app.get("source", "")).startswith(".."):
            app["source"] = str((program.ROOT / app["source"]).resolve())
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        program.project(Path(folder))
        try:
            with (
                contextlib.chdir(folder),
                mock.patch("pulumi.log.error", said.append),
                mock.patch("pulumi.log.warn", _print_warning),
            ):
                return from_build(program.plan(stack, apps=apps, **changes))
        except SystemExit:
            raise ValueError("\n".join(said)) from None


def _print_warning(text: str, *_: object, **__: object) -> None:
    print(f"warning: {text}", file=sys.stderr)


def from_build(build: Build) -> list[Planned]:
    """Return the plan that the mock engine recorded."""
    return [Planned(each.type, each.name, each.urn, each.parent, _plain(each.inputs)) for each in build.resources]


def _plain(value: Any) -> Any:
    from harness.mock_engine import Secret  # noqa: PLC0415

    if isinstance(value, Secret):
        return "[secret]"
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[str, Any]", value).items()}
    return [_plain(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value
