#!/usr/bin/env python3
"""Brings releases onto this app server and makes them serve. Runs as root on the machine; standard library only.

    release stage ID     fetch, check, unpack, virtualenv, prove on a private socket (secrets as JSON on standard input)
    release switch ID    make a staged release the one that serves, without losing a request
    release boot         before the socket opens: make /srv/app/live what the store names, point slot blue at it
    release status       what serves here, as JSON
    release prune ID...  remove every other release and the virtualenvs nobody uses

Every verb holds one lock and can be run again. A failure exits 1 and its last line says what and what to do.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

# The other modules stand beside this file; it is started by its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from fetch import FetchError, fetch
from server import CONFIG, LIVE, RELEASES, SLOTS, VENVS, Failure, lock, manifest_of, named, point, run, say, store_url
from slot import BLUE, GREEN, answers, drain_s, serving_slots, start_and_gate, state_of, stop, stop_others
from staging import RETRY_UNIT, stage

RETRY_S = 60


def switch(release: str) -> None:
    """Blue/green on one listening socket: the new slot starts beside the old one, which then drains."""
    place = RELEASES / release
    if not (place / ".staged").exists():
        raise Failure(f"{release} is not staged here; stage it first")
    manifest = manifest_of(release)
    serving = serving_slots()
    good = [slot for slot in serving if named(SLOTS / slot) == named(LIVE)]
    if named(LIVE) == release and good and answers(good[0], manifest):
        stop_others(serving, good[0])
        say(f"{release} serves already")
        return
    old = good[0] if good else None
    stop_others(serving, old)
    free = GREEN if old == BLUE else BLUE
    point(SLOTS / free, place)
    start_and_gate(f"app@{free}", manifest)
    # From here the new release is the truth: a reboot or a second try ends with it.
    point(LIVE, place)
    if old:
        stop(f"app@{old}", drain_s(old))
    say(f"{release} serves from slot {free}")


def boot() -> None:
    """Make this server what the store names; when the store does not answer, serve what was live and try again."""
    try:
        pointer = fetch(store_url(), "pointer", missing_ok=True) if (CONFIG / "store").exists() else b""
        release = pointer.decode().strip()
        if release and release != named(LIVE):
            stage(release, None)
            point(LIVE, RELEASES / release)
            say(f"this server was away: it comes back on {release}")
    except (Failure, FetchError, OSError) as error:
        say(f"keeping {named(LIVE) or 'nothing'}, next try in {RETRY_S} s: {error}")
        run("systemd-run", f"--unit={RETRY_UNIT}", "--collect", f"--on-active={RETRY_S}", str(Path(__file__)), "retry")
    if LIVE.exists() and not serving_slots():
        point(SLOTS / BLUE, LIVE.resolve())


def retry() -> None:
    """What a boot could not do, again, now beside a running application."""
    before = named(LIVE)
    boot()
    release = named(LIVE)
    if release and release != before:
        switch(release)


def status() -> None:
    slots = {slot: {"state": state_of(f"app@{slot}"), "release": named(SLOTS / slot)} for slot in (BLUE, GREEN)}
    staged = sorted(file.parent.name for file in RELEASES.glob("*/.staged"))
    say(json.dumps({"live": named(LIVE), "slots": slots, "staged": staged}))


def prune(keep: Sequence[str]) -> None:
    used = {*keep, named(LIVE), *(named(SLOTS / slot) for slot in serving_slots())}
    for place in RELEASES.iterdir():
        if place.name not in used:
            shutil.rmtree(place)
    venvs = {(place / "venv").resolve() for place in RELEASES.iterdir()}
    for venv in VENVS.iterdir():
        if venv not in venvs:
            shutil.rmtree(venv)


def main(arguments: Sequence[str]) -> None:
    verb, *rest = arguments or ("help",)
    if verb == "status":
        status()
        return
    # The application's user reads what is unpacked here; secrets get their own mode.
    os.umask(0o022)
    with lock(timeout_s=600):
        if verb == "stage" and len(rest) == 1:
            stage(rest[0], json.load(sys.stdin))
        elif verb == "switch" and len(rest) == 1:
            switch(rest[0])
        elif verb == "boot":
            boot()
        elif verb == "retry":
            retry()
        elif verb == "prune":
            prune(rest)
        else:
            raise Failure(str(__doc__))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failure, FetchError) as problem:
        sys.exit(f"error: {problem}")
    except OSError as problem:
        full = " (the disk is full: free some, or raise fleet.size.disk_gib)" if problem.errno == 28 else ""
        sys.exit(f"error: {problem}{full}")
