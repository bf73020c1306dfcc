"""The source of an application as a run of the program found it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from releases.archive import tar_sha256
from releases.requirements import Requirements, find_requirements
from releases.source_files import git
from settings.application import App


@dataclass(frozen=True)
class Source:
    """path: its folder. tar_sha256: of its uncompressed tar. revision: in its version control, for the journal.

    requirements: what the application needs.

    The revision is the short git commit, with "+changes" when files differ from the commit; "" where git knows nothing.
    """

    path: Path
    tar_sha256: str
    revision: str
    requirements: Requirements

    @classmethod
    def read(cls, path: Path, app: App, *, project: Path | None = None, state: Path | None = None) -> Source:
        """Read the source of an application and write nothing. Raises SourceError.

        project: folder of the stack files. state: as tar_sha256 has it.
        """
        static = app.static.folder if app.static else ""
        sha256 = tar_sha256(path, static=static, state=state, max_mib=app.release.max_mib)
        requirements = find_requirements(path, app.requirements, _root(path, project))
        return cls(path, sha256, _revision(path), requirements)


def _revision(path: Path) -> str:
    commit = _git(path, "rev-parse", "--short", "HEAD")
    if not commit:
        return ""
    return commit + ("+changes" if _git(path, "status", "--porcelain", "--", ".") else "")


def _root(path: Path, project: Path | None) -> Path | None:
    """Return the repository of a source, or the project that contains it; None if neither does."""
    if top := _git(path, "rev-parse", "--show-toplevel"):
        return Path(top)
    return project if project and path.is_relative_to(project) else None


def _git(folder: Path, *arguments: str) -> str:
    result = git(folder, *arguments)
    return result.stdout.decode(errors="replace").strip() if result else ""
