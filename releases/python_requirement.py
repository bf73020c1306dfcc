"""Compare the Python of servers with the one that an application and its packages need."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from releases.requirements import find_file, poetry_packages
from settings.operating_system import OPERATING_SYSTEMS, OperatingSystem

PROJECT = "pyproject.toml"
# File -> where it has a version of Python: of the whole, then the key of each package.
FILES: Mapping[str, tuple[Sequence[str], str]] = {
    PROJECT: (("project", "requires-python"), ""),
    "uv.lock": (("requires-python",), ""),
    "pylock.toml": (("requires-python",), "requires-python"),
    "poetry.lock": (("metadata", "python-versions"), "python-versions"),
}
_HEAD = re.compile(r"the requirements do not install with Python ([\d.]+)")
# What pip and uv say of packages that need another Python.
_PIP_REQUIRED = re.compile(r"ERROR: No matching distribution found for (\S.*)")
_PIP_IGNORED = re.compile(r"(\S+) Requires-Python (\S+?)(?:;|\s|$)")
_PIP_SOURCE = re.compile(r"ERROR: Package '([^']+)' requires a different Python: [\d.]+ not in '([^']+)'")
_UV = re.compile(r"\) does not satisfy Python(\S+) and (\S+) depends on Python")


def find_problems(source: Path, requirements: str | None, system: OperatingSystem) -> list[str]:
    """Return what cannot be installed on servers of an operating system, by the files that say it.

    requirements: path of the requirements file in the source, where the stack file names one. That file is read, and
    projects beside it and in the source. A file that is damaged says nothing: the installer will.
    """
    installed = find_file(source, requirements) or PROJECT
    files = dict.fromkeys([PROJECT, str(PurePosixPath(installed).with_name(PROJECT)), installed])
    return [f"{name}: {line}" for name in files for line in _find_in(source / name, system)]


def _find_in(file: Path, system: OperatingSystem) -> Iterator[str]:
    path, key_of_package = FILES.get(file.name, ((), ""))
    try:
        document: Any = tomllib.loads(file.read_text("utf-8")) if path else {}
    except (OSError, ValueError):
        return
    value: Any = document
    for key in path:
        value = cast("Any", value).get(key) if isinstance(value, dict) else None
    if not is_satisfied(value, system):
        yield describe("it", value, system.python)
    for each in _packages(document, file) if key_of_package else ():
        specifier = each.get(key_of_package)
        # One with a marker may not be for these servers.
        if not each.get("marker") and not each.get("markers") and not is_satisfied(specifier, system):
            yield describe(f"{each.get('name')}=={each.get('version')}", specifier, system.python)


def _packages(document: Mapping[str, Any], file: Path) -> list[dict[str, Any]]:
    """Return the packages of a lock that are installed."""
    if file.name == "poetry.lock":
        try:
            return list(poetry_packages(document, file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []
    found = document.get("packages")
    every = cast("list[Any]", found) if isinstance(found, list) else []
    return [each for each in every if isinstance(each, dict)]


def is_satisfied(specifier: object, system: OperatingSystem) -> bool:
    """Return whether an operating system's Python is one of a specifier, or the specifier is none (">=3.12")."""
    # Here, because who only shortens what pip says does not need it.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # noqa: PLC0415

    try:
        return SpecifierSet(str(specifier or "")).contains(system.python)
    except InvalidSpecifier:
        return True


def describe(what: str, specifier: object, python: str) -> str:
    """Describe the required Python, the present one, and the remedy."""
    enough = [each.name for each in OPERATING_SYSTEMS.values() if is_satisfied(specifier, each)]
    remedy = f"set `wsgi-fleet:os` to {enough[0]}" if enough else "no `wsgi-fleet:os` has it: take another version"
    return f"{what} needs Python {specifier}, and servers have {python}; {remedy}"


def shorten(why: str) -> str:
    """Return an installer's failure for another Python as one line; "" for every other failure."""
    if not (head := _HEAD.search(why)):
        return ""
    if found := _PIP_SOURCE.search(why) or _UV.search(why):
        specifier, what = (found[2], found[1]) if found.re is _PIP_SOURCE else (found[1], found[2])
        return describe(what, specifier, head[1])
    if required := _PIP_REQUIRED.search(why):
        # pip lists versions of this package alone; a pinned one by its number, else the last that it would have taken.
        ignored = dict(_PIP_IGNORED.findall(why))
        specifier = ignored.get(required[1].rpartition("==")[2], next(reversed(ignored.values()), ""))
        return describe(required[1].strip(), specifier, head[1]) if specifier else ""
    return ""
