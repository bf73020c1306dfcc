#!/usr/bin/env python3
"""Install releases on this app server and make them serve. Runs as root on the machine; standard library only.

    release stage ID     fetch, check, unpack, build and start on a private socket (secrets as JSON on standard input)
    release stage ID task  the same, and run the release task before the start
    release task ID      run the release task of a staged release as the application, and print its output
    release static ID    print the static files of a staged release (a gzipped tar in base64)
    release bake ID S    check for S seconds that the release that serves stays healthy
    release switch ID first|other    make a staged release the one that serves, without losing a request
    release boot         before the socket opens: make /srv/app/live what the store names, point slot blue at it
    release prune ID...  remove every other release and the virtualenvs nobody uses

Every verb holds one lock and can be run again. A failure exits 1 and its last line says what and what to do.
"""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

# The other modules are in the folder of this file, which is started by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
import background
from common import CONFIG, LIVE, RELEASES, SLOTS, VENVS, AppServerError, lock, log, manifest_of, run, store_url
from fetch import FetchError, fetch
from slot import (
    assign_release,
    bake_slot,
    drain_s,
    is_healthy,
    mend_socket,
    route_traffic,
    start_and_gate,
    start_at_boot,
    stop,
    stop_others,
)
from slot_layout import BLUE, GREEN, serving_slots
from staging import RETRY_UNIT, run_task, stage
from symlinks import atomic_symlink, link_target

RETRY_S = 60
# As much as the balancer takes of one release (machine/balancer/static_files.py).
STATIC_MIB = 100


def switch(release: str) -> None:
    """Make a staged release serve (blue/green).

    The new slot starts beside the old one, on the same socket or behind Nginx; then that one drains.
    """
    place = RELEASES / release
    if not (place / ".staged").exists():
        raise AppServerError(f"{release} is not staged here; stage it first")
    manifest = manifest_of(release)
    mend_socket()
    serving = serving_slots()
    good = [slot for slot in serving if link_target(SLOTS / slot) == link_target(LIVE)]
    if link_target(LIVE) == release and good and is_healthy(good[0], manifest):
        stop_others(serving, good[0])
        background.apply()
        log(f"{release} serves already")
        return
    old = good[0] if good else None
    stop_others(serving, old)
    free = GREEN if old == BLUE else BLUE
    assign_release(free, place)
    start_and_gate(free, manifest)
    try:
        route_traffic(free, [old] if old else [])
    except BaseException:
        stop(free, drain_s(free))
        raise
    # From here on, a reboot or a second switch also ends with the new release.
    atomic_symlink(LIVE, place)
    if old:
        stop(old, drain_s(old))
    background.apply()
    log(f"{release} serves from slot {free}")


