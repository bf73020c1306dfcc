"""Compare what a stack file has encrypted with what is a secret by its type."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, SecretStr

from settings.constraint import ENCRYPTED, MASK
from settings.stack import Settings

NAMESPACE = "wsgi-fleet"
# The keys of a value, beginning with the block of the stack file.
KeyPath = tuple[str, ...]


def encrypted_paths(config: Mapping[str, Any]) -> set[KeyPath]:
    """Return the paths of what Pulumi has encrypted in the `config` of a stack file: mappings with one key `secure`."""
    return {
        path
        for key, value in config.items()
        if key.startswith(f"{NAMESPACE}:")
        for path in _encrypted_paths(value, (key.removeprefix(f"{NAMESPACE}:"),))
    }


def find_misplaced(data: Mapping[str, Any], encrypted: Collection[KeyPath]) -> list[str]:
    """Return a line for each secret that is not encrypted, and for each encrypted value that is no secret here.

    data: the blocks of the stack file by name. encrypted: paths; all that is below one is encrypted as well.
    """
    secrets = set(_secrets(Settings, data, ()))
    lines = [
        f"{format_path(path)}: (secret): is stored in plain text; remove it, rotate the secret, and run "
        f"`pulumi config set --secret --path {NAMESPACE}:{format_path(path)}`"
        for path in sorted(secrets)
        if not any(path[: len(each)] == each for each in encrypted)
    ]
    for path in sorted(set(encrypted) - secrets):
        if _is_leaf(data, path):
            is_variable = path[0] == "apps" and path[2:3] == ("environment",)
            remedy = f"set it in `apps.{path[1]}.secrets`" if is_variable else "set it without --secret"
            lines.append(f"{format_path(path)}: (secret): is encrypted, and would be stored in plain text; {remedy}")
    return lines


def is_encrypted(value: Any) -> bool:
    """Return whether Pulumi decrypts a value of a stack file: a mapping with the one key `secure`, which is text."""
    inner = cast("dict[Any, Any]", value) if isinstance(value, dict) else {}
    return inner.keys() == {"secure"} and isinstance(inner["secure"], str)


class Hidden:
    """What a stack file has encrypted and what is no secret by its type: single values, and whole blocks."""

    def __init__(self, data: Mapping[str, Any], encrypted: Collection[KeyPath]) -> None:
        paths = set(encrypted) - set(_secrets(Settings, data, ()))
        self.values = {path for path in paths if _is_leaf(data, path)}
        self.blocks = paths - self.values

    def replace(self, value: Any, path: KeyPath = ()) -> Any:
        """Return data with each single value replaced by ENCRYPTED, so that no message can show it."""
        if path in self.values:
            return ENCRYPTED
        if isinstance(value, Mapping):
            return {key: self.replace(each, (*path, key)) for key, each in cast("Mapping[str, Any]", value).items()}
        if isinstance(value, list):
            items = enumerate(cast("list[Any]", value))
            return [self.replace(each, (*path, str(number))) for number, each in items]
        return value

    def mask(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield mistakes without encrypted values. find_misplaced already reports single encrypted values."""
        values, blocks = (list(map(format_path, paths)) for paths in (self.values, self.blocks))
        for line in lines:
            key, _, what = line.partition(": ")
            block = next((each for each in blocks if key == each or key.startswith((f"{each}.", f"{each}["))), None)
            if what.startswith(("missing;", "unknown key;")) or (key not in values and block is None):
                yield line.replace(json.dumps(ENCRYPTED), MASK).replace(ENCRYPTED, MASK)
            elif block is not None and what.startswith(MASK):
                yield line
            elif block is not None:
                yield f"{key}: (secret): is not allowed there; set {block} again and encrypt only its secrets"


def _encrypted_paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if is_encrypted(value):
        yield path
    elif isinstance(value, dict):
        for key, each in cast("dict[Any, Any]", value).items():
            yield from _encrypted_paths(each, (*path, str(key)))
    elif isinstance(value, list):
        for number, each in enumerate(cast("list[Any]", value)):
            yield from _encrypted_paths(each, (*path, str(number)))


def _secrets(type_: Any, value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the paths of values whose type is SecretStr."""
    origin, arguments = get_origin(type_), get_args(type_)
    if type_ is SecretStr:
        if value is not None:
            yield path
    elif origin in (Annotated, Union, UnionType):
        for each in arguments[:1] if origin is Annotated else arguments:
            yield from _secrets(each, value, path)
    elif isinstance(value, Mapping):
        for name, each in cast("Mapping[str, Any]", value).items():
            yield from _secrets(_type_of(type_, name), each, (*path, str(name)))
    elif isinstance(value, list) and arguments:
        for number, each in enumerate(cast("list[Any]", value)):
            yield from _secrets(arguments[0], each, (*path, str(number)))


def _type_of(type_: Any, name: str) -> Any:
    """Return the type of the value with a name, in a model or a mapping; None where it has none."""
    if get_origin(type_) is dict:
        return get_args(type_)[1]
    if isinstance(type_, type) and issubclass(type_, BaseModel) and name in type_.model_fields:
        return type_.model_fields[name].annotation
    return None


def _is_leaf(data: Mapping[str, Any], path: KeyPath) -> bool:
    """Return whether the path is that of a value, and not of a mapping, a list or nothing."""
    here: Any = data
    for key in path:
        if isinstance(here, Mapping):
            here = cast("Mapping[str, Any]", here).get(key)
        elif isinstance(here, list) and key.isdigit() and int(key) < len(cast("list[Any]", here)):
            here = cast("list[Any]", here)[int(key)]
        else:
            return False
    return here is not None and not isinstance(here, (Mapping, list))


def format_path(path: Sequence[str]) -> str:
    """Return a path as Pulumi reads it: keys with other characters in brackets."""
    words = [key if key.replace("-", "_").replace("_", "a").isalnum() else f"[{json.dumps(key)}]" for key in path]
    return ".".join(words).replace(".[", "[")
