"""Replace a symlink atomically, and read one. Standard library only."""

from __future__ import annotations

from pathlib import Path


def atomic_symlink(link: Path, target: Path) -> None:
    """Make link a symlink to target, atomically: a reader sees the old or the new one."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(link)


def link_target(link: Path) -> str | None:
    """Return the name of a link's target, such as a release; None if the target is missing."""
    return link.resolve().name if link.exists() else None
