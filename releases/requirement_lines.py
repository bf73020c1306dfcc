"""Read requirement files of pip's format on the operator's machine: their lines, and which files they include."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

# Byte order marks of UTF-8 and UTF-16, as Latin-1 reads them.
_MARKS = re.compile("\xef\xbb\xbf|\xff\xfe|\xfe\xff")
# As machine/install/requirement_files.py has them.
_COMMENT = re.compile(r"(^|\s+)#.*$")
_INCLUDE = re.compile(r"\s*(-r|-c|--requirement|--constraint)(?:\s*=\s*|\s*)(?P<file>.+)$")


class Line(NamedTuple):
    """A line without its comment. included: path from the source of the file that it includes; "" for none."""

    number: int
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
        file = source / name
        if name not in found and file.is_file():
            # By bytes, whatever the encoding: what is looked for is ASCII.
            text = file.read_bytes().replace(b"\0", b"").decode("latin-1")
            found[name] = list(_read(text[mark.end() :] if (mark := _MARKS.match(text)) else text, name))
            waiting += [line.included for line in found[name] if line.included]
    return found


def _read(text: str, name: str) -> Iterator[Line]:
    folder = PurePosixPath(name).parent
    for number, line in enumerate(text.splitlines(), 1):
        content = _COMMENT.sub("", line).strip()
        target = _target(content)
        is_path = target and "${" not in target and not target.startswith(("http://", "https://"))
        yield Line(number, content, os.path.normpath(folder / target) if is_path else "")


def _target(line: str) -> str:
    """Return what a line includes, "" for nothing."""
    include = _INCLUDE.match(line)
    try:
        return "".join(shlex.split(include["file"])[:1]) if include else ""
    except ValueError:
        # Servers say what is wrong with it.
        return ""