class Base64Lines(io.RawIOBase):
    """Prints bytes as lines of base64, since a transport returns text."""

    def write(self, content: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  a tar writes bytes
        """Print bytes as a line in base64, and return their number."""
        log(base64.b64encode(content).decode())
        return len(content)


def print_static(release: str) -> None:
    """Print the static files of a staged release, under their URL path: a gzipped tar in base64."""
    static, code = manifest_of(release)["static"], (RELEASES / release / "code").resolve()
    folder = code / static["folder"]
    # A build may have made symlinks: root reads only files in the code itself.
    if not folder.is_dir() or folder.resolve() != folder:
        raise AppServerError(f"static.folder: {static['folder']}: no such folder in the release; `build` may make it")
    room = STATIC_MIB << 20
    with tarfile.open(mode="w|gz", fileobj=Base64Lines(), bufsize=1 << 16) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            is_plain = path.is_file() and not path.is_symlink()
            if any(part.startswith(".") for part in name.parts) or (path.is_dir() and not path.is_symlink()):
                continue
            if not is_plain:
                raise AppServerError(
                    f"{static['folder']}/{name}: is not a regular file; remove it, or replace it by a file"
                )
            info = tarfile.TarInfo(f"{static['url_path'].strip('/')}/{name}")
            info.size = path.stat().st_size
            room -= max(info.size, 4096)
            if room < 0:
                raise AppServerError(f"static files take more than {STATIC_MIB} MiB; large ones belong elsewhere")
            with path.open("rb") as file:
                archive.addfile(info, file)


def bake(release: str, seconds: str) -> None:
    """Watch the slot that serves."""
    good = [slot for slot in serving_slots() if link_target(SLOTS / slot) == release]
    if not good:
        raise AppServerError(f"{release} does not serve here any more")
    bake_slot(good[0], manifest_of(release), float(seconds))
    log(f"{release} stayed healthy for {seconds} s")


def boot() -> None:
    """Serve the release that the store names. When the store does not respond, serve the live one and try again."""
    try:
        pointer = fetch(store_url(), "pointer", missing_ok=True) if (CONFIG / "store").exists() else b""
        release = pointer.decode().strip()
        if release and release != link_target(LIVE):
            stage(release, None)
            if serving_slots():
                switch(release)
            else:
                atomic_symlink(LIVE, RELEASES / release)
            log(f"this server was away: it comes back on {release}")
    except (AppServerError, FetchError, OSError) as error:
        log(f"keeping {link_target(LIVE) or 'nothing'}, next try in {RETRY_S} s: {error}")
        # A name of its own each time: the retry that fails runs in the unit of the one before.
        unit = f"{RETRY_UNIT}-{time.time_ns()}"
        run("systemd-run", f"--unit={unit}", "--collect", f"--on-active={RETRY_S}", str(Path(__file__)), "retry")
    mend_socket()
    if LIVE.exists() and not serving_slots():
        assign_release(BLUE, LIVE.resolve())
        start_at_boot(BLUE)
        background.apply()


def retry() -> None:
    """Repeat what failed at boot, now beside a running application."""
    boot()
    release = link_target(LIVE)
    if release and not serving_slots():
        switch(release)


def prune(keep: Sequence[str]) -> None:
    """Remove releases that are neither in `keep` nor in use, and virtualenvs that no release uses."""
    used = {*keep, link_target(LIVE), *(link_target(SLOTS / slot) for slot in serving_slots())}
    for place in RELEASES.iterdir():
        if place.name not in used:
            shutil.rmtree(place)
    venvs = {(place / "venv").resolve() for place in RELEASES.iterdir()}
    for venv in VENVS.iterdir():
        if venv not in venvs:
            shutil.rmtree(venv)


def wait_for_boot() -> None:
    """Wait until the boot has finished: it needs the lock, and slots start after it."""
    while run("systemctl", "show", "-P", "Job", "app-boot").stdout.strip() not in ("", "0"):
        time.sleep(0.2)


def main(arguments: Sequence[str]) -> None:
    """Run the verb that the arguments name, under the lock."""
    verb, *rest = arguments or ("help",)
    # The application's user reads what is unpacked here; secrets get their own mode.
    os.umask(0o022)
    if verb not in ("boot", "retry"):
        wait_for_boot()
    with lock(timeout_s=600):
        if verb == "stage" and rest[1:] in ([], ["task"]):
            stage(rest[0], json.load(sys.stdin), with_task=len(rest) > 1)
        elif verb == "switch" and len(rest) == 2 and rest[1] in ("first", "other"):
            background.set_first(is_first=rest[1] == "first")
            switch(rest[0])
        elif verb == "task" and len(rest) == 1:
            run_task(RELEASES / rest[0])
        elif verb == "static" and len(rest) == 1:
            print_static(rest[0])
        elif verb == "bake" and len(rest) == 2:
            bake(*rest)
        elif verb == "boot":
            boot()
        elif verb == "retry":
            retry()
        elif verb == "prune":
            prune(rest)
        else:
            raise AppServerError(str(__doc__))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (AppServerError, FetchError) as problem:
        sys.exit(f"error: {problem}")
    except OSError as problem:
        full = (
            " (the disk is full: free some, or raise fleet.size.disk_gib)"
            if problem.errno in (errno.ENOSPC, errno.EDQUOT)
            else ""
        )
        sys.exit(f"error: {problem}{full}")
