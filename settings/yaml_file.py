"""Read a stack file as YAML; report where it is none, and keys that are there twice."""

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
NO_NAMES = {f"tag:yaml.org,2002:{each}" for each in ("timestamp", "binary")}
NO_VALUE = "has a value that settings cannot have; write a shorter number, or put text in quotes"
NO_NAME = "has a key that is no text; write a name, in quotes if it looks like a date"
TOO_DEEP = "is nested too deeply; write it with fewer levels"
IN_ITSELF = "contains itself by an alias (a word that begins with *); write out what is meant"


class _Loader(yaml.SafeLoader):
    """Say where a value is that cannot be made: a number of 5,000 digits, a day that no calendar has."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # pyright: ignore[reportUnknownMemberType]
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise yaml.constructor.ConstructorError(None, None, NO_VALUE, node.start_mark) from error


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
    if NO_VALUE in said:
        return NO_VALUE
    return next((words for part, words in PLAIN.items() if part in said), "is no YAML; mend this line, or one above")


def _problems(node: yaml.Node | None, text: str, seen: set[int], above: tuple[int, ...]) -> Iterator[str]:
    """Yield a problem for each key that is no text or that its mapping has already, and each node within itself.

    seen, above: nodes, for an alias leads to one again.
    """
    if node is not None and id(node) in above:
        yield _place(node.start_mark, text) + IN_ITSELF
    if node is None or id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    above = (*above, id(node))
    if not isinstance(node, yaml.MappingNode):
        for item in node.value:
            yield from _problems(item, text, seen, above)
        return
    first: dict[str, yaml.Mark] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag in NO_NAMES:
            yield _place(key.start_mark, text) + NO_NAME
        elif key.value in first:
            name = f"the key {key.value}" if NAME.fullmatch(key.value) else "a key"
            before = f"has {name} a second time, after line {first[key.value].line + 1}; keep one of both"
            yield _place(key.start_mark, text) + before
        else:
            first[key.value] = key.start_mark
        yield from _problems(value, text, seen, above)


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
