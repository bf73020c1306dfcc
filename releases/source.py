"""The source of an application as a run of the program found it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from releases.archive import tar_sha256
from releases.source_files import git

# The project's own folder of what it remembers: keys, stores, bundles. Never a part of a release.
STATE = ".state"


@dataclass(frozen=True)
class Source:
    """path: its folder. tar_sha256: of its uncompressed tar. revision: in its version control, for the journal.

    The revision is the short git commit, with "+changes" when files differ from the commit; "" where git knows nothing.
    """

    path: Path
    tar_sha256: str
    revision: str

    @classmethod
    def read(cls, path: Path, *, static: str = "", state: Path | None = None, max_mib: int = 0) -> Source:
        """Read the source and write nothing. Raises SourceError. static, state, max_mib: as tar_sha256 has them."""
        return cls(path, tar_sha256(path, static=static, state=state, max_mib=max_mib), _revision(path))


def _revision(path: Path) -> str:
    commit = _git(path, "rev-parse", "--short", "HEAD")
    if not commit:
        return ""
    return commit + ("+changes" if _git(path, "status", "--porcelain", "--", ".") else "")


def _git(folder: Path, *arguments: str) -> str:
    result = git(folder, *arguments)
    return result.stdout.decode(errors="replace").strip() if result else ""
