"""The archive of a source, as bytes."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from pathlib import Path

from releases.archive import write_archive
from releases.requirements import Requirements
from releases.source import Source

SOURCE = Source(Path("/project/app"), "0" * 64, "abc1234", Requirements())


def tar(source: Path, *, static: str = "", state: Path | None = None) -> bytes:
    """Return the uncompressed tar of a source."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "code.tar.gz")
        write_archive(source, file, static=static, state=state)
        return gzip.decompress(file.read_bytes())


def names(content: bytes) -> list[str]:
    """Return the names of a tar's members."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getnames()
