"""The pointers of a store: the current release, rejections, the count of manual changes, and the owner."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from platforms.transport import Store

_RELEASE = re.compile(r"[A-Za-z0-9_-]+")
POINTER, MANUAL_CHANGES, REJECTED, OWNER = "pointer", "manual-changes", "rejected/", "owner"


@dataclass(frozen=True)
class Rejection:
    """A release that was rolled back. when: ISO 8601."""

    release: str
    who: str
    when: str

    def __str__(self) -> str:
        return (
            f"release {self.release} was rejected by {self.who} at {self.when} (`./fleet rollback`); change the "
            f"application, or allow this release again with `./fleet allow {self.release}`"
        )


def current(store: Store) -> str | None:
    """Return the release that the pointer names: the one that serves, and that booting servers take.

    None where there is none, or the file is damaged: servers keep what they serve then, and `up` writes it anew.
    """
    name = (store.read(POINTER) or b"").decode(errors="replace").strip()
    return name if _RELEASE.fullmatch(name) else None


def set_current(store: Store, release: str) -> None:
    """Name the release that serves."""
    store.write(POINTER, release.encode())


def manual_changes(store: Store) -> int:
    """Return how often the fleet was moved by hand; -1 if the number is damaged.

    `up` compares the number with the one it knows.
    """
    text = (store.read(MANUAL_CHANGES) or b"0").decode(errors="replace").strip()
    return int(text) if text.isascii() and text.isdigit() else -1


def count_manual_change(store: Store) -> None:
    """Make the next `up` check the fleet, even if its state did not change."""
    store.write(MANUAL_CHANGES, str(manual_changes(store) + 1).encode())


def reject(store: Store, rejection: Rejection) -> None:
    """Remember that a release is not wanted any more."""
    store.write(f"{REJECTED}{rejection.release}", json.dumps(asdict(rejection)).encode())


def rejection(store: Store, release: str) -> Rejection | None:
    """Return why a release may not be rolled out, or None."""
    content = store.read(f"{REJECTED}{release}")
    if content is None:
        return None
    try:
        return Rejection(**json.loads(content))
    except (ValueError, TypeError):
        # Whoever wrote it is not known any more; that it is rejected is.
        return Rejection(release, "somebody", "a time that its damaged file does not say")


def allow(store: Store, release: str) -> bool:
    """Remove a rejection. Return False if there was none."""
    if rejection(store, release) is None:
        return False
    store.delete(f"{REJECTED}{release}")
    return True


def claim(store: Store, owner: str) -> None:
    """Say which resource of the engine these releases are of."""
    store.write(OWNER, owner.encode())


def is_owned(store: Store, owner: str) -> bool:
    """Return whether no other owner has come since: a replaced resource is deleted after its successor was created."""
    return store.read(OWNER) in (None, owner.encode())
