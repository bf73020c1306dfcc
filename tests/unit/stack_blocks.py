"""Blocks of a stack file, as tests write them, on their way through the parser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.mock_aws import fill_placeholders
from settings.stack_file import SettingsError, load_config, parse

ROOT = Path(__file__).resolve().parents[2]


def app(**changes: Any) -> dict[str, Any]:
    return {"source": "examples/flask-hello", "module": "hello.wsgi:app"} | changes


def smallest(blocks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the blocks of the smallest stack, with these in the place of its own."""
    return {"platform": "lxd", "apps": {"hello": app()}} | dict(blocks)


def shipped(stack: str) -> dict[str, Any]:
    """Return the blocks of a stack file as it is in the repository."""
    config = load_config(ROOT / "stacks" / f"Pulumi.{stack}.yaml")
    return {key.partition(":")[2]: value for key, value in config.items()}


def production(**aws: Any) -> dict[str, Any]:
    """Return prod's blocks with real-looking ids, and these changes of its block of AWS."""
    blocks = fill_placeholders(shipped("prod"))
    return blocks | {"aws": blocks["aws"] | aws}


def config_of(blocks: Mapping[str, Any]) -> dict[str, str]:
    """Return what Pulumi hands over: a string for each key, JSON for mappings."""
    return {
        f"wsgi-fleet:{name}": value if isinstance(value, str) else json.dumps(value) for name, value in blocks.items()
    }


def problems_of(blocks: Mapping[str, Any], encrypted: Sequence[tuple[str, ...]] | None = None) -> list[str]:
    """Return what is wrong with the smallest stack that has these blocks, or [] when they are accepted."""
    try:
        parse(config_of(smallest(blocks)), project=ROOT, encrypted=encrypted)
    except SettingsError as error:
        return error.problems
    return []


def of_app(**changes: Any) -> list[str]:
    """Return what is wrong with the application of the smallest stack."""
    return [line.removeprefix("apps.hello.") for line in problems_of({"apps": {"hello": app(**changes)}})]
