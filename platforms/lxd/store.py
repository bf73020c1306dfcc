"""The release store of a local stack: a directory of the host, which machines see read-only."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

_PART = re.compile(r"[A-Za-z0-9_+=@-][A-Za-z0-9._+=@-]*")
_TEMPORARY = ".tmp-"
# Ids are shifted in containers: what their root shall read, everyone must be able to read.
MARK = ".store"
FILE_MODE = 0o644
DIRECTORY_MODE = 0o755


class DirectoryStore:
    """A platforms.transport.Store in a directory.

    Keys are parts of letters, digits and `._+=@-` between slashes, none beginning with a dot.
    """

    def __init__(self, path: Path | str) -> None:
        self._root = Path(path)

    def read(self, key: str) -> bytes | None:
        """Return the content, or None if there is none. Raises ValueError for an invalid key."""
        file = self.open(key)
        if file is None:
            return None
        with file:
            return file.read()

    def open(self, key: str) -> IO[bytes] | None:
        """Open a key for reading; None if it is missing. Raises ValueError for an invalid key."""
        try:
            return self._path(key).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def write(self, key: str, content: bytes | IO[bytes]) -> None:
        """Put content there at once: a reader sees the old or the new. Raises ValueError for what cannot be a key."""
        path = self._path(key)
        with self._temporary_file(path, content) as temporary:
            temporary.replace(path)

    def create(self, key: str, content: bytes) -> bool:
        """Write content unless the key exists; return False if it does. Raises ValueError for an invalid key."""
        path = self._path(key)
        with self._temporary_file(path, content) as temporary:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _temporary_file(self, path: Path, content: bytes | IO[bytes]) -> Generator[Path]:
        """Write a whole file beside path, to be moved or linked to its place."""
        self._make_directories(path.parent)
        temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                shutil.copyfileobj(BytesIO(content) if isinstance(content, bytes) else content, file)
                file.flush()
                os.fchmod(file.fileno(), FILE_MODE)
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def keys(self, prefix: str) -> list[str]:
        """Return all keys that begin with prefix, sorted."""
        found = (path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file())
        return sorted(key for key in found if key.startswith(prefix) and _is_key(key))

    def delete(self, key: str) -> None:
        """Remove a key; removing a missing one succeeds. Raises ValueError for an invalid key."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError, PermissionError):
            if path.is_file():
                raise

    def _path(self, key: str) -> Path:
        if not _is_key(key):
            raise ValueError(
                f"{key!r} cannot be a key of a store: use parts of letters, digits and ._+=@- between slashes"
            )
        return self._root / key

    def _make_directories(self, path: Path) -> None:
        """Create directories like mkdir -p below the root, readable for machines with any umask."""
        missing = [part for part in (path, *path.parents) if part.is_relative_to(self._root) and not part.is_dir()]
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True, parents=directory == self._root)
            directory.chmod(DIRECTORY_MODE)


def create(path: Path) -> None:
    """Make the directory of a store; one that is there keeps what it contains.

    The folder around it is closed to other users of this host: a store contains settings unencrypted.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.chmod(DIRECTORY_MODE)
    # By it a machine knows an empty store from one that is not mounted.
    (path / MARK).touch()
    (path / MARK).chmod(FILE_MODE)


def remove(path: Path) -> None:
    """Remove a store with all it contains, and the folder around it if that is empty then.

    Succeeds where it is gone.
    """
    shutil.rmtree(path, ignore_errors=True)
    if path.is_dir():
        shutil.rmtree(path)
    try:
        path.parent.rmdir()
    except OSError:
        # The stack keeps other things there.
        return


def _is_key(key: str) -> bool:
    return all(_PART.fullmatch(part) for part in key.split("/"))
