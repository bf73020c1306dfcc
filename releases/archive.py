"""A deterministic archive of an application's source: the same files give the same bytes, on any machine."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from releases.source_files import IGNORE_FILE, REMEDY, describe, find_files

# Folders that an error names where a source is too large.
MAX_BYTES = 5
_CHUNK = 1 << 20


class SourceError(Exception):
    """The source cannot be released. The text lists every reason with its path."""


class _Hash:
    """A file that computes the sha256 of its content, and passes it on. file: None to only compute it."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Take content, and return its length."""
        self.sha256.update(content)
        if self._file:
            self._file.write(content)
        return len(content)


def tar_sha256(source: Path, *, static: str = "", state: Path | None = None, max_mib: int = 0) -> str:
    """Return the sha256 of the uncompressed tar of a source. Raises SourceError.

    static, state: as find_files has them. max_mib: how much the files may take; 0 for any size.
    """
    return _write(source, None, static=static, state=state, max_mib=max_mib)


def write_archive(source: Path, target: Path, *, static: str = "", state: Path | None = None) -> str:
    """Write the gzipped tar of a source into a file, and return the sha256 of the tar. Raises SourceError."""
    with target.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        return _write(source, cast("IO[bytes]", packed), static=static, state=state, max_mib=0)


def gzip_sha256(file: IO[bytes]) -> str | None:
    """Return the sha256 of what a gzipped file contains; None where it is damaged."""
    sha256 = hashlib.sha256()
    try:
        with gzip.open(file) as content:
            while chunk := content.read(_CHUNK):
                sha256.update(chunk)
    except (OSError, EOFError, zlib.error):
        return None
    return sha256.hexdigest()


def _write(source: Path, file: IO[bytes] | None, *, static: str, state: Path | None, max_mib: int) -> str:
    """Write the uncompressed tar: sorted, root-owned, normal modes. No file is loaded into memory."""
    found = find_files(source, static=static, state=state)
    excess = _find_excess(source, found.paths, max_mib) if max_mib else []
    problems = [*found.problems, *excess]
    target = _Hash(file)
    if not excess:
        with tarfile.open(fileobj=cast("Any", target), mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for path in found.paths:
                try:
                    _add(archive, path, source)
                except OSError as error:
                    problems.append(describe(path, source, f"{error.strerror or error}; {REMEDY}"))
    if problems:
        problems.sort()
        raise SourceError(f"{source} cannot be released:\n" + "\n".join(f"  {problem}" for problem in problems))
    return target.sha256.hexdigest()


def _add(archive: tarfile.TarFile, path: Path, source: Path) -> None:
    """Add a path to the archive. Raises OSError."""
    info = tarfile.TarInfo(path.relative_to(source).as_posix())
    if path.is_symlink():
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
        archive.addfile(info)
    elif path.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
    else:
        with path.open("rb") as content:
            info.mtime = _time_of(hashlib.file_digest(content, "sha256").digest())
            status = path.stat()
            info.size, info.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
            content.seek(0)
            archive.addfile(info, content)


def _time_of(sha256: bytes) -> int:
    """Return a modification time made of the content, between 2001 and 2015.

    One time for all would give two contents of one length the same ETag, which servers make of time and length.
    """
    return 1_000_000_000 + int.from_bytes(sha256[:4]) % 450_000_000


def _find_excess(source: Path, paths: Sequence[Path], max_mib: int) -> list[str]:
    """Return a line with the largest folders if the files exceed max_mib; otherwise []."""
    folders: Counter[str] = Counter()
    for path in paths:
        if path.is_file() and not path.is_symlink():
            # Two levels tell what it is, and leave few lines.
            folders["/".join(path.relative_to(source).parts[:-1][:2]) or "."] += path.stat().st_size
    total = folders.total()
    if total <= max_mib << 20:
        return []
    largest = ", ".join(f"{name}: {size / 2**20:.0f} MiB" for name, size in folders.most_common(MAX_BYTES))
    problem = f"files of {total / 2**20:.0f} MiB, and release.max_mib is {max_mib} ({largest})"
    return [f"{problem}; name what servers do not need in {IGNORE_FILE}, or raise release.max_mib"]
