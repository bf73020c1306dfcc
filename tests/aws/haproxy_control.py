"""Tells a running HAProxy what is to change, without a lost connection.

Servers come and go by its runtime API; anything else by a reload, for which the old process keeps its connections.
"""

from __future__ import annotations

import csv
import re
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.aws import haproxy
from tests.aws.haproxy import OPEN
from tests.aws.target_health import HEALTHY, Health

ASK_S = 10.0
# Column `type` of `show stat`.
SERVER = "2"
CHECKING = Health("initial", "Elb.InitialHealthChecking", "Initial health checks in progress")

# (backend, name of a server)
Key = tuple[str, str]
Row = Mapping[str, str]


class NotRunning(Exception):
    """HAProxy does not answer: its machine boots, or is gone."""


@dataclass(frozen=True)
class Member:
    """A target. lines: haproxy.server_lines(). draining: it keeps its requests and gets no more."""

    lines: list[str]
    draining: bool


class Haproxy:
    """The HAProxy whose files and sockets are in a folder of this host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Those that have not passed a check yet: one is enough then, whatever the threshold.
        self._unproven: set[Key] = set()
        # Requests that servers got, as far as this HAProxy's worker knows; and of all workers, by backend.
        self._got: dict[Key, int] = {}
        self.requests: Counter[str] = Counter()

    def apply(self, state: haproxy.State, members: Mapping[Key, Member]) -> dict[Key, Health]:
        """Have it do what the state says, with these targets. Return how healthy it finds each. Raises NotRunning."""
        self._folder.mkdir(exist_ok=True)
        # HAProxy, who is another user on its machine, makes its sockets there.
        self._folder.chmod(0o777)
        if not (self._folder / haproxy.CONFIG).exists():
            self._write(state, {})
        if f"description: {state.mark()}\n" not in self._ask("show info"):
            self._reload(state, members)
        rows = self._rows()
        for key in rows.keys() - members.keys():
            self._cut(key)
        for key, member in members.items():
            self._update(key, member, rows.get(key))
        rows = self._rows()
        self._count(rows)
        return {key: self._health(key, row) for key, row in rows.items() if key in members}

    def _count(self, rows: Mapping[Key, Row]) -> None:
        got = {key: int(row["stot"]) for key, row in rows.items()}
        for key, number in got.items():
            before = self._got.get(key, 0)
            # A new worker, or server, counts from none.
            self.requests[key[0]] += number - before if number >= before else number
        self._got = got

    def _write(self, state: haproxy.State, members: Mapping[Key, Member]) -> None:
        servers: dict[str, list[str]] = {}
        for (backend, _), member in members.items():
            servers.setdefault(backend, []).extend(member.lines)
        for name, text in haproxy.files(state, servers).items():
            new = self._folder / f".{name}"
            new.write_bytes(text.encode())
            new.rename(self._folder / name)

    def _reload(self, state: haproxy.State, members: Mapping[Key, Member]) -> None:
        """Start a new worker with the servers of the old one, each as healthy as it was."""
        there = self._rows()
        self._write(state, {key: each for key, each in members.items() if key in there and not each.draining})
        (self._folder / haproxy.STATE).write_text(self._ask("show servers state"))
        output = self._ask("reload", to=haproxy.MASTER)
        if "Success=1" not in output:
            raise RuntimeError(f"HAProxy does not take its configuration in {self._folder}:\n{output}")

    def _rows(self) -> dict[Key, Row]:
        table = csv.DictReader(self._ask("show stat").removeprefix("# ").splitlines())
        rows = {(row["pxname"], row["svname"]): row for row in table if row["type"] == SERVER}
        return {key: row for key, row in rows.items() if not key[1].startswith(OPEN)}

    def _update(self, key: Key, member: Member, row: Row | None) -> None:
        backend, name = key
        both = [f"{backend}/{each}" for each in (name, f"{OPEN}{name}")]
        if member.draining:
            if row and not row["status"].startswith("MAINT"):
                self._tell(*(f"set server {each} state maint" for each in both))
        elif row is None:
            self._tell(*(f"add server {backend}/{line}" for line in member.lines))
            self._begin(key, both)
        elif row["status"].startswith("MAINT"):
            self._begin(key, both)
        elif key in self._unproven and row["check_status"].startswith("L7OK"):
            self._tell(f"set server {both[0]} health up")
            self._unproven.discard(key)

    def _begin(self, key: Key, both: list[str]) -> None:
        self._unproven.add(key)
        self._tell(f"enable health {both[0]}", *(f"set server {each} state ready" for each in both))
        self._tell(f"set server {both[0]} health down")

    def _cut(self, key: Key) -> None:
        """End what is left of a target's requests, and forget it as soon as HAProxy can."""
        backend, name = key
        self._unproven.discard(key)
        for each in (f"{backend}/{OPEN}{name}", f"{backend}/{name}"):
            self._ask(f"set server {each} state maint")
            self._ask(f"shutdown sessions server {each}")
            self._ask(f"del server {each}")

    def _health(self, key: Key, row: Row) -> Health:
        if row["status"].startswith("UP"):
            return HEALTHY
        status = row["check_status"].removeprefix("* ")
        if key in self._unproven and status in ("", "INI", "L7OK"):
            return CHECKING
        if status.startswith("L7STS"):
            codes = f"Health checks failed with these codes: [{row['check_code']}]"
            return Health("unhealthy", "Target.ResponseCodeMismatch", codes)
        if status.endswith("TOUT"):
            return Health("unhealthy", "Target.Timeout", "Request timed out")
        return Health("unhealthy", "Target.FailedHealthChecks", "Health checks failed")

    def _tell(self, *commands: str) -> None:
        """Run commands that have nothing to say but that it is done. Raises RuntimeError."""
        for command in commands:
            output = self._ask(command).strip()
            if output and not re.fullmatch(r"New server registered\.", output):
                raise RuntimeError(f"HAProxy: {command}: {output}")

    def _ask(self, command: str, to: str = haproxy.ADMIN) -> str:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(ASK_S)
            try:
                asked.connect(str(self._folder / to))
                asked.sendall(f"{command}\n".encode())
                asked.shutdown(socket.SHUT_WR)
                output = b""
                while chunk := asked.recv(65536):
                    output += chunk
            except OSError as error:
                raise NotRunning(f"{self._folder / to}: {error}") from error
        if to == haproxy.MASTER and not output:
            raise NotRunning(f"{self._folder / to}: it ended")
        return output.decode()
