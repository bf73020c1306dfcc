"""Read a stack file as YAML; report where it is none, and keys that are there twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

LONGEST_LINE = 60
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
    "special characters are not allowed": "has a control character; remove it",
}


class YamlError(Exception):
    """A text is no YAML. problems: `line LINE, column COLUMN: TEXT: what is wrong; what to do`, one for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def load(text: str) -> Any:
    """Return the document in a text. Raises YamlError with where and what is wrong."""
    try:
        if found := list(_duplicates(yaml.compose(text, yaml.SafeLoader), text, set())):
            raise YamlError(found)
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = f"{error.context or ''} {error.problem or ''}"
        raise YamlError([_place(mark, text) + _in_plain_words(said)]) from None
    except yaml.reader.ReaderError as error:
        line, start = text.count("\n", 0, error.position), text.rfind("\n", 0, error.position)
        mark = yaml.Mark("", error.position, line, error.position - start - 1, None, 0)
        raise YamlError([_place(mark, text) + _in_plain_words(error.reason)]) from None


def _in_plain_words(said: str) -> str:
    plain = next((words for part, words in PLAIN.items() if part in said), None)
    return plain or f"is no YAML ({' '.join(said.split())}); mend this line, or the one above"


def _duplicates(node: yaml.Node | None, text: str, seen: set[int]) -> Iterator[str]:
    """Yield a problem for each key that its mapping has already. seen: nodes, for an alias leads to one again."""
    if node is None or id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    if not isinstance(node, yaml.MappingNode):
        for item in node.value:
            yield from _duplicates(item, text, seen)
        return
    first: dict[str, yaml.Mark] = {}
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in first:
            before = f"has the key {key.value} a second time, after line {first[key.value].line + 1}; keep one of both"
            yield _place(key.start_mark, text) + before
        elif isinstance(key, yaml.ScalarNode):
            first[key.value] = key.start_mark
        yield from _duplicates(value, text, seen)


def _place(mark: yaml.Mark | None, text: str) -> str:
    """Return where a mark is, and the text of its line."""
    if mark is None:
        return ""
    lines = text.splitlines()
    # Of a text that ends too early, the last line that has something.
    number = min(mark.line, len(lines) - 1)
    while number > 0 and not lines[number].strip():
        number -= 1
    line = lines[number] if lines else ""
    shown = line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 3] + "..."
    column = mark.column + 1 if number == mark.line else len(line) + 1
    return f"line {number + 1}, column {column}: {json.dumps(shown, ensure_ascii=False)}: "
