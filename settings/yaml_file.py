"""Read a stack file as YAML as Pulumi does; report where it is none, and what Pulumi would take for something else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

# What is shown of a line, for the rest may be a secret: the indentation, and the key or the dash.
BEGINNING = re.compile(r"[ \t]*(- |(wsgi-fleet:)?[\w.-]{1,60}:(?=\s|$))?")
NAME = re.compile(r"[\w.:/-]{1,60}")
# A part of what PyYAML reports -> the same in plain words, and a remedy.
PLAIN = {
    "cannot start any token": "has a character that begins no value; replace tabs by blanks, and quote text that "
    "begins with @, ` or %",
    "mapping values are not allowed": "has a second colon; put text with a colon in quotes, or mend the indentation",
    "expected <block end>": "does not fit the lines above; indent it as they are, or close the quotes before it",
    "could not find expected ':'": "is no `key: value`; put a colon and a blank behind the key",
    "while scanning a quoted scalar": "has a quote that is not closed; close it",
    "expected ',' or": "has a bracket or brace that is not closed; close it, with commas between the items",
    "expected the node content": "has a bracket or brace that is not closed; close it",
    "found undefined alias": "names an alias that is not defined; put text that begins with * in quotes",
    "found unknown escape": "has a backslash that YAML does not know; take single quotes",
    "a single document": "begins a second document; remove this line and what follows it",
    "a constructor for the tag": "has a tag (a word that begins with !) that no setting has; remove the tag",
    "special characters are not allowed": "has a control character; remove it",
}
NO_NAME = "has a key that is no text; write a name, or put it in quotes"
TOO_DEEP = "is nested too deeply; write it with fewer levels"
IN_ITSELF = "contains itself by an alias (a word that begins with *); write out what is meant"


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
    re.compile(
        r"([-+]_*)?(0x[\da-f_]+|0o[-+0-7_]+|0b[-+01_]+|(\d[\d_]*(\.[\d_]*)?|\.[\d_]+)(e[-+\d_]+)?)", re.I | re.A
    ): (
        "has a number that Pulumi reads as another text (012 as 10, 3.10 as 3.1, 1e3 as 1000) or rounds; "
        "quote it, or write the number in its usual form"
    ),
    re.compile(r"\d{4}-\d\d?-\d\d?([Tt ].*)?", re.A): "has a date, which Pulumi reads as another text; quote it",
    re.compile(r"([-+]?\.inf|\.nan)", re.I): "has a number that is not finite; quote it, or write another",
    re.compile(r"true|false|null", re.I): (
        "has a word that Pulumi reads as true, false or null; quote it, or write it in small letters"
    ),
}


class _Loader(yaml.SafeLoader):
    """Resolve unquoted text as Pulumi does: YES, on, 12:30 and 2024-99-99 are text."""

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
        try:
            node = loader.get_single_node()
            if found := list(_problems(node, text, set(), ())):
                raise YamlError(found)
            return None if node is None else loader.construct_document(node)  # pyright: ignore[reportUnknownMemberType]
        except RecursionError:
            raise YamlError([_place(loader.get_mark(), text) + TOO_DEEP]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = f"{error.context or ''} {error.problem or ''}"
        raise YamlError([_place(mark, text) + _in_plain_words(said)]) from None
    except yaml.reader.ReaderError as error:
        line, start = text.count("\n", 0, error.position), text.rfind("\n", 0, error.position)
        mark = yaml.Mark("", error.position, line, error.position - start - 1, None, 0)
        raise YamlError([_place(mark, text) + _in_plain_words(error.reason)]) from None


def _in_plain_words(said: str) -> str:
    return next((words for part, words in PLAIN.items() if part in said), "is no YAML; mend this line, or one above")


def _problems(node: yaml.Node | None, text: str, seen: set[int], above: tuple[int, ...]) -> Iterator[str]:
    """Yield a problem for each key that is no text or that its mapping has already, and each node within itself.

    Also for what _problem finds in a node. seen, above: nodes, for an alias leads to one again.
    """
    if node is not None and id(node) in above:
        yield _place(node.start_mark, text) + IN_ITSELF
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if problem := _problem(node):
        yield _place(node.start_mark, text) + problem
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
            yield _place(key.start_mark, text) + NO_NAME
        elif problem := _problem(key):
            yield _place(key.start_mark, text) + problem
        elif key.value in first:
            name = f"the key {key.value}" if NAME.fullmatch(key.value) else "a key"
            before = f"has {name} a second time, after line {first[key.value].line + 1}; keep one of both"
            yield _place(key.start_mark, text) + before
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
        return PLAIN["a constructor for the tag"]
    if node.tag == TAG + REWRITTEN:
        return next(problem for pattern, problem in REWRITES.items() if pattern.fullmatch(node.value))
    return None


def _place(mark: yaml.Mark | None, text: str) -> str:
    """Return where a mark is, and the beginning of its line."""
    if mark is None:
        return ""
    lines = text.splitlines()
    # Of a text that ends too early, the last line that has something.
    number = min(mark.line, len(lines) - 1)
    while number > 0 and not lines[number].strip():
        number -= 1
    line = lines[number] if lines else ""
    column = mark.column + 1 if number == mark.line else len(line) + 1
    return f"line {number + 1}, column {column}: {json.dumps(_beginning(line), ensure_ascii=False)}: "


def _beginning(line: str) -> str:
    found = BEGINNING.match(line)
    start = found[0] if found else ""
    rest = line[len(start) :].strip()
    return start + " " * (start.endswith(":")) + "…" if rest else line
