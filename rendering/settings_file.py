"""Values as Python, JSON or TOML write them: the text of a settings file. Its reader gets them to the letter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

MADE = "# Made by wsgi-fleet. Part of the release.\n"


def python_text(values: Mapping[str, Any]) -> str:
    """Return lines of NAME = literal, as Flask's Config.from_pyfile reads them."""
    return MADE + "".join(f"{name} = {value!r}\n" for name, value in sorted(values.items()))


def toml_text(values: Mapping[str, Any]) -> str:
    """Return the values as TOML 1.0, which has no null. Names of values are bare keys."""
    return MADE + "".join(f"{name} = {_toml(value)}\n" for name, value in sorted(values.items()))


def _toml(value: Any) -> str:
    if isinstance(value, str):
        # JSON's escapes are TOML's, which has one more character to escape.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return "{" + ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, cast("list[Any]", value))) + "]"
    # Numbers and true and false are written alike.
    return json.dumps(value, allow_nan=False)


def json_text(values: Mapping[str, Any]) -> str:
    """Return an object as JSON text."""
    return json.dumps(values, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


# By format: the file's name in a release, and how its text is made.
FORMATS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "python": ("settings.py", python_text),
    "json": ("settings.json", json_text),
    "toml": ("settings.toml", toml_text),
}
