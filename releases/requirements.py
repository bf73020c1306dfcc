"""Find the file that says what an application needs. Locks of Poetry and Pipenv become pinned requirements."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from releases import git_over_ssh
from releases.archive import SourceError
from releases.requirement_lines import copy_files, find_problem, is_inside
from settings.requirement_files import REQUIREMENT_FILES

# Read by their name, with what lies beside them.
_OF_PROJECTS = re.compile(r"uv\.lock|pyproject\.toml|pylock(\.[^.]+)?\.toml")


@dataclass(frozen=True)
class Requirements:
    """What an application needs. path: of the file, from its source. files: what a release brings in its place.

    files: name -> text; requirements.txt is the first one that servers read.
    """

    path: str = "requirements.txt"
    files: Mapping[str, str] = field(default_factory=dict[str, str])


def find_file(source: Path, setting: str | None) -> str | None:
    """Return the path of the file that says what the application needs; None where there is none.

    setting: the value of `requirements`; None to take the first of REQUIREMENT_FILES that is there.
    """
    return setting or next((name for name in REQUIREMENT_FILES if (source / name).is_file()), None)


def find_requirements(source: Path, setting: str | None, root: Path | None = None) -> Requirements:
    """Return what the application needs, by the file that find_file finds. Raises SourceError.

    root: folder in which requirement files may lie outside of the source; None for nowhere.
    """
    found, root = find_file(source, setting), root or source
    if found is None:
        raise SourceError(
            f"{source}: has none of {', '.join(REQUIREMENT_FILES)}; make requirements.txt (it may be empty)"
        )
    name = PurePosixPath(found).name
    if not is_inside(source / found, source):
        problem = "must lie in the source, as its project does" if _OF_PROJECTS.fullmatch(name) else ""
        if problem := find_problem(source / found, source, root) or problem:
            raise SourceError(f"{os.path.normpath(source / found)}: {problem}")
    pinned = pinned_requirements(source, found)
    if problems := git_over_ssh.find_problems(source, found, pinned):
        raise SourceError("\n".join(problems))
    if name == "pyproject.toml" and (problem := _problem_of_project(source / found)):
        raise SourceError(f"{os.path.normpath(source / found)}: {problem}")
    if pinned is not None:
        return Requirements(found, {"requirements.txt": pinned})
    return Requirements(found, {} if _OF_PROJECTS.fullmatch(name) else copy_files(source, root, found))


def _problem_of_project(file: Path) -> str:
    """Return why no installer finds packages in a pyproject.toml; "" where one does."""
    try:
        project: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        return f"cannot be read ({error}); mend it, or make requirements.txt"
    is_package = project.get("tool", {}).get("poetry", {}).get("package-mode", True)
    is_built = "build-system" in project or any((file.parent / name).exists() for name in ("setup.py", "setup.cfg"))
    if "project" in project or (is_package and is_built):
        return ""
    make = "run `poetry lock`" if "poetry" in project.get("tool", {}) else "make requirements.txt"
    return f"has no [project], so servers find no packages in it; {make}"


def pinned_requirements(source: Path, name: str) -> str | None:
    """Return poetry.lock or Pipfile.lock as pinned requirements with hashes; None for any other file.

    Raises SourceError.
    """
    read = _READERS.get(PurePosixPath(name).name)
    if read is None:
        return None
    file = source / name
    try:
        return "".join(f"{line}\n" for line in read(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{file}: cannot be read ({error}); create it again, or name a requirements.txt") from error


def _read_pipfile(file: Path) -> Iterator[str]:
    """Yield the lines of a Pipfile.lock: what is installed without --dev."""
    lock: dict[str, Any] = json.loads(file.read_bytes())
    sources: list[Mapping[str, str]] = lock.get("_meta", {}).get("sources", [])
    # Pipenv writes ${NAME} where a Pipfile does; installers put the variable in.
    for number, each in enumerate(sources):
        # Pipenv reads $NAME as well.
        url = re.sub(r"\$(\w+)", r"${\1}", each["url"])
        yield f"{'--extra-index-url' if number else '--index-url'} {url}"
    for name, package in lock.get("default", {}).items():
        extras = f"[{','.join(package['extras'])}]" if package.get("extras") else ""
        if "git" in package:
            what = f"{name}{extras} @ git+{package['git'].removeprefix('git+')}@{package['ref']}{_below(package)}"
        elif "path" in package or "file" in package:
            what = package.get("path") or package["file"]
        else:
            # "*" in a lock, or none, is any version, which requirements say by the name alone.
            version = package.get("version", "*")
            what = f"{name}{extras}{'' if version == '*' else version}"
        yield _line(what, package.get("markers", ""), package.get("hashes", []))


def poetry_packages(lock: Mapping[str, Any], file: Path) -> Iterator[dict[str, Any]]:
    """Yield the packages of a poetry.lock that are installed: those of the main group, without extras."""
    packages: list[dict[str, Any]] = lock.get("package", [])
    is_grouped = any("groups" in each or "category" in each for each in packages)
    needed = None if is_grouped else _reachable(file, packages)
    for each in packages:
        is_main = "main" in each.get("groups", [each.get("category", "main")])
        if not each.get("optional") and is_main and (needed is None or _normal(each["name"]) in needed):
            yield each


def _read_poetry(file: Path) -> Iterator[str]:
    """Yield the lines of a poetry.lock."""
    lock: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    indexes: set[str] = set()
    lines: list[str] = []
    for each in poetry_packages(lock, file):
        markers: str | dict[str, str] = each.get("markers", "")
        marker = markers.get("main", "") if isinstance(markers, dict) else markers
        source: dict[str, str] = each.get("source", {})
        files = each.get("files") or lock.get("metadata", {}).get("files", {}).get(each["name"], [])
        hashes = [cast("str", entry["hash"]) for entry in files]
        if source.get("type") == "git":
            what, hashes = f"{each['name']} @ git+{source['url']}@{source['resolved_reference']}{_below(source)}", []
        elif source.get("type") in ("directory", "file"):
            what, hashes = f"./{source['url']}", []
        elif source.get("type") == "url":
            what, hashes = f"{each['name']} @ {source['url']}", []
        else:
            what = f"{each['name']}=={each['version']}"
            if source.get("type") == "legacy":
                indexes.add(source["url"])
        lines.append(_line(what, marker, hashes))
    yield from (f"--extra-index-url {url}" for url in sorted(indexes))
    yield from lines


def _reachable(file: Path, packages: list[dict[str, Any]]) -> set[str]:
    """Return the names of what the main group needs, for a lock that does not say groups (Poetry 1.5 to 1.8)."""
    project: dict[str, Any] = tomllib.loads((file.parent / "pyproject.toml").read_text("utf-8"))
    waiting = [*project.get("tool", {}).get("poetry", {}).get("dependencies", {})]
    waiting += [
        re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in project.get("project", {}).get("dependencies", [])
    ]
    by_name = {_normal(each["name"]): each for each in packages}
    found: set[str] = set()
    while waiting:
        name = _normal(waiting.pop())
        if name in by_name and name not in found:
            found.add(name)
            waiting += by_name[name].get("dependencies", {})
    return found


def _below(package: Mapping[str, Any]) -> str:
    """Return what a URL says of the folder in a repository in which a package is."""
    return f"#subdirectory={package['subdirectory']}" if package.get("subdirectory") else ""


def _line(what: str, marker: str, hashes: list[str]) -> str:
    return " ".join([what, *([f"; {marker}"] if marker else []), *(f"--hash={each}" for each in hashes)])


def _normal(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


_READERS: Mapping[str, Callable[[Path], Iterator[str]]] = {"Pipfile.lock": _read_pipfile, "poetry.lock": _read_poetry}
