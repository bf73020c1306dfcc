"""Describe stack files as a JSON schema, and find the keys that are allowed in them.

As a program: print the schema; `make schema` writes it to stacks/settings.schema.json.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any, cast

from settings.secrets import NAMESPACE
from settings.stack import Settings

Schema = dict[str, Any]


@functools.cache
def _settings_schema() -> dict[str, Any]:
    return Settings.model_json_schema()


def find(location: Iterable[str | int]) -> tuple[list[str], list[Schema]]:
    """Return the keys that a location of pydantic leads through, and the schemas of what may be there.

    A location also names the members of a union that pydantic tried. They are no keys and left out.
    """
    keys, options = list[str](), [_settings_schema()]
    for part in location:
        if inner := [found for option in options for found in _inside(option, part)]:
            keys.append(str(part))
            options = inner
    return keys, options


def known_keys(options: Iterable[Schema]) -> list[str]:
    """Return the keys allowed in one of these schemas. They are read off the types, so that they are written once."""
    return sorted(key for option in options for key in option.get("properties", {}))


def paths_to(key: str, options: Iterable[Schema]) -> list[str]:
    """Return the paths to a key in blocks below these schemas."""
    found = list[str]()
    for option in options:
        for name, inner in option.get("properties", {}).items():
            below = _options(inner)
            found += [f"{name}.{key}"] if key in known_keys(below) else []
            found += [f"{name}.{path}" for path in paths_to(key, below)]
    return found


def has_secret(options: Iterable[Schema]) -> bool:
    """Return whether a value of these schemas is a secret or contains one."""
    return any(
        option.get("format") == "password"
        or any(has_secret(_options(inner)) for inner in [*option.get("properties", {}).values(), *_values(option)])
        for option in options
    )


def is_secret(value: Any, options: Iterable[Schema]) -> bool:
    """Return whether a text or number is a secret: by its place, or as text that stands where a secret's block should.

    A number in the place of a block is a mistake of another kind, and no secret.
    """
    places = list(options)
    below = [inner for option in places for inner in _values(option)]
    if isinstance(value, str):
        below += [inner for option in places for inner in option.get("properties", {}).values()]
    return any(
        each.get("format") == "password" for each in [*places, *(one for each in below for one in _options(each))]
    )


def _inside(option: Schema, part: str | int) -> list[Schema]:
    """Return the schemas of the value at a key or a position; none if there is no such value."""
    if isinstance(part, int):
        return _options(option["items"]) if "items" in option else []
    if part in option.get("properties", {}):
        return _options(option["properties"][part])
    return [found for value in _values(option) for found in _options(value)]


def _values(option: Schema) -> list[Schema]:
    """Return the schemas of the values of a mapping with any keys."""
    values = [*option.get("patternProperties", {}).values(), option.get("additionalProperties")]
    return [value for value in values if isinstance(value, dict)]


def _options(schema: Schema) -> list[Schema]:
    """Return the members of a union, references resolved. What stands beside them goes along: the default."""
    beside = {key: schema[key] for key in ("default", "description") if key in schema}
    if "$ref" in schema:
        return [_settings_schema()["$defs"][schema["$ref"].rpartition("/")[2]] | beside]
    if "anyOf" in schema:
        return [option | beside for each in schema["anyOf"] for option in _options(each)]
    return [schema]


def _with_encrypted(schema: Any) -> Any:
    """Return the schema with Pulumi's form of an encrypted value: `secure: ...`."""
    if isinstance(schema, list):
        return [_with_encrypted(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    found = {key: _with_encrypted(value) for key, value in cast("dict[str, Any]", schema).items()}
    if found.get("format") != "password":
        return found
    about = {key: found.pop(key) for key in ("title", "description") if key in found}
    secure = {"type": "object", "properties": {"secure": {"type": "string"}}, "required": ["secure"]}
    return {**about, "anyOf": [found, {**secure, "additionalProperties": False}]}


def stack_file_schema() -> dict[str, Any]:
    """Return the JSON schema of a stack file (Pulumi.<stack>.yaml)."""
    schema = _with_encrypted(Settings.model_json_schema())
    definitions = schema.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A stack file of wsgi-fleet",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": {f"{NAMESPACE}:{name}": value for name, value in schema["properties"].items()},
                "required": [f"{NAMESPACE}:{name}" for name in schema["required"]],
                "patternProperties": {f"^(?!{NAMESPACE}:)": {}},
                "additionalProperties": False,
            }
        },
        "$defs": definitions,
    }


if __name__ == "__main__":
    print(json.dumps(stack_file_schema(), indent=2))
