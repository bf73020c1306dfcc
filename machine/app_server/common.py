"""Name the folders of an app server, and share what every verb needs. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

APP = Path("/srv/app")
RELEASES, VENVS, SLOTS, LIVE = APP / "releases", APP / "venvs", APP / "slots", APP / "live"
CONFIG = Path("/etc/wsgi-fleet")
RUN = Path("/run")
USER = "app"


class AppServerError(Exception):
    """This server cannot do what was requested; the release before still serves."""


def log(text: str) -> None:
    """Print a text at once."""
    print(text, flush=True)


def run(*command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program and return its result, with its output. Raises TimeoutError after timeout_s seconds."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    try:
        return subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=max(timeout_s, 1),
            env=environment, cwd="/",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{Path(command[0]).name} {command[1]} did not finish in {timeout_s:.0f} s") from error


@contextlib.contextmanager
def lock(timeout_s: float) -> Generator[None]:
    """Run one verb at a time on this server."""
    with (RUN / "wsgi-fleet.lock").open("w") as file:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AppServerError(
                        f"another release command has the lock of this server for {timeout_s:.0f} s; wait until it has "
                        "ended (`pgrep -af release.py` names it), or end it, and run the same command again"
                    ) from None
                time.sleep(0.1)
        yield


def manifest_of(release: str) -> dict[str, Any]:
    """Return the manifest of a release."""
    return json.loads((RELEASES / release / "manifest.json").read_text())


def store_url() -> str:
    """Return the URL of the release store."""
    return (CONFIG / "store").read_text().strip()
