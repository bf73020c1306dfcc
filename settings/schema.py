"""Describe stack files as a JSON schema, and find the keys that are allowed in them.

As a program: print the schema; `make schema` writes it to stacks/settings.schema.json.
"""

from __future__ import annotations

import functools
import json
from typing import Any, cast

from settings import Settings
from settings.secrets import NAMESPACE


@functools.cache
def _settings_schema() -> dict[str, Any]:
    return Settings.model_json_schema()


def known_keys(location: list[str]) -> list[str]:
    """Return the keys allowed at a place. They are read off the JSON schema, so that they are written once."""
    schema = _settings_schema()
    definitions: dict[str, Any] = schema["$defs"]
    here = schema
    for part in location:
        values = [here.get("additionalProperties"), *here.get("patternProperties", {}).values()]
        found: Any = here.get("properties", {}).get(part) or next((value for value in values if value), None)
        options: list[dict[str, Any]] = [found, *found.get("anyOf", []), *found.get("allOf", [])] if found else []
        reference = next((option["$ref"] for option in options if "$ref" in option), None)
        here = definitions[reference.rpartition("/")[2]] if reference else dict[str, Any](found or {})
    return sorted(here.get("properties", {}))


def _with_encrypted(schema: Any) -> Any:
    """Return the schema with what Pulumi puts in the place of a secret: `secure: ...`."""
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
