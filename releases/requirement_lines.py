"""Read requirement files of pip's format on the operator's machine, and copy those outside of the source."""

from __future__ import annotations

import codecs
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from releases.archive import SourceError
from releases.source_files import may_contain_secrets

# As machine/install/requirement_files.py has them.
_COMMENT = re.compile(r"(^|\s+)#.*$")
_INCLUDE = re.compile(r"\s*(-r|-c|--requirement|--constraint)(?:\s*=\s*|\s*)(?P<file>.+)$")
# In a URL, as it is and not as ${NAME}. The release store, and the state, have requirement files in plain.
_PASSWORD = re.compile(r"://[^/\s:@]*:[^/\s@$]+@")


class Line(NamedTuple):
    """A line as it is, and without its comment. included: path from the source of the file that it includes, or ""."""

    number: int
    whole: str
    text: str
    included: str = ""


def read_files(source: Path, name: str) -> dict[str, Sequence[Line]]:
    """Return the lines of a requirement file and of all files that it includes, by their paths from the source.

    Files that are missing are left out, and so are those by URL or variable: servers read these.
    """
    found: dict[str, Sequence[Line]] = {}
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name not in found and (source / name).is_file():
            found[name] = list(_read(_decode((source / name).read_bytes()), name))
            waiting += [line.included for line in found[name] if line.included]
    return found


def copy_files(source: Path, root: Path, name: str) -> dict[str, str]:
    """Return what a release brings of requirement files where one lies outside of the source: name -> text; else {}.

    All of them are brought then, in one folder, and name each other there; requirements.txt is the first. root: folder
    that they must lie in. Raises SourceError.
    """
    files = read_files(source, name)
    if all(is_inside(source / path, source) for path in files):
        return {}
    names = {path: f"requirements-{number}.txt" if number else "requirements.txt" for number, path in enumerate(files)}
    problems = [
        f"{os.path.normpath(source / path)}: {problem}"
        for path in files
        if (problem := find_problem(source / path, source, root))
    ]
    problems += [
        f"{os.path.normpath(source / path)}, line {line.number}: {line.included}: no such file in {source}"
        for path, lines in files.items()
        for line in lines
        if line.included and line.included not in files
    ]
    if problems:
        raise SourceError("\n".join(problems))
    return {names[path]: "".join(f"{_name_copy(line, names)}\n" for line in files[path]) for path in files}


def find_problem(file: Path, source: Path, root: Path) -> str:
    """Return why a release may not bring a copy of a file; "" where it may. root: folder that it must lie in."""
    if not is_inside(file, source):
        if not is_inside(file, root):
            return f"lies outside of {root}; copy it into the source"
        path = file.resolve().relative_to(root.resolve())
        if may_contain_secrets(path) or any(part.startswith(".") for part in path.parts):
            return "may contain secrets; give it another name if it contains none"
    try:
        has_password = _PASSWORD.search(file.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        return "not UTF-8, as it must be outside of the source; save it so"
    return "has a password in a URL; write ${NAME}, and set NAME as one of `secrets`" if has_password else ""


def is_inside(file: Path, folder: Path) -> bool:
    """Return whether a file lies in a folder, after symlinks are resolved."""
    return file.resolve().is_relative_to(folder.resolve())


def _name_copy(line: Line, names: Mapping[str, str]) -> str:
    """Return a line, with the name of the copy where it includes a file."""
    include = _INCLUDE.match(line.text) if line.included else None
    return f"{include[1]} {names[line.included]}" if include else line.whole


def _decode(content: bytes) -> str:
    """Return the text of a file in any encoding, as far as its paths and URLs are ASCII."""
    content = content.replace(b"\0", b"")
    for mark in (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        content = content.removeprefix(mark)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _read(text: str, name: str) -> Iterator[Line]:
    folder = PurePosixPath(name).parent
    for number, line in enumerate(text.splitlines(), 1):
        content = _COMMENT.sub("", line).strip()
        target = _target(content)
        is_path = target and "${" not in target and not target.startswith(("http://", "https://"))
        yield Line(number, line, content, os.path.normpath(folder / target) if is_path else "")


def _target(line: str) -> str:
    """Return what a line includes, "" for nothing."""
    include = _INCLUDE.match(line)
    try:
        return "".join(shlex.split(include["file"])[:1]) if include else ""
    except ValueError:
        # Servers say what is wrong with it.
        return ""
