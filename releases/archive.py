"""A deterministic archive of an application's source: the same files give the same bytes, on any machine."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

# Never part of a release.
VERSION_CONTROL = frozenset({".git", ".hg", ".svn"})
CACHES = frozenset({"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox", "node_modules"})
# Files that usually hold secrets, which must not be copied to the store; their examples may.
REFUSED_PREFIX = ".env"
HARMLESS_ENDINGS = (".example", ".sample", ".template", ".dist")


class SourceError(Exception):
    """The source cannot be released as it is. The text lists every reason with its path."""


def tar(source: Path) -> bytes:
    """The uncompressed tar of the tree below source: sorted, root-owned, normal modes. Raises SourceError."""
    problems: list[str] = []
    entries = list(_walk(source, source, problems))
    if problems:
        raise SourceError(f"{source} cannot be released:\n" + "\n".join(f"  {problem}" for problem in problems))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in entries:
            info = tarfile.TarInfo(path.relative_to(source).as_posix())
            if path.is_symlink():
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
                archive.addfile(info)
            elif path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                content = path.read_bytes()
                info.size = len(content)
                info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                info.mtime = _time_of(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _time_of(content: bytes) -> int:
    """A modification time made of the content, between 2001 and 2015.

    One time for all would give two contents of one length the same ETag, which servers make of time and length.
    """
    return 1_000_000_000 + int.from_bytes(hashlib.sha256(content).digest()[:4]) % 450_000_000


def _walk(folder: Path, source: Path, problems: list[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(source)
        if path.name in VERSION_CONTROL | CACHES or path.suffix == ".pyc":
            continue
        if path.is_symlink():
            target = path.resolve()
            if path.readlink().is_absolute() or not target.is_relative_to(source.resolve()):
                problems.append(f"{name}: a symlink out of the source; copy what it points at")
            else:
                yield path
        elif path.is_dir():
            if not (path / "pyvenv.cfg").exists():
                yield path
                yield from _walk(path, source, problems)
        elif not path.is_file():
            problems.append(f"{name}: neither file nor folder nor symlink; remove it")
        elif path.name.startswith(REFUSED_PREFIX) and not path.name.endswith(HARMLESS_ENDINGS):
            problems.append(
                f"{name}: may hold secrets; set them with `pulumi config set --secret --path` and move it away"
            )
        else:
            yield path
