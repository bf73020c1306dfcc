"""What the mock engine recorded of a program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast


@dataclass(frozen=True)
class Secret:
    """A value that the state encrypts. Not equal to the same value in plain."""

    value: Any


@dataclass
class Registered:
    """One registration as the engine received it. urn, parent, dependencies: URNs; parent "" is the stack itself.

    inputs: secret values stand in Secret, at the depth where the program made them secret; keys as providers spell
    them (camelCase). outputs: what register_outputs of a component passed, None if it was never called.
    """

    type: str
    name: str
    urn: str
    parent: str
    inputs: dict[str, Any]
    custom: bool
    provider: str
    providers: dict[str, str]
    dependencies: frozenset[str]
    index: int
    delete_before_replace: bool
    replace_on_changes: list[str]
    ignore_changes: list[str]
    additional_secret_outputs: list[str]
    protect: bool
    retain_on_delete: bool
    replacement_trigger: Any
    # What the mock engine gave it outside of a preview: `<name>-id`, or the `id` among the outputs that a test gives.
    id: str
    outputs: dict[str, Any] | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The inputs with secrets opened."""
        return cast("dict[str, Any]", reveal_secrets(self.inputs))

    @property
    def plain_text(self) -> str:
        """Every plain input as one text: no secret may occur in it."""
        return repr(_replace_secrets(self.inputs, lambda _: "[secret]"))

    def depends_on(self, other: Registered) -> bool:
        """Return whether the engine waits for other before it creates this one."""
        return other.urn in self.dependencies


@dataclass
class Build:
    """What one run of a program left. logs: (severity, text); lookups: (token, arguments)."""

    resources: list[Registered] = field(default_factory=list[Registered])
    exports: dict[str, Any] = field(default_factory=dict[str, Any])
    logs: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    lookups: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])

    def of(self, type_: str) -> list[Registered]:
        """Return all of a type (`aws:ec2/instance:Instance`, `pulumi-python:dynamic...:X`), by name.

        Not in order of registration, which hangs on when inputs resolve and so on chance.
        """
        return sorted((each for each in self.resources if each.type == type_), key=lambda each: each.name)

    def one(self, type_: str, name: str | None = None) -> Registered:
        """Return the only resource of that type (and name). Raise AssertionError, which lists what is registered."""
        found = [resource for resource in self.of(type_) if name in (None, resource.name)]
        if len(found) != 1:
            there = "\n".join(f"  {resource.type}  {resource.name}" for resource in self.resources)
            raise AssertionError(f"{len(found)} resources are {type_} {name or ''}; registered:\n{there}")
        return found[0]

    def children(self, parent: Registered) -> list[Registered]:
        """Return the resources that were registered with parent=."""
        return [resource for resource in self.resources if resource.parent == parent.urn]


def reveal_secrets(value: Any) -> Any:
    """Return the value with every Secret in it opened."""
    return _replace_secrets(value, reveal_secrets)


def _replace_secrets(value: Any, secret: Callable[[Any], Any]) -> Any:
    """Return the value with secret(inner value) in the place of every Secret."""
    if isinstance(value, Secret):
        return secret(value.value)
    if isinstance(value, dict):
        return {key: _replace_secrets(item, secret) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_replace_secrets(item, secret) for item in cast("list[Any]", value)]
    return value
