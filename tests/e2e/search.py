"""Looks for secrets in files, processes and texts. Runs on machines as well, so with the standard library only.

python3 search.py FOLDER SINCE: secrets (name -> value) as JSON on standard input; where they are, as JSON.
"""

from __future__ import annotations

import base64
import contextlib
import grp
import gzip
import json
import os
import pwd
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

# What is no file, but what the kernel makes up.
MADE_UP = ("/proc", "/sys")
TEXTS = {
    "journal": ["journalctl", "--no-pager", "--all", "--output=export"],
    "properties of units": ["systemctl", "show", "--all", "*"],
    "environment of systemd": ["systemctl", "show-environment"],
}


class Hit(NamedTuple):
    """A secret in a place. who: owner, group and mode of a file; user of a process."""

    place: str
    secret: str
    who: str = ""


class Process(NamedTuple):
    """unit: the last part of its cgroup. environment: NAME=value, each."""

    unit: str
    user: str
    command: bytes
    environment: tuple[bytes, ...]


@cache
def forms(value: str) -> tuple[bytes, ...]:
    """Return the value as it is, and in Base64, shifted by 0, 1 or 2 bytes by what stands before it."""
    raw = value.encode()
    # The digits that hold bits of nothing but the value.
    shifted = (
        base64.b64encode(bytes(shift) + raw)[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6] for shift in range(3)
    )
    return raw, *shifted


def within(content: bytes, secrets: Mapping[str, str]) -> list[str]:
    """Return the names of the secrets that a content contains, packed by gzip or not."""
    if content.startswith(b"\x1f\x8b"):
        with contextlib.suppress(OSError, EOFError):
            content += gzip.decompress(content)
    return [name for name, value in secrets.items() if any(form in content for form in forms(value))]


def in_files(root: str, secrets: Mapping[str, str], since: float = 0) -> Iterator[Hit]:
    """Look into each file of a folder that was made or changed since then (seconds since 1970), and at its name."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in MADE_UP]  # noqa: PTH118
        for file in (Path(folder, name) for name in names):
            with contextlib.suppress(OSError):
                status = file.lstat()
                if status.st_ctime < since:
                    continue
                content = file.read_bytes() if stat.S_ISREG(status.st_mode) else b""
                for name in {*within(content, secrets), *within(bytes(file), secrets)}:
                    owner, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
                    yield Hit(str(file), name, f"{owner}:{group} {status.st_mode & 0o7777:o}")


def read_environment(file: Path) -> tuple[bytes, ...]:
    """Return NAME=value, each. Read it anew if one has no name: Linux gave a part, of a process during its exec."""
    variables: tuple[bytes, ...] = ()
    for _ in range(3):
        variables = tuple(file.read_bytes().split(b"\0"))
        if all(b"=" in variable for variable in variables if variable):
            break
        time.sleep(0.01)
    return variables


def processes() -> Iterator[Process]:
    """Read those that run, this one left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError, KeyError):
                unit = (entry / "cgroup").read_text().strip().rpartition("/")[2]
                environment = read_environment(entry / "environ")
                user = entry.stat().st_uid
                with contextlib.suppress(KeyError):
                    user = pwd.getpwuid(user).pw_name
                yield Process(unit, str(user), (entry / "cmdline").read_bytes(), environment)


def in_process(process: Process, secrets: Mapping[str, str]) -> Iterator[Hit]:
    """Look into its command line, and into each variable of its environment."""
    for name in within(process.command, secrets):
        yield Hit(f"command line of {process.unit}", name, process.user)
    for variable in process.environment:
        for name in within(variable, secrets):
            yield Hit(f"{variable.partition(b'=')[0].decode()} in {process.unit}", name, process.user)


def in_machine(root: str, secrets: Mapping[str, str], since: float) -> Iterator[Hit]:
    """Look at all that there is on this machine."""
    yield from in_files(root, secrets, since)
    for process in processes():
        yield from in_process(process, secrets)
    for place, command in TEXTS.items():
        printed = subprocess.run(command, check=False, capture_output=True).stdout
        yield from (Hit(place, name) for name in within(printed, secrets))


if __name__ == "__main__":
    json.dump(sorted(set(in_machine(sys.argv[1], json.load(sys.stdin), float(sys.argv[2])))), sys.stdout)
