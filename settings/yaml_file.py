"""Read a stack file as YAML as Pulumi does; report where it is none, and what Pulumi would take for something else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from settings.yaml_mistake import (
    IN_ITSELF,
    NAME,
    NO_NAME,
    TAGGED,
    TOO_DEEP,
    Scalar,
    describe,
    describe_character,
    format_place,
)

TAG = "tag:yaml.org,2002:"
# Unquoted, what Pulumi reads as it stands here. Everything else that it reads as no text is rejected.
NULLS = {"", "~", "null"}
BOOLEANS = {"true", "false"}
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]\d+)?", re.ASCII)
# No number that JSON can write needs more: -1.7976931348623157e+308.
NUMBER_LENGTH = 24
BITS = 63
# The tag of unquoted text that Pulumi (gopkg.in/yaml.v3, then JSON) hands to the program as something else.
REWRITTEN = "rewritten"
# What Pulumi rewrites -> what is wrong with it. Measured with 3.250.0; more may be rejected than it rewrites.
REWRITES = {
    re.compile(r"[-+]?\d+\.0+", re.A): (
        "has a whole number with a point, which Pulumi reads without (3.0 as 3); write it without; "
        "quote it only where text is meant"
    ),
    re.compile(
        r"([-+]_*)?(0x[\da-f_]+|0o[-+0-7_]+|0b[-+01_]+|(\d[\d_]*(\.[\d_]*)?|\.[\d_]+)(e[-+\d_]+)?)", re.I | re.A
    ): (
        "has a number that Pulumi reads as another text (012 as 10, 3.10 as 3.1, 1e3 as 1000) or rounds; "
        "write it in its usual form; quote it only where text is meant"
    ),
    re.compile(r"\d{4}-\d\d?-\d\d?([Tt ].*)?", re.A): "has a date, which Pulumi reads as another text; quote it",
    re.compile(r"([-+]?\.inf|\.nan)", re.I): "has a number that is not finite; quote it, or write another",
    re.compile(r"true|false|null", re.I): (
        "has a word that Pulumi reads as true, false or null; quote it, or write it in small letters"
    ),
}


class _Loader(yaml.SafeLoader):
    """Resolve unquoted text as Pulumi does: YES, on, 12:30 and 2024-99-99 are text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.scalars: list[Scalar] = []

    def fetch_plain(self) -> None:
        super().fetch_plain()
        self.scalars.append(self.tokens[-1])

    def fetch_flow_scalar(self, style: str) -> None:
        super().fetch_flow_scalar(style)  # pyright: ignore
        self.scalars.append(self.tokens[-1])

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is not yaml.ScalarNode:
            return super().resolve(kind, value, implicit)  # pyright: ignore
        return _tag(value, is_quoted=not implicit[0])

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge what `<<` names, and take each key as it is written: 404 is "404"."""
        super().flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = f"{TAG}str"


# As a value it is text.
_Loader.add_constructor(f"{TAG}merge", yaml.SafeLoader.construct_scalar)


def _tag(text: str, *, is_quoted: bool) -> str:
    return TAG + ("str" if is_quoted else "merge" if text == "<<" else _type_of(text))


def _type_of(text: str) -> str:
    """Return the type of an unquoted text: null, bool, int, float, str or REWRITTEN."""
    if text in NULLS:
        return "null"
    if text in BOOLEANS:
        return "bool"
    # Pulumi hands numbers over as JSON, where 1.0 is 1.
    if (number := NUMBER.fullmatch(text)) and len(text) <= NUMBER_LENGTH:
        value = float(text) if number[2] or number[3] else int(text)
        is_same = -(2**BITS) <= value < 2**BITS if isinstance(value, int) else not value.is_integer() or "e" in text
        return type(value).__name__ if is_same and json.dumps(value) == text else REWRITTEN
    return REWRITTEN if any(pattern.fullmatch(text) for pattern in REWRITES) else "str"


class YamlError(Exception):
    """A text is no YAML. problems: `line LINE, column COLUMN: TEXT: what is wrong; what to do`, one for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def load(text: str) -> Any:
    """Return the document in a text. Raises YamlError with where and what is wrong."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        raise YamlError([describe_character(error, text)]) from None
    try:
        node = loader.get_single_node()
        if found := list(_problems(node, text, set(), ())):
            raise YamlError(found)
        return None if node is None else loader.construct_document(node)  # pyright: ignore[reportUnknownMemberType]
    except RecursionError:
        raise YamlError([format_place(loader.get_mark(), text) + TOO_DEEP]) from None
    except yaml.MarkedYAMLError as error:
        raise YamlError([describe(error, text, loader.scalars)]) from None


def _problems(node: yaml.Node | None, text: str, seen: set[int], above: tuple[int, ...]) -> Iterator[str]:
    """Yield a problem for each key that is no text or that its mapping has already, and each node within itself.

    Also for what _problem finds in a node. seen, above: nodes, for an alias leads to one again.
    """
    if node is not None and id(node) in above:
        yield format_place(node.start_mark, text) + IN_ITSELF
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if problem := _problem(node):
        yield format_place(node.start_mark, text) + problem
    if not isinstance(node, yaml.CollectionNode):
        return
    above = (*above, id(node))
    if not isinstance(node, yaml.MappingNode):
        for item in node.value:
            yield from _problems(item, text, seen, above)
        return
    first: dict[str, yaml.Mark] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{TAG}null":
            yield format_place(key.start_mark, text) + NO_NAME
        elif problem := _problem(key):
            yield format_place(key.start_mark, text) + problem
        elif key.value in first:
            name = f"the key {key.value}" if NAME.fullmatch(key.value) else "a key"
            before = f"has {name} a second time, after line {first[key.value].line + 1}; keep one of both"
            yield format_place(key.start_mark, text) + before
        else:
            first[key.value] = key.start_mark
        yield from _problems(value, text, seen, above)


def _problem(node: yaml.Node) -> str | None:
    """Return what is wrong with a node itself."""
    if isinstance(node, yaml.ScalarNode):
        usual = {f"{TAG}str", _tag(node.value, is_quoted=node.style is not None)}
    else:
        usual = {f"{TAG}{'map' if isinstance(node, yaml.MappingNode) else 'seq'}"}
    if node.tag not in usual:
        return TAGGED
    if node.tag == TAG + REWRITTEN:
        return next(problem for pattern, problem in REWRITES.items() if pattern.fullmatch(node.value))
    return None
