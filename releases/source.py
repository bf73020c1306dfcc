"""The source of an application as a run of the program found it."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from releases.archive import tar


@dataclass(frozen=True)
class Source:
    """path: its folder. tar_sha256: of what tar() makes of it. revision: in its version control, for the journal.

    The revision is the short git commit, with "+changes" when files differ from the commit; "" where git knows nothing.
    """

    path: Path
    tar_sha256: str
    revision: str

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read the source and write nothing. Raises SourceError."""
        return cls(path, hashlib.sha256(tar(path)).hexdigest(), _revision(path))


def _revision(path: Path) -> str:
    commit = _git(path, "rev-parse", "--short", "HEAD")
    if not commit:
        return ""
    return commit + ("+changes" if _git(path, "status", "--porcelain", "--", ".") else "")


def _git(folder: Path, *arguments: str) -> str:
    # Else `git status` would write the index anew.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
