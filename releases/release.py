"""A release: one immutable build of an application, named by a hash of its whole content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from platforms.transport import Store
from releases.archive import SourceError, gzip_sha256, write_archive

ID_LENGTH = 12


@dataclass(frozen=True)
class Release:
    """manifest: canonical JSON of everything but the files. archive: file with the gzipped tar of the source."""

    manifest: bytes
    archive: Path

    @property
    def id(self) -> str:
        """Return the id, which the manifest alone decides."""
        return release_id(self.manifest)


def has_archive(store: Store, manifest: bytes, key: str) -> bool:
    """Return whether a key of the store is the whole archive of a manifest's release, with any compression."""
    file = store.open(key)
    if file is None:
        return False
    with file:
        return gzip_sha256(file) == json.loads(manifest).get("tar_sha256")


def release_id(manifest: bytes) -> str:
    """Return 12 hexadecimal digits of the manifest's sha256; the manifest names the sha256 of the files."""
    return hashlib.sha256(manifest).hexdigest()[:ID_LENGTH]


def build(source: Path, manifest: bytes, target: Path, *, state: Path | None = None) -> Release:
    """Build the release of a manifest, with its archive in a file. state: a folder that is never a part of it.

    Raises SourceError, also where the manifest is of another source by now.
    """
    document = json.loads(manifest)
    static = document.get("static", {}).get("folder", "")
    if write_archive(source, target, static=static, state=state) != document["tar_sha256"]:
        raise SourceError(f"{source}: changed while `pulumi up` ran; nothing was released, run `pulumi up` again")
    return Release(manifest, target)
