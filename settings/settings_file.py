"""The settings file of a release: its values, and the environment variable with its path."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from settings.constraint import VariableName
from settings.model import Model, reject

# Python 3.11 compiles 200 levels of brackets (tried), and readers of JSON and TOML recurse as well.
DEPTH = 40
# Pulumi rounds whole numbers beyond that to 15 digits (tried with 3.250.0), and no more is asked of a reader of TOML.
BITS = 63


class SettingsFile(Model):
    """Written on each server as part of the release, readable by the application. Nothing in it is secret."""

    variable: VariableName = Field(description="environment variable that is set to the file's path")
    format: Literal["python", "json", "toml"] = Field(
        default="python", description="python: lines of NAME = value, as Flask's from_pyfile and from_envvar read"
    )
    values: dict[VariableName, JsonValue] = Field(
        description="settings by name: text, numbers, true, false, null, lists and mappings"
    )

    @model_validator(mode="after")
    def _reject_unrepresentable(self) -> SettingsFile:
        problems = [problem for name, value in self.values.items() for problem in self._problems(name, value)]
        reject(*problems)
        return self

    def _problems(self, name: str, value: JsonValue) -> Iterator[str]:
        if self.format == "python" and not name.isupper():
            yield f"values.{name}: is in small letters, which Flask and Django do not read; write {name.upper()}"
        yield from self._unrepresentable(f"values.{name}", value, DEPTH)

    def _unrepresentable(self, path: str, value: JsonValue, levels: int) -> Iterator[str]:
        """Yield what of a value the file cannot contain, or should not."""
        if levels == 0:
            yield f"{path}: is more than {DEPTH} levels deep; write it with fewer"
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from self._unrepresentable(f"{path}.{number}", inner, levels - 1)
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from self._unrepresentable(
                    f"{path}.{key if key.isidentifier() else json.dumps(key)}", inner, levels - 1
                )
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{path}: {value}: is no finite number; write another, or text"
        elif value is None and self.format == "toml":
            yield f"{path}: null: TOML has none; leave it out, or take another format"
        elif isinstance(value, int) and not -(2**BITS) <= value < 2**BITS:
            yield f"{path}: {value}: has more than 64 bits, so Pulumi has rounded it; quote it, as text"
