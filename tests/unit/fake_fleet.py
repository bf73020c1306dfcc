"""A fleet and a store in memory, which keep the promises of the real ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from platforms.transport import Result, SecretStore
from releases.fleet import STATUS_COMMAND, Fleet, Server
from releases.hooks import NO_HOOKS, Hooks
from releases.plan import Plan
from releases.release import Release
from releases.rollback import roll_back
from releases.rollout import Rollout
from releases.status import ReleaseStatus, Slot
from releases.threads import SCRIPT

NAMES = ["a-1", "a-2", "a-3"]


# Of every release.
ARCHIVE = Path(tempfile.mkdtemp(), "code.tar.gz")
ARCHIVE.write_bytes(gzip.compress(b"files", mtime=0))


class MemoryStore:
    """The Store protocol over a dict."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, key: str) -> bytes | None:
        return self.files.get(key)

    def open(self, key: str) -> IO[bytes] | None:
        return BytesIO(self.files[key]) if key in self.files else None

    def write(self, key: str, content: bytes | IO[bytes]) -> None:
        self.files[key] = content if isinstance(content, bytes) else content.read()

    def create(self, key: str, content: bytes) -> bool:
        return self.files.setdefault(key, content) is content

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.files if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self.files.pop(key, None)


class MemorySecrets:
    """The SecretStore protocol over a dict."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, str]] = {}
        self.fails = ""

    def write(self, release: str, secrets: Any) -> None:
        if self.fails:
            raise ValueError(self.fails)
        self.kept[release] = dict(secrets)

    def releases(self) -> list[str]:
        return sorted(self.kept)

    def delete(self, release: str) -> None:
        del self.kept[release]


@dataclass
class FakeFleet:
    """A Transport whose servers keep the promises of release.py and app_status.py.

    fails: (server, "verb" or "verb release") -> what happens instead: a text (exit 1), or an exception. proxy: state of
    the balancer's unit. before: called before each command with the server and the verb. with_task: servers that
    ran the release task when they staged. journal: what the proof has logged.
    """

    store: MemoryStore
    live: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(NAMES))
    staged: dict[str, set[str]] = field(default_factory=lambda: {name: set[str]() for name in NAMES})
    fails: dict[tuple[str, str], str | Exception] = field(default_factory=dict[tuple[str, str], "str | Exception"])
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    secrets: dict[str, Any] = field(default_factory=dict[str, Any])
    with_task: list[str] = field(default_factory=list[str])
    journal: str = ""
    traffic: Callable[[FakeFleet], Any] = lambda _: {"groups": {}}
    asked: list[Any] = field(default_factory=list[Any])
    proxy: str = "active"
    before: Callable[[str, str], None] = lambda _machine, _verb: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def exec(self, machine: str, command: Sequence[str], *, stdin: bytes = b"", **_: Any) -> Result:
        if command[0] == "journalctl":
            return Result(0, self.journal)
        verb, *rest = ("status",) if command[0] == STATUS_COMMAND else command[1:]
        with self.lock:
            self.calls.append((machine, verb))
            self.before(machine, verb)
            failure = self.fails.get((machine, verb)) or self.fails.get((machine, " ".join([verb, *rest[:1]])))
            if isinstance(failure, Exception):
                raise failure
            if failure:
                return Result(1, f"working\nerror: {failure}")
            if verb == "groups":
                self.asked.append(json.loads(stdin))
                return Result(0, json.dumps(self.traffic(self)))
            if verb == "is-active":
                return Result(0 if self.proxy == "active" else 3, f"{self.proxy}\n")
            if verb == "start":
                self.proxy = "active"
            if verb == "status":
                live, staged = self.live[machine], sorted(self.staged[machine])
                slots = {"blue": Slot(state="active", release=live)}
                report = ReleaseStatus(live=live, slots=slots, staged=staged, socket="active", restarts={})
                return Result(0, report.model_dump_json())
            if verb == "stage":
                assert self.store.read(f"releases/{rest[0]}/manifest.json"), "staged before it was published"
                self.secrets[machine] = json.loads(stdin)
                self.staged[machine].add(rest[0])
                self.with_task += [machine] if rest[1:] == ["task"] else []
            if verb == "switch":
                assert rest[0] in self.staged[machine], "switched to what is not staged"
                self.live[machine] = rest[0]
            if verb == "prune":
                self.staged[machine] &= set(rest)
            return Result(0, "done")

    def did(self, verb: str) -> list[str]:
        return [machine for machine, called in self.calls if called == verb]


def release(number: int, task: str | None = None) -> Release:
    manifest = {
        "number": number,
        "release_task": task,
        "tar_sha256": hashlib.sha256(b"files").hexdigest(),
        "gateway_files": {SCRIPT: ""},
    }
    return Release(manifest=json.dumps(manifest).encode(), archive=ARCHIVE)


def roll_out(
    fleet: FakeFleet,
    number: int,
    *,
    names: Sequence[str] = NAMES,
    task: str | None = None,
    kept: SecretStore | None = None,
    hooks: Hooks = NO_HOOKS,
    **changes: Any,
) -> str:
    fields = ("stage_timeout_s", "start_timeout_s", "drain_timeout_s", "task_timeout_s")
    values: dict[str, Any] = dict.fromkeys(fields, 10) | {"app": "a", "release": release(number, task)}
    values |= {"servers": [Server(name, name) for name in names], "secrets": {"PASSWORD": "hunter2"}}
    values |= {"allow_unreachable": 0, "keep_releases": 5, "batch_size": 1, "bake_s": 0, "revision": "abc1234"}
    plan = Plan(**values | changes)
    Rollout(plan, fleet, fleet.store, print, kept, hooks=hooks).run()
    return plan.release.id


def go_back(fleet: FakeFleet, expected: str | None = None, *, balancer: Server | None = None, **options: Any) -> str:
    servers = [Server(name, name) for name in NAMES]
    hands = Fleet("a", fleet, lambda _: None, first=servers[0], start_timeout_s=10, drain_timeout_s=10)
    return roll_back(hands, fleet.store, servers, expected, lambda _: None, balancer=balancer, **options)


def a_fleet_on(number: int) -> tuple[FakeFleet, str]:
    fleet = FakeFleet(MemoryStore())
    id_ = roll_out(fleet, number)
    fleet.calls.clear()
    return fleet, id_
