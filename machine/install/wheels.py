"""Keep what one server has installed for the others: the virtualenv as an archive, which the operator's side reads.

Servers find it in the release store as wheels/KEY.tar.gz. wheels/KEY.json beside it has its size, its sha256 and how
many packages it contains.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# The scripts of the server: a release reads the store as the server does.
sys.path.append("/usr/local/lib/wsgi-fleet")
from fetch import FetchError, fetch, fetch_file

# Beside the folder of virtualenvs: there all is a virtualenv.
ARCHIVE = "wheels.tar.gz"
# More would be too much to send through the operator's machine.
MAX_MIB = 512
# What is sent in one piece, and in one line of it (a multiple of 3 bytes, for base64).
PIECE, LINE = 12 << 20, 48 << 10
# A shorter secret may be a word that packages contain.
SECRET_LENGTH = 8
COMPLETE = ".complete"


class WheelsError(Exception):
    """The packages cannot be kept, or those that are kept cannot be used."""


def pack(venv: Path, secrets: Iterable[str]) -> dict[str, Any]:
    """Write a virtualenv into the archive, and return its description for the store. Raises WheelsError.

    secrets: words that must not be in it.
    """
    words = {word.encode() for word in secrets if len(word) >= SECRET_LENGTH}
    files = [path for path in sorted(venv.rglob("*")) if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    if size > MAX_MIB << 20:
        raise WheelsError(f"they take {size >> 20} MiB, and more than {MAX_MIB} are not kept")
    for path in files:
        if contains_any(path, words):
            raise WheelsError(f"{path.relative_to(venv)} contains a secret that installers were given")
    archive = venv.parents[1] / ARCHIVE
    command = ["tar", "--create", "--use-compress-program=gzip -1", f"--file={archive}", f"--directory={venv}"]
    done = subprocess.run(
        [*command, f"--exclude=./{COMPLETE}", "."], check=False, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise WheelsError(f"they cannot be packed: {done.stderr.strip()}")
    packages = sum(path.name == "METADATA" and path.parent.suffix == ".dist-info" for path in files)
    return {"sha256": sha256_of(archive), "size": archive.stat().st_size, "packages": packages}


def contains_any(path: Path, words: Iterable[bytes]) -> bool:
    """Return whether a file contains one of the words."""
    if not words or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(word) >= 0 for word in words)


def print_piece(venv: Path, offset: int) -> None:
    """Print a piece of the archive as lines of base64, since a transport returns text. Remove it after the last one."""
    archive = venv.parents[1] / ARCHIVE
    with archive.open("rb") as file:
        file.seek(offset)
        for _ in range(0, PIECE, LINE):
            print(base64.b64encode(file.read(LINE)).decode())
        if not file.read(1):
            archive.unlink()


def take(store: str, venv: Path, unpack: Callable[[Path], None]) -> bool:
    """Fill an empty virtualenv with what the store has for it; False where it has nothing. Raises WheelsError.

    unpack: extracts an archive into the virtualenv.
    """
    archive = venv.parents[1] / ARCHIVE
    try:
        text = fetch(store, f"wheels/{venv.name}.json", missing_ok=True)
        if not text:
            return False
        described = json.loads(text)
        fetch_file(store, f"wheels/{venv.name}.tar.gz", archive)
        if (found := sha256_of(archive)) != described["sha256"]:
            raise ValueError(f"sha256 {found}")
        unpack(archive)
    except (ValueError, KeyError, TypeError) as error:
        raise WheelsError(f"they are damaged ({error})") from error
    except (FetchError, OSError) as error:
        raise WheelsError(str(error)) from error
    finally:
        archive.unlink(missing_ok=True)
    if packages := described["packages"]:
        come = "1 package comes" if packages == 1 else f"{packages} packages come"
        print(f"{come} from the release store", flush=True)
    return True


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
