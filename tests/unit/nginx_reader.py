"""Nginx's configuration as crossplane reads it: lists of directives with `directive`, `args` and maybe `block`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import crossplane

Block = list[dict[str, Any]]


def parse(file: Path) -> Block:
    """Return what is in a file. Raise AssertionError for what Nginx would not parse."""
    parsed: dict[str, Any] = crossplane.parse(str(file), single=True, strict=False)  # pyright: ignore
    assert parsed["status"] == "ok", parsed["errors"]
    return parsed["config"][0]["parsed"]


def directives(text: str, folder: Path) -> Block:
    """Return what is in a text that belongs into a block `http`."""
    file = folder / "nginx.conf"
    file.write_text("events {}\nhttp {\n" + text + "\n}\n")
    return next(block["block"] for block in parse(file) if block["directive"] == "http")


def find(block: Block, name: str) -> Block:
    """Return the directives of that name, those in inner blocks last."""
    here = [each for each in block if each["directive"] == name]
    return here + [found for each in block if "block" in each for found in find(each["block"], name)]


def args(block: Block, name: str) -> list[list[str]]:
    """Return the arguments of each directive of that name."""
    return [each["args"] for each in find(block, name)]


def location(block: Block, *words: str) -> Block:
    """Return the block of the one location with these words."""
    (found,) = [each["block"] for each in find(block, "location") if each["args"] == list(words)]
    return found


def mapped(block: Block, variable: str) -> list[tuple[str, list[str]]]:
    """Return the entries in the map of a variable, in order."""
    (found,) = [each["block"] for each in find(block, "map") if each["args"][1] == f"${variable}"]
    return [(each["directive"], each["args"]) for each in found if each["directive"] != "volatile"]


def value_of(entries: list[tuple[str, list[str]]], text: str) -> str:
    """Return what a map of Nginx makes of a text: the first expression that matches counts."""
    for pattern, (value,) in entries:
        flags = re.IGNORECASE if pattern.startswith("~*") else 0
        if pattern.startswith("~") and (found := re.search(pattern.lstrip("~*"), text, flags)):
            return found[1] if value == "$1" else value
    return dict(entries)["default"][0]


def conditions(server: Block) -> list[tuple[list[str], list[str]]]:
    """Return each `if` of a server with the arguments of what it does first, in order."""
    return [(each["args"], each["block"][0]["args"]) for each in server if each["directive"] == "if"]
