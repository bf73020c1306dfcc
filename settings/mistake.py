"""Describe in plain words what pydantic found wrong: `path: value: what is wrong; what to do`."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from pydantic_core import ErrorDetails

from settings.constraint import MASK, WORDS
from settings.model import REJECTED
from settings.schema import Schema, find, has_secret, is_secret, known_keys, paths_to
from settings.secrets import format_path

# A longer value is cut off, and any word of a message that is longer than the longest path of a setting.
MAX_VALUE_CHARS = 60
MAX_WORD_CHARS = 180
# More keys than these are not listed.
MAX_KEYS = 8
ALL_KEYS = "docs/settings.md and stacks/Pulumi.example.yaml have all"
# What YAML 1.1 reads as true and false.
YAML_BOOLEANS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
# pydantic's last step of a location for a key of a mapping.
KEY_STEP = "[key]"


def describe_all(errors: Sequence[ErrorDetails]) -> list[str]:
    """Return a line for each mistake.

    What several members of a union report of one value is one line, as is a misspelt key that is required.
    """
    unknown = [details["loc"] for details in errors if details["type"] == "extra_forbidden"]
    misspelt = {(*location[:-1], key) for location in unknown for key in _find_similar(location)}
    reported = [details for details in errors if details["type"] != "missing" or details["loc"] not in misspelt]
    return list(dict.fromkeys(line for details in reported for line in _describe(details)))


def shorten(line: str) -> str:
    """Return the line of a mistake with each long value in it cut off."""
    line = re.sub(r'"(?:[^"\\]|\\.)*"', lambda found: _cut(found[0], MAX_VALUE_CHARS, '…"'), line)
    return re.sub(rf"[^\s:]{{{MAX_WORD_CHARS},}}", lambda found: _cut(found[0], MAX_VALUE_CHARS, "…"), line)


def _cut(text: str, longest: int, end: str) -> str:
    return text if len(text) <= longest else text[: longest - len(end)].rstrip("\\") + end


def _find_similar(location: Sequence[int | str]) -> list[str]:
    """Return the probable intention of an unknown key: the same key in another place, or a similar one here."""
    key, (_, options) = str(location[-1]), find(location[:-1])
    return paths_to(key, options)[:1] or difflib.get_close_matches(key, known_keys(options), n=1)


def _describe(details: ErrorDetails) -> Iterator[str]:
    location, kind = details["loc"], details["type"]
    keys, options = find(location)
    if kind == REJECTED:
        for line in details.get("ctx", {})["problems"].split("\n"):
            yield f"{format_path(keys)}.{line}" if keys else line
    elif kind == "value_error":
        yield f"{format_path(keys)}: {details['msg'].removeprefix('Value error, ')}"
    elif kind == "extra_forbidden":
        near, known = _find_similar(location), known_keys(options)
        remedy = f"did you mean {near[0]}?" if near else "remove it"
        if known and not near:
            remedy += f"; {ALL_KEYS}" if len(known) > MAX_KEYS else f", or use one of {', '.join(known)}"
        yield f"{format_path([*keys, str(location[-1])])}: unknown key; {remedy}"
    elif kind == "missing":
        what = next((option["description"] for option in options if "description" in option), "")
        yield f"{format_path(keys)}: missing; set it" + (f" ({what})" if what else "")
    elif location and location[-1] == KEY_STEP:
        # The mapping's values are secret here, and its keys are not.
        yield f"{format_path(keys)}: {_format_value(details['input'])}: {_bad_key(details)}"
    else:
        value = details["input"]
        yield f"{format_path(keys)}: {_without_secrets(value, options)}: {_wrong_value(value, options)}"


def _without_secrets(value: Any, options: Sequence[Schema]) -> str:
    """Return a given value as people may see it. A list or mapping that may contain a secret shows nothing inside."""
    if value is None or isinstance(value, bool) or not has_secret(options) or value in ("", [], {}):
        return _format_value(value)
    if isinstance(value, list | dict):
        return "[…]" if isinstance(value, list) else "{…}"
    return MASK if is_secret(value, options) else _format_value(value)


def _bad_key(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if "pattern" in context:
        return f"should be {WORDS[context['pattern']].partition('; ')[0]}; rename it"
    return f"has {len(details['input'])} characters; should have {context['max_length']} at most, so shorten it"


def _wrong_value(value: Any, options: Sequence[Schema]) -> str:
    """Return what is wrong with a value, from the schemas of what may be there, and a remedy."""
    allowed = list(dict.fromkeys(_allowed(option, value) for option in options))
    return f"should be {_any_of(allowed)}; {_remedy(value, options)}"


def _any_of(words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + ("," * (", " in words[-2])) + f" or {words[-1]}"


def _allowed(option: Schema, value: Any) -> str:
    """Return what a schema allows. value: the one that was given, which decides between its rules."""
    if "enum" in option or "const" in option:
        return _any_of([json.dumps(each) for each in option.get("enum", [option.get("const")])])
    keys = known_keys([option])
    match option.get("type"):
        case "string" if "pattern" in option and not _is_too_long(value, option):
            words = WORDS[option["pattern"]].partition("; ")[0]
        case "string":
            words = "text" + _range(option, "Length", " of ", " characters")
        case "integer":
            words = "a whole number" + _range(option, "imum", " from ", "")
        case "boolean":
            words = "true or false"
        case "array":
            words = "a list" + _range(option, "Items", " of ", " items")
        case "object" if keys:
            words = f"a mapping (keys: {', '.join(keys[:MAX_KEYS])}{', …' * (len(keys) > MAX_KEYS)})"
        case "object":
            words = "a mapping (name: value)" + _range(option, "Properties", " of ", " names")
        case "null":
            words = "null"
        case _:
            words = "text, a number, true, false, null, a list or a mapping"
    return words


def _is_too_long(value: Any, option: Schema) -> bool:
    return isinstance(value, str) and not option.get("minLength", 0) <= len(value) <= option.get(
        "maxLength", len(value)
    )


def _range(option: Schema, what: str, before: str, after: str) -> str:
    """Return the bounds that a schema has for `what`, in words; "" where it has none."""
    least, most = option.get(f"min{what}"), option.get(f"max{what}")
    if least is None and most is None:
        return ""
    if least is not None and most is not None:
        return f"{before}{least} to {most}{after}"
    return (f" of at most {most}" if least is None else f" of at least {least}") + after


def _remedy(value: Any, options: Sequence[Schema]) -> str:
    types = {str(option.get("type")) for option in options}
    texts = [option for option in options if option.get("type") == "string"]
    default = next((option["default"] for option in options if option.get("default") is not None), None)
    remedy = "write one, or remove the line" if value is None else "correct it"
    if default is not None and not isinstance(default, dict) and len(json.dumps(default)) <= MAX_VALUE_CHARS:
        remedy = f"correct it, or remove it for the default, {json.dumps(default)}"
    if isinstance(value, str):
        if "boolean" in types and value.lower() in YAML_BOOLEANS:
            remedy = f"write {YAML_BOOLEANS[value.lower()]}, without quotes"
        elif (number := re.fullmatch(r"(-?\d{1,20})(\.0+)?", value)) and _is_allowed(int(number[1]), options):
            remedy = f"write {number[1]}, without quotes"
        elif "array" in types:
            remedy = "write it as a list, in brackets"
        elif texts and not _is_too_long(value, texts[0]):
            remedy = WORDS.get(texts[0].get("pattern", ""), "").partition("; ")[2] or remedy
    elif isinstance(value, float) and value.is_integer() and _is_allowed(int(value), options):
        remedy = f"write {int(value)}"
    elif isinstance(value, bool | int | float) and any(_matches(json.dumps(value), option) for option in texts):
        remedy = "quote it" if has_secret(options) else f'quote it: "{json.dumps(value)}"'
    return remedy


def _is_allowed(number: int, options: Sequence[Schema]) -> bool:
    """Return whether there may be this whole number."""
    return any(
        option.get("type") == "integer" and option.get("minimum", number) <= number <= option.get("maximum", number)
        for option in options
    )


def _matches(text: str, option: Schema) -> bool:
    return "enum" not in option and "const" not in option and re.search(option.get("pattern", ""), text) is not None


def _format_value(value: Any) -> str:
    """Return a given value as JSON, cut off where it is long."""
    text = json.dumps(cast("object", value), default=str)
    return _cut(text, MAX_VALUE_CHARS, '…"' if isinstance(value, str) else " …")
