"""A stack that is up, in memory: what its output says, what its machines answer, and a store."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from commands.target import Target, resolve_target
from platforms import operator
from platforms.transport import PrefixStore, Result, Unreachable
from releases import pointers
from releases.journal import Journal
from releases.status import BalancerStatus, HostStatus, MachineStatus, ServerStatus
from tests.unit.fake_fleet import MemoryStore

OLD, NEW = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
NAMES = ("hello-1", "hello-2")
ADDRESSES = {"hello-1": "10.0.0.1", "hello-2": "10.0.0.2"}
PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
Answer = str | MachineStatus | tuple[int, str] | Exception


def host_status(**changes: Any) -> HostStatus:
    """Return the status of a healthy machine. Machines.exec adds the time to clock_s."""
    gib = 1 << 30
    well: dict[str, Any] = {"disk_bytes": 8 * gib, "disk_free_bytes": 4 * gib, "failed_units": []}
    return HostStatus.model_validate(
        {
            **well,
            "disk_error": "",
            "system": "running",
            "clock_s": 0.0,
            "os": "debian-13",
            "python": "3.13.5",
            **changes,
        }
    )


def facts(**changes: Any) -> ServerStatus:
    """Return what `app_status.py` prints on a server whose slot blue serves OLD."""
    workers = {"workers_busy": 1, "workers_idle": 3, "threads": 16, "threads_busy": 2, "listen_queue": 0}
    values: dict[str, Any] = {"live": OLD, "slots": slots("active"), "staged": [OLD], "gateway": {"blue": workers}}
    values |= {"live_since_s": time.time() - 180, "boot": "active", "socket": "active", "queue": 0}
    values |= {"restarts": {}, "ended": [], "machine": host_status()}
    values |= {"health": {"path": "/healthz", "status": 200, "line": "ok"}}
    return ServerStatus.model_validate(values | changes)


def slots(blue: str, green: str = "inactive", *, of_blue: str | None = OLD, of_green: str | None = None) -> Any:
    return {"blue": {"state": blue, "release": of_blue}, "green": {"state": green, "release": of_green}}


def on_new(**changes: Any) -> ServerStatus:
    """Return the facts of a server whose slot green serves NEW."""
    return facts(live=NEW, slots=slots("inactive", "active", of_green=NEW), staged=[OLD, NEW], **changes)


def front(**changes: Any) -> BalancerStatus:
    """Return what balancer_status.py reports of a healthy balancer."""
    numbers = {"requests": 60, "requests_per_s": 1.0, "errors_5xx": 0, "p50_ms": 12.5, "p99_ms": 80.0}
    values: dict[str, Any] = {"proxy": "Nginx", "state": "active", "maintenance": False, "certificate": None}
    values |= {
        "active": list(ADDRESSES.values()),
        "drained": [],
        "health": {"age_s": 1.0, "servers": {}, "problem": ""},
    }
    values |= {"window_s": 60.0, **numbers, "upstreams": {"10.0.0.1": numbers}, "machine": host_status()}
    return BalancerStatus.model_validate(values | changes)


@dataclass
class Machines:
    """A Transport. answers: (target, first words of the command) -> output, (exit code, output), or what is raised.

    A status becomes JSON, with a clock that is ahead by its clock_s.
    """

    answers: dict[tuple[str, str], Answer] = field(default_factory=dict[tuple[str, str], Answer])
    calls: list[tuple[str, list[str], bytes]] = field(default_factory=list[tuple[str, list[str], bytes]])

    def exec(
        self,
        machine: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        on_line: Any = None,
        on_output: Any = None,
        **_: Any,
    ) -> Result:
        self.calls.append((machine, list(command), stdin))
        text = " ".join(command)
        found = [key for key in self.answers if key[0] == machine and text.startswith(key[1])]
        response: Answer = self.answers[max(found, key=lambda key: len(key[1]))] if found else ""
        if isinstance(response, Exception):
            raise response
        if isinstance(response, MachineStatus):
            clock = response.machine.model_copy(update={"clock_s": time.time() + response.machine.clock_s})
            response = response.model_copy(update={"machine": clock}).model_dump_json()
        code, output = (0, response) if isinstance(response, str) else response
        if on_output:
            on_output(output.encode(errors="surrogateescape"))
        for line in output.splitlines() if on_line else ():
            on_line(line)
        return Result(code, output)

    def status(self, name: str, response: Answer) -> None:
        """Set a server's response to `app_status.py`."""
        self.answers[f"m-{name}", "/usr/local/lib/wsgi-fleet/app_status.py"] = response

    def traffic(self, response: Answer) -> None:
        """Set the balancer's response to balancer_status.py."""
        self.answers["m-balancer", "/usr/local/lib/wsgi-fleet/balancer_status.py"] = response

    def asked(self, machine: str) -> list[str]:
        """Return the commands that a machine got, as text."""
        return [" ".join(command) for target, command, _ in self.calls if target == machine]


