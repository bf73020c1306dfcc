"""Which state of its version control a source is in, for the journal."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision_of(source: Path) -> str:
    """Return the short git commit; "" where git knows nothing.

    It ends with "+changes" when files below source differ from the commit.
    """
    commit = _git(source, "rev-parse", "--short", "HEAD")
    if not commit:
        return ""
    return commit + ("+changes" if _git(source, "status", "--porcelain", "--", ".") else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], check=False, capture_output=True, text=True)
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
