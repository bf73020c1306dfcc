"""Find packages by git over SSH among those that are installed: they need a key, which servers do not have."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from releases.requirement_lines import read_files

_SSH = re.compile(r"\bssh://|\bgit\+[\w.-]+@[\w.-]+:|(?<![/\w.-])git@[\w.-]+:")
_PROBLEM = "a package by git over SSH needs a key, which servers do not have; write git+https://${TOKEN}@..."


def find_problems(source: Path, name: str, pinned: str | None) -> list[str]:
    """Return a line for each package by git over SSH. name: of the requirements file in the source.

    pinned: what is installed in its place, where it is a lock that becomes requirements.
    """
    if pinned is not None:
        places = [f"{name}: {line.split()[0]}" for line in pinned.splitlines() if _SSH.search(line)]
    elif name.endswith((".toml", "uv.lock")):
        places = [f"{name}: {package}" for package, url in _git_urls(source / name) if _SSH.search(f"git+{url}")]
    else:
        files = read_files(source, name).items()
        places = [f"{file}, line {line.number}" for file, lines in files for line in lines if _SSH.search(line.text)]
    return [f"{source / place}: {_PROBLEM}" for place in places]


def _git_urls(file: Path) -> list[tuple[str, str]]:
    """Return name and URL of what a lock or a project installs by git.

    Of a file that is damaged, nothing: the installer says what is wrong with it.
    """
    try:
        document = tomllib.loads(file.read_text("utf-8"))
        read = {"pyproject.toml": _of_project, "uv.lock": _of_uv}.get(file.name, _of_pylock)
        return list(read(document))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _of_project(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    dependencies: list[str] = document.get("project", {}).get("dependencies", [])
    yield from ((re.split(r"[^\w.-]", each, maxsplit=1)[0], each) for each in dependencies)
    tools = document.get("tool", {})
    sources = tools.get("uv", {}).get("sources", {}) | tools.get("poetry", {}).get("dependencies", {})
    yield from ((name, each["git"]) for name, each in sources.items() if "git" in each)


def _of_pylock(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for package in document["packages"]:
        if url := package.get("vcs", {}).get("url"):
            yield package["name"], url


def _of_uv(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what comes by git; not what the group `dev` alone needs."""
    packages: list[dict[str, Any]] = document["package"]
    waiting = [each for each in packages if {"editable", "virtual", "directory"} & each["source"].keys()]
    names = {each["name"] for each in waiting}
    while waiting:
        package = waiting.pop()
        groups = {**package.get("optional-dependencies", {}), **package.get("dev-dependencies", {})}
        groups.pop("dev", None)
        needed = {each["name"] for group in (package.get("dependencies", []), *groups.values()) for each in group}
        waiting += [each for each in packages if each["name"] in needed - names]
        names |= needed
    for package in packages:
        if package["name"] in names and "git" in package["source"]:
            yield package["name"], package["source"]["git"]
