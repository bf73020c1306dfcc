"""A deterministic archive of an application's source: the same files give the same bytes, on any machine."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

# Never part of a release.
VERSION_CONTROL = frozenset({".git", ".hg", ".svn"})
CACHES = frozenset({"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox", "node_modules"})
# Files such as .env and prod.env usually hold secrets, which must not be copied to the store. These hold none.
HARMLESS_ENDINGS = frozenset({".example", ".sample", ".template", ".dist"})
REMEDY = "remove it, or make it readable"


class SourceError(Exception):
    """The source cannot be released as it is. The text lists every reason with its path."""


def tar(source: Path) -> bytes:
    """Return the uncompressed tar of the tree below source: sorted, root-owned, normal modes. Raises SourceError."""
    problems: list[str] = []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _walk(source, problems):
            info = tarfile.TarInfo(path.relative_to(source).as_posix())
            content = b""
            try:
                if path.is_symlink():
                    info.type, info.linkname, info.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
                elif path.is_dir():
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                else:
                    content = path.read_bytes()
                    info.size = len(content)
                    info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                    info.mtime = _time_of(content)
            except OSError as error:
                problems.append(_line(path, source, f"{error.strerror}; {REMEDY}"))
            else:
                archive.addfile(info, io.BytesIO(content))
    if problems:
        problems.sort()
        raise SourceError(f"{source} cannot be released:\n" + "\n".join(f"  {problem}" for problem in problems))
    return buffer.getvalue()


def _time_of(content: bytes) -> int:
    """Return a modification time made of the content, between 2001 and 2015.

    One time for all would give two contents of one length the same ETag, which servers make of time and length.
    """
    return 1_000_000_000 + int.from_bytes(hashlib.sha256(content).digest()[:4]) % 450_000_000


def _walk(source: Path, problems: list[str]) -> Iterator[Path]:
    """Yield each path below source, a folder before its content. A path that cannot be released becomes a problem."""
    waiting = [source]
    while waiting:
        path = waiting.pop()
        try:
            problem = "" if path == source else _problem(path, source)
            is_folder = path == source or (path.is_dir() and not path.is_symlink())
            if is_folder and (path / "pyvenv.cfg").exists() and path != source:
                continue
            # Reversed, as the last one is taken first.
            found = sorted(path.iterdir(), reverse=True) if is_folder and not problem else []
        except OSError as error:
            problem, found = f"{error.strerror}; {REMEDY}", []
        if problem:
            problems.append(_line(path, source, problem))
            continue
        if path != source:
            yield path
        waiting += [each for each in found if each.name not in VERSION_CONTROL | CACHES and each.suffix != ".pyc"]


def _problem(path: Path, source: Path) -> str:
    """Return why a path cannot be released; "" where it can. Raises OSError."""
    if path.is_symlink():
        try:
            path.stat()
        except OSError as error:
            if error.errno == errno.ELOOP:
                return "a symlink that leads to itself; remove it"
        # Servers unpack nothing that leads out of the tree, not even what leads back into it.
        target = os.path.normpath(path.relative_to(source).parent / path.readlink())
        if target == ".." or target.startswith(("/", "../")) or not path.resolve().is_relative_to(source.resolve()):
            return "a symlink out of the source; copy what it points at"
    elif not path.is_dir() and not path.is_file():
        return "neither file nor folder nor symlink; remove it"
    may_hold_secrets = path.name.startswith(".env") or path.name.endswith(".env")
    if may_hold_secrets and not {path.suffix, f".{path.stem}"} & HARMLESS_ENDINGS:
        return "may hold secrets; set them with `pulumi config set --secret --path` and move it away"
    return ""


def _line(path: Path, source: Path, problem: str) -> str:
    """Return a problem with its path as one line, whatever characters the name contains."""
    name = str(path.relative_to(source))
    return f"{name if name.isprintable() else ascii(name)}: {problem}"
