"""Static files of releases on the balancer: they come before pages refer to them, and go after the last one does."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from platforms.transport import Store
from releases.fleet import Fleet, Server, ServerFailure
from rendering.paths import SCRIPTS

COMMAND = f"{SCRIPTS}/static_files.py"
PHASE = "static files"
# Beside a release in the store; machine/group/balancer_member.py has the same name.
ARCHIVE = "static.tar.gz"
# Seconds to read the files from a server, or to put them onto the balancer: 100 MiB, as text a third more, at 4 Mbit/s.
MOVE_S = 300


class StaticFiles:
    """Of one release. Does nothing where there is no balancer to put them on, or the release has none.

    manifest: that of the release, as bytes. Nothing here touches what is live before all servers are on the release.
    kept_in: the store, for a balancer in whose place another one comes by itself and fetches them; else None.
    """

    def __init__(
        self, fleet: Fleet, balancer: Server | None, release: str, manifest: bytes | None, kept_in: Store | None = None
    ) -> None:
        self._fleet, self._release, self._is_offered = fleet, release, False
        self._kept_in, self._key = kept_in, f"releases/{release}/{ARCHIVE}"
        self._balancer = balancer if manifest and json.loads(manifest).get("static") else None

    def publish(self, source: Server) -> None:
        """Serve them beside those that are live. source: has the release staged. Raises ServerFailure."""
        if self._balancer is None:
            return
        is_there = self._release in json.loads(self._run(self._balancer, "status"))["releases"]
        # They go with the release in the store.
        is_missing = self._kept_in is not None and self._key not in self._kept_in.keys(self._key)
        archive = self._read(source) if is_missing or not is_there else b""
        if self._kept_in and is_missing:
            self._kept_in.write(self._key, archive)
        self._is_offered = True
        self._run(self._balancer, "put", self._release, stdin=b"" if is_there else archive)

    def activate(self) -> list[str]:
        """Serve this release's files first, then those of the release before.

        Return the balancer's name if that fails. Then pages still find their files, because they were published before.
        """
        if self._balancer is None:
            return []
        try:
            self._run(self._balancer, "point", self._release)
        except ServerFailure as failure:
            self._fleet.log(f"static files of the release before are still served first: {failure}")
            return [self._balancer.name]
        return []

    def discard(self) -> None:
        """Take back what was offered and is not live; where that fails, it stays until the next release."""
        if self._balancer is None or not self._is_offered:
            return
        try:
            self._run(self._balancer, "drop")
        except ServerFailure as failure:
            self._fleet.log(f"its static files stay on the balancer for now: {failure}")

    def prune(self, keep: Sequence[str]) -> None:
        """Remove those of other releases, unless they are served. Raises ServerFailure."""
        if self._balancer:
            self._run(self._balancer, "prune", *keep)

    def _read(self, source: Server) -> bytes:
        arguments = ["static", self._release]
        lines = self._fleet.run(source, PHASE, arguments, timeout_s=MOVE_S, quiet=True).output.split()
        try:
            return b"".join(base64.b64decode(line, validate=True) for line in lines)
        except ValueError as error:
            raise ServerFailure(source, PHASE, f"what it sent is no archive: {error}") from error

    def _run(self, balancer: Server, verb: str, *arguments: str, stdin: bytes = b"") -> str:
        words = [verb, self._fleet.app, *arguments]
        result = self._fleet.run(balancer, PHASE, words, stdin=stdin, timeout_s=MOVE_S, quiet=True, program=COMMAND)
        return result.output
