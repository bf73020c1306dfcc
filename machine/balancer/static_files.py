#!/usr/bin/env python3
"""Static files of releases on this balancer, which the proxy serves by itself. Runs as root; standard library only.

    static_files.py status APP         the releases that are here, and which are served, as JSON
    static_files.py put APP ID         serve that release's files next; the gzipped tar on standard input, unless here
    static_files.py point APP ID       it is live; the one that was is before
    static_files.py drop APP           nothing is next
    static_files.py prune APP ID...    remove what is neither named nor served

In /srv/static/APP, releases/ID has the files of a release under their URL paths, and the links live, next and before
name releases. `served` leads to all of their files at once: of one name the first of live, next, before. So pages of
the release before and of the one that comes find their files. It reads no link but `served`.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from symlinks import atomic_symlink, link_target

ROOT = Path("/srv/static")
LOCK = Path("/run/wsgi-fleet-static.lock")
LINKS = ("live", "next", "before")
# Of one release; a file counts as a block of the disk at least.
MAX_MIB = 100
BLOCK = 4096


class StaticFilesError(Exception):
    """The served files did not change. The text says why."""


def unpack(stream: BinaryIO, folder: Path) -> None:
    """Write the plain files of a gzipped tar below a folder, and nothing else. Raises StaticFilesError."""
    room = MAX_MIB << 20
    with gzip.open(stream) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
        for member in archive:
            path, content = PurePosixPath(member.name), archive.extractfile(member) if member.isreg() else None
            if content is None or path.is_absolute() or any(part.startswith(".") for part in path.parts):
                raise StaticFilesError(
                    f"{member.name}: static files are plain files without a dot in front; this is none"
                )
            room -= max(member.size, BLOCK)
            if room < 0:
                raise StaticFilesError(f"static files take more than {MAX_MIB} MiB; large ones belong elsewhere")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with target.open("xb") as file:
                while part := content.read(1 << 16):
                    file.write(part)
                    digest.update(part)
            # The ETag is made of time and length: the time is made of the content, so that a file keeps its ETag
            # over releases and balancers, and another content of that length has another one.
            moment = 1_000_000_000 + int.from_bytes(digest.digest()[:4]) % 450_000_000
            os.utime(target, (moment, moment))
        # To the end, where gzip checks that the stream is complete.
        while plain.read(1 << 16):
            pass


def publish(app: Path, release: str, stream: BinaryIO) -> None:
    """Unpack a release unless it is here, and serve its files, too. Raises StaticFilesError."""
    releases = app / "releases"
    place, partial = releases / release, releases / f".{release}.partial"
    if not place.exists():
        for leftover in releases.glob(".*.partial"):
            shutil.rmtree(leftover)
        partial.mkdir(parents=True)
        try:
            unpack(stream, partial)
            partial.rename(place)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise StaticFilesError(
                f"the archive of {release} arrived incomplete ({error}); run `pulumi up` again"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    if link_target(app / "live") == release:
        (app / "next").unlink(missing_ok=True)
    else:
        atomic_symlink(app / "next", place)
    serve(app)


def activate(app: Path, release: str) -> None:
    """Make a release that is here live. Raises StaticFilesError."""
    place, live = app / "releases" / release, link_target(app / "live")
    if not place.exists():
        raise StaticFilesError(f"the static files of {release} are not here; `pulumi up` brings them")
    if live and live != release:
        atomic_symlink(app / "before", app / "releases" / live)
    atomic_symlink(app / "live", place)
    (app / "next").unlink(missing_ok=True)
    serve(app)


def serve(app: Path) -> None:
    """Point `served` to the files of live, next and before, as the links are now."""
    served = app / "served"
    last, union = served.resolve(), app / f"served-{time.time_ns()}"
    union.mkdir()
    for link in LINKS:
        release = (app / link).resolve()
        for file in release.rglob("*"):
            target = union / file.relative_to(release)
            if file.is_file():
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, target)
                except (FileExistsError, NotADirectoryError):
                    # One that comes first has a file of that name, or a folder.
                    continue
    atomic_symlink(served, union)
    # A request may be on its way into the last one.
    for old in app.glob("served-*"):
        if old not in (union, last):
            shutil.rmtree(old)


def prune(app: Path, keep: Sequence[str]) -> None:
    """Remove releases that are neither in `keep` nor served."""
    used = {*keep, *(link_target(app / link) for link in LINKS)}
    for place in (app / "releases").iterdir():
        if place.name not in used:
            shutil.rmtree(place)


def status(app: Path) -> str:
    """Return the releases that are here and those that are served, as JSON."""
    releases = sorted(place.name for place in (app / "releases").glob("[!.]*"))
    return json.dumps({**{link: link_target(app / link) for link in LINKS}, "releases": releases})


def main(arguments: Sequence[str]) -> None:
    """Run the command that the arguments name, under the lock."""
    os.umask(0o022)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        match list(arguments):
            case ["status", app]:
                print(status(ROOT / app))
            case ["put", app, release]:
                publish(ROOT / app, release, sys.stdin.buffer)
                print(f"the static files of {release} are served beside those of the release that is live")
            case ["point", app, release]:
                activate(ROOT / app, release)
                print(f"the static files of {release} are live")
            case ["drop", app]:
                (ROOT / app / "next").unlink(missing_ok=True)
                if (ROOT / app).exists():
                    serve(ROOT / app)
            case ["prune", app, *releases]:
                prune(ROOT / app, releases)
            case _:
                raise StaticFilesError(str(__doc__))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (StaticFilesError, OSError) as problem:
        sys.exit(f"error: {problem}")
