"""Blocks of a stack file, as tests write them, on their way through the parser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from settings.stack_file import SettingsError, parse

ROOT = Path(__file__).resolve().parents[2]


def config_of(blocks: Mapping[str, Any]) -> dict[str, str]:
    """Return what Pulumi hands over: a string for each key, JSON for mappings."""
    return {
        f"wsgi-fleet:{name}": value if isinstance(value, str) else json.dumps(value) for name, value in blocks.items()
    }


def problems_of(blocks: Mapping[str, Any], encrypted: Sequence[tuple[str, ...]] | None = None) -> list[str]:
    """Return what is wrong with the blocks, or [] when they are accepted."""
    try:
        parse(config_of(blocks), project=ROOT, encrypted=encrypted)
    except SettingsError as error:
        return error.problems
    return []
