"""The packages of the first server, kept in the store for the others: each release downloads its packages once.

The keys are `wheels/KEY.tar.gz`, a virtualenv, and `wheels/KEY.json`, what it is (machine/install/wheels.py).
Releases with equal requirements use the same one; `releases/ID/wheels` names it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from platforms.transport import Store
from releases.fleet import Fleet, Server, ServerFailure
from settings.words import count

PHASE = "wheels"
# The line of machine/install/virtualenv.py at the end of its work.
READY = "virtualenv is ready: "
# Its line about packages that are not as they were kept.
DAMAGED = "packages in the release store cannot be used: they are damaged"
# Seconds to pack a virtualenv, and to read a piece of it: 16 MiB of text at 1 Mbit/s.
MOVE_S = 150
_KEY = re.compile(r"[0-9a-f]{16}")
_PYTHON = "/usr/bin/python3"


class Wheels:
    """Wheels of one release. Does nothing unless its manifest has `wheels`.

    limit_s: how long the other servers wait for them, once they are installed.
    """

    def __init__(self, fleet: Fleet, store: Store, release: str, manifest: bytes, limit_s: int) -> None:
        self._fleet, self._store, self._release, self._limit_s = fleet, store, release, limit_s
        self._is_wanted = bool(json.loads(manifest).get("wheels"))
        self._installed, self._kept, self._failed = threading.Event(), threading.Event(), False
        self._key = self._not_kept = ""
        if not self._is_wanted:
            self._kept.set()

    def handle_line(self, line: str) -> bool:
        """Handle a line that a server prints while it stages; return whether it need not be shown."""
        if line.startswith(READY):
            self._key = line.removeprefix(READY)
            self._installed.set()
            return True
        if line.startswith(DAMAGED):
            # The next rollout stores them again.
            self._store.delete(f"wheels/{find_key(self._store, self._release)}.json")
        return False

    def stage(self, servers: Sequence[Server], stage: Callable[[Server], None]) -> None:
        """Stage on all servers; the others begin when the first one has installed and that is kept.

        Where it could not install, they do not begin. Raises ServerFailures.
        """

        def stage_in_order(server: Server) -> None:
            if server == servers[0] and not self._kept.is_set():
                self._stage_first(server, stage)
            elif self._kept.wait() and not self._failed:
                stage(server)

        self._fleet.on_all(servers, stage_in_order)

    def _stage_first(self, server: Server, stage: Callable[[Server], None]) -> None:
        """Stage on a server; what it installs is kept while it goes on."""
        keeper = threading.Thread(target=self._keep, args=[server], daemon=True)
        keeper.start()
        try:
            stage(server)
        except BaseException:
            self._failed = not self._installed.is_set()
            raise
        finally:
            self._installed.set()
            keeper.join()
        if self._not_kept:
            self._fleet.log(
                f"what {server.name} has installed is not kept, each server installs by itself: {self._not_kept}"
            )

    def prune(self, keep: Iterable[str]) -> None:
        """Remove the wheels that none of these releases uses."""
        used = {find_key(self._store, release) for release in keep}
        for key in self._store.keys("wheels/"):
            if key.removeprefix("wheels/").partition(".")[0] not in used:
                self._store.delete(key)

    def _keep(self, server: Server) -> None:
        self._installed.wait()
        try:
            if not self._failed:
                self._publish(server)
        except (ServerFailure, ValueError, KeyError, OSError) as error:
            # Told once the server has staged: where that fails, it removes what is to be kept.
            self._not_kept = str(error.why if isinstance(error, ServerFailure) else error)
        finally:
            self._kept.set()

    def _publish(self, server: Server) -> None:
        """Put what a server has installed into the store, unless that has it. Raises ServerFailure, ValueError."""
        place = f"/srv/app/releases/{self._release}"
        key = self._key or self._read_key(server, place)
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not the name of a virtualenv")
        if find_key(self._store, self._release) != key:
            self._store.write(f"releases/{self._release}/wheels", key.encode())
        if is_whole(self._store, key):
            return
        deadline = time.monotonic() + self._limit_s
        packed = json.loads(self._run(server, place, "pack").strip().rpartition("\n")[2])
        size, packages = int(packed["size"]), int(packed["packages"])
        if packages:
            kept = f"{count(packages, 'package')} of {server.name}"
            self._fleet.log(f"keeps {kept} for the other servers ({size / 1e6:.1f} MB)")
        with tempfile.TemporaryFile() as file:
            sha256 = hashlib.sha256()
            while file.tell() < size:
                if time.monotonic() > deadline:
                    raise ValueError(f"they did not arrive in {self._limit_s} s")
                piece = b"".join(map(base64.b64decode, self._run(server, place, "send", str(file.tell())).split()))
                if not piece:
                    break
                sha256.update(piece)
                file.write(piece)
            if file.tell() != size or sha256.hexdigest() != packed["sha256"]:
                raise ValueError("they arrived incomplete")
            file.seek(0)
            self._store.write(f"wheels/{key}.tar.gz", file)
        # Last: where it is, the archive is whole.
        about = {"sha256": sha256.hexdigest(), "size": size, "packages": packages}
        self._store.write(f"wheels/{key}.json", json.dumps(about).encode())

    def _read_key(self, server: Server, place: str) -> str:
        """Return the key of a virtualenv that an earlier rollout has staged, of which staging prints nothing."""
        command = [f"{place}/venv"]
        link = self._fleet.run(server, PHASE, command, timeout_s=MOVE_S, quiet=True, program="readlink").output
        return link.strip().rpartition("/")[2]

    def _run(self, server: Server, place: str, *arguments: str) -> str:
        words = ["-I", f"{place}/install/virtualenv.py", place, *arguments]
        return self._fleet.run(server, PHASE, words, timeout_s=MOVE_S, quiet=True, program=_PYTHON).output


def find_key(store: Store, release: str) -> str:
    """Return the key of what is kept for a release; "" where nothing is."""
    return (store.read(f"releases/{release}/wheels") or b"").decode(errors="replace")


def is_whole(store: Store, key: str) -> bool:
    """Return whether the store has both files of a key."""
    return {f"wheels/{key}.json", f"wheels/{key}.tar.gz"} <= set(store.keys(f"wheels/{key}."))
