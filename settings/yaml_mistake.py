"""Say where a text is no YAML and what to do: `line LINE, column COLUMN: TEXT: what is wrong; what to do`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import yaml

Scalar = yaml.tokens.ScalarToken

# What is shown of a line, for the rest may be a secret: the indentation, and the key or the dash.
BEGINNING = re.compile(r"[ \t]*(- |(wsgi-fleet:)?[\w.-]{1,60}:(?=\s|$))?")
NAME = re.compile(r"[\w.:/-]{1,60}")
# A host with a wildcard is no secret, so it may be repeated.
WILDCARD = re.compile(r"\*(\.[a-z0-9-]{1,63}){2,6}(?=[\s,\]]|$)")

TAGGED = "has a tag (a word that begins with !) that no setting has; remove the tag"
NO_NAME = "has a key that is no text; write a name, or put it in quotes"
TOO_DEEP = "is nested too deeply; write it with fewer levels"
IN_ITSELF = "contains itself by an alias (a word that begins with *); write out what is meant"
NO_PAIR = "is no `key: value`; put a colon and a blank behind the key"
INDENTED = "is indented below a line that has a value already; mend the indentation"
SECOND_COLON = "has a second colon; put text with a colon in quotes"
QUOTE_IT = 'has text that begins with *; quote it: "{}"'
UNQUOTED = "has text that begins with * or &; quote it"
NOT_CLOSED = "has a quote that is not closed; close it"
AFTER_THE_END = "goes on after its value has ended; quote all of it, and inside single quotes write a quote twice"
NO_FIT = "does not fit the lines above; indent it as they are"
OPEN_BRACKET = "has a bracket or brace that is not closed; close it, with commas between the items"
# A part of what PyYAML reports -> the same in plain words, and a remedy.
PLAIN = {
    "cannot start any token": "has a character that begins no value; replace tabs by blanks, and quote text that "
    "begins with @, ` or %",
    "mapping values are not allowed": SECOND_COLON,
    "sequence entries are not allowed": "has a dash where a value should be; begin the list on a line of its own",
    "expected <block end>": NO_FIT,
    "could not find expected ':'": NO_PAIR,
    "expected ',' or": OPEN_BRACKET,
    "expected the node content": "has a bracket or brace without its other half; remove it, or write both",
    "found unknown escape": "has a backslash that YAML does not know; take single quotes",
    "while scanning a quoted scalar": NOT_CLOSED,
    "found undefined alias": UNQUOTED,
    "while scanning an alias": UNQUOTED,
    "while scanning an anchor": UNQUOTED,
    "a single document": "begins a second document; remove this line and what follows it",
    "a constructor for the tag": TAGGED,
    "special characters are not allowed": "has a control character; remove it",
}
# Mistakes that PyYAML sees later than where they begin, which it has as the context.
SEEN_LATE = (NO_PAIR, NOT_CLOSED, OPEN_BRACKET, UNQUOTED)


def describe(error: yaml.MarkedYAMLError, text: str, scalars: Sequence[Scalar]) -> str:
    """Return the line for what PyYAML cannot read. scalars: what it had read until then, in order."""
    mark = error.problem_mark or error.context_mark
    words = _in_plain_words(f"{error.context or ''} {error.problem or ''}")
    if words in SEEN_LATE:
        mark = error.context_mark or mark
    if mark is None:
        return words
    if words == UNQUOTED and (host := WILDCARD.match(text, mark.index)):
        words = QUOTE_IT.format(host[0])
    elif words == SECOND_COLON:
        words, mark = _find_colon(mark, text, scalars)
    elif words == NO_FIT:
        words, mark = _find_end(mark, text, scalars)
    return format_place(mark, text) + words


def describe_character(error: yaml.reader.ReaderError, text: str) -> str:
    """Return the line for a character that YAML does not have."""
    line, start = text.count("\n", 0, error.position), text.rfind("\n", 0, error.position)
    mark = yaml.Mark("", error.position, line, error.position - start - 1, None, 0)
    return format_place(mark, text) + _in_plain_words(error.reason)


def _in_plain_words(reported: str) -> str:
    return next((words for part, words in PLAIN.items() if part in reported), "is no YAML; mend this line")


def _find_colon(mark: yaml.Mark, text: str, scalars: Sequence[Scalar]) -> tuple[str, yaml.Mark]:
    """Return what is wrong where a colon may not be: the text before it may have begun some lines above."""
    last = next((each for each in reversed(scalars) if each.start_mark.index < mark.index), None)
    if last is None or last.start_mark.line == mark.line:
        return SECOND_COLON, mark
    start = last.start_mark
    return (NO_PAIR, start) if not _before(start, text).strip("- ") else (INDENTED, mark)


def _find_end(mark: yaml.Mark, text: str, scalars: Sequence[Scalar]) -> tuple[str, yaml.Mark]:
    """Return what is wrong where a block should have ended: a line, or the end of a quoted text before it."""
    quoted = [each for each in scalars if not each.plain and each.end_mark.index <= mark.index]
    if quoted and quoted[-1].start_mark.line < quoted[-1].end_mark.line == mark.line:
        return NOT_CLOSED, quoted[-1].start_mark
    return AFTER_THE_END if _before(mark, text).strip() else NO_FIT, mark


def _before(mark: yaml.Mark, text: str) -> str:
    """Return what is in front of a mark on its line."""
    return text[mark.index - mark.column : mark.index]


def format_place(mark: yaml.Mark, text: str) -> str:
    """Return where a mark is, and the beginning of its line."""
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