@dataclass
class FakeStack:
    """output: the stack's output `fleet`. whole: the store of the stack; store: the application's part of it.

    damage: what is wrong with the store, for a look at it.
    """

    output: dict[str, Any]
    machines: Machines
    whole: MemoryStore
    damage: str = ""

    @property
    def store(self) -> PrefixStore:
        return PrefixStore(self.whole, "hello")

    def target(self) -> Target:
        return resolve_target("prod", self.output, None)

    def released(self, release: str, result: str = "done", *, is_rollback: bool = False, **last: Any) -> None:
        """Write a movement into the journal, and the release into the store."""
        # Keys are times; two within a microsecond would be one.
        time.sleep(0.001)
        journal = Journal(self.store, release=release, app="hello", revision="abc1234")
        journal.note("begin", **({"rollback": True} if is_rollback else {}))
        journal.note(result, seconds=9.3, **last)
        self.store.write(f"releases/{release}/manifest.json", b"{}")
        if result == "done":
            pointers.set_current(self.store, release)


def make(monkeypatch: Any) -> FakeStack:
    """Create stack `prod` with two servers that serve OLD; every command finds it."""
    described_: dict[str, Any] = {
        "servers": [{"name": name, "target": f"m-{name}", "address": ADDRESSES[name]} for name in NAMES],
        "health_path": "/healthz",
        "start_timeout_s": 60,
        "drain_timeout_s": 75,
    }
    output: dict[str, Any] = {
        "store": {"platform": "memory"},
        "reach": {"platform": "memory", "user": "admin", "private_key": PRIVATE_KEY, "jump_address": "192.0.2.1"},
        "balancer": {"name": "balancer", "target": "m-balancer"},
        "url": "http://192.0.2.1",
        "apps": {"hello": described_},
    }
    stack = FakeStack(output, Machines(), MemoryStore())
    for name in NAMES:
        stack.machines.status(name, facts())
    stack.machines.traffic(front())
    stack.released(OLD)

    def pulumi(*arguments: str) -> str:
        if arguments[:2] == ("stack", "--show-name"):
            return "prod\n"
        if arguments == ("stack", "export", "--show-secrets", "-s", "prod"):
            return '{"deployment": {}}'
        assert arguments == ("stack", "output", "--json", "--show-secrets", "-s", "prod")
        return json.dumps({"fleet": stack.output, "url": stack.output.get("url", "")})

    monkeypatch.setattr("commands.stack.pulumi", pulumi)
    monkeypatch.setattr(operator, "transport", lambda _: stack.machines)  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(operator, "store", lambda _: stack.whole)  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(operator, "check_connection", lambda _: [])  # pyright: ignore[reportUnknownLambdaType]
    # Its releases are names without files.
    for module in ("observation", "doctor"):
        monkeypatch.setattr(f"commands.{module}.find_damage", lambda *_, **__: stack.damage)  # pyright: ignore
    monkeypatch.delenv("FLEET_STACK", raising=False)
    monkeypatch.delenv("FLEET_FROM", raising=False)
    return stack


GONE = Unreachable("no route to host")
