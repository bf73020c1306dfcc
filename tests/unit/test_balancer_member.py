"""A balancer that comes in the place of another: what it does before it takes the address, and when it gives up."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import balancer_boot
import balancer_member
import group_of_one
import pytest
from aws_service import Refused
from fetch import FetchError
from proxy import ProxyError

from rendering.site import render_site
from rendering.upstream import Upstream
from settings.balancer import Balancer

SITE = json.dumps(render_site(Balancer(), [Upstream("a", ["10.0.0.1"], 60, "/healthz")]))
TAKEN, GONE_ON, GIVEN_UP = "eipalloc-1 leads here", "g hook CONTINUE", "g hook ABANDON"


class Machine:
    """What a machine meets. does: what it ran and was told, in order. fails: what of it fails, and how often."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: dict[str, Any] = {}
        self.does: list[str] = []
        self.fails: dict[str, int] = {}
        self.responses: list[bool] = []
        self.others: list[set[str]] = []
        self.marks: dict[str, Any] = {}
        self.pointers: dict[str, str] = {}
        self.clock = 0.0
        (folder / "store").write_text("s3://bucket/prod/_balancer")
        (folder / "member").write_text(json.dumps({"group": "g", "hook": "hook", "address": "eipalloc-1"}))
        (folder / "ready").touch()
        replaced: Mapping[str, Any] = {
            "CONFIG": folder,
            "DONE": folder / "done",
            "READY": folder / "ready",
            "LOCK": folder / "lock",
            "fetch": self.fetch,
            "fetch_secrets": self.fetch_secrets,
            "responds": self.responds,
        }
        for name, value in replaced.items():
            monkeypatch.setattr(balancer_member, name, value)
        for name, value in {
            "CONFIG": folder,
            "JOINED": folder / "joined",
            "ScalingGroups": lambda: self,
            "Lifecycle": self.lifecycle,
        }.items():
            monkeypatch.setattr(group_of_one, name, value)
        monkeypatch.setattr(balancer_member.subprocess, "run", self.run)
        monkeypatch.setattr(balancer_member.proxy_site, "serve", self.serve)
        monkeypatch.setattr(balancer_member.time, "sleep", self.sleep)
        monkeypatch.setattr(balancer_member.time, "monotonic", lambda: self.clock)

    def fetch(self, store: str, key: str, **_: Any) -> bytes:
        if key == "pointer":
            return self.pointers[store].encode()
        if key == "marks.json":
            return json.dumps(self.marks).encode() if self.marks else b""
        return json.dumps(self.steps[key]).encode() if key in self.steps else b""

    def fetch_secrets(self, store: str, name: str) -> dict[str, str]:
        assert (store, name.rpartition("-")[0]) == ("s3://bucket/prod/_balancer", "certificate")
        return {"1": "key", "0": "chain and "}

    def keep(self, name: str, stdin: str = "", secret: str = "") -> None:
        self.steps[f"steps/{name}.json"] = {"command": [name], "stdin": stdin, "secret": secret, "timeout_s": 5}

    def do(self, what: str) -> bool:
        """Note it. Return whether it fails this time."""
        self.does.append(what)
        self.fails[what] = self.fails.get(what, 0) - 1
        return self.fails[what] >= 0

    def run(self, command: list[str], **given: Any) -> Any:
        words = command[3:] if command[0] == "timeout" else [str(each) for each in command]
        return SimpleNamespace(
            returncode=int(self.do(" ".join([*words, *filter(None, [given.get("input", b"").decode()])]))),
            stdout=b"no",
            stderr=b"",
        )

    def serve(self, state: Any, *, by_agent: bool) -> None:
        assert by_agent
        without = f" without {', '.join(state.drained)}" if state.drained else ""
        self.do(f"site of {', '.join(state.servers)}{without}")

    def take_address(self, allocation: str) -> None:
        if self.do(f"{allocation} leads here"):
            raise Refused("ec2", 403, "")

    def lifecycle(self, group: str) -> Machine:
        assert group == "g"
        return self

    def complete(self, hook: str, result: str) -> None:
        if self.do(f"g {hook} {result}"):
            raise Refused("autoscaling", 400, "")

    def beat(self, hook: str) -> None:
        self.do(f"g {hook} is to wait")

    def members(self, group: str) -> set[str]:
        if self.do(f"who is in {group}"):
            raise Refused("autoscaling", 503, "")
        return self.others.pop(0) | {"i-1"} if self.others else {"i-1"}

    machine = "i-1"

    def condemn(self, id_: str) -> None:
        self.do(f"{id_} is dead")

    def responds(self) -> bool:
        if not self.responses:
            raise KeyboardInterrupt
        return self.responses.pop(0)

    def sleep(self, seconds: float) -> None:
        self.clock += seconds


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def main(*arguments: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        balancer_member.main(arguments)


def test_it_takes_the_address_once_the_site_serves_and_once_alone(machine: Machine) -> None:
    machine.keep("booted")
    # Of "chain and key".
    machine.keep("certificate", secret="certificate-2339d8923df883e9")
    machine.keep("site", SITE)
    machine.keep("monitoring")
    machine.fails = {"monitoring": 1, TAKEN: 2, GONE_ON: 1}
    main()
    done = ["booted", "certificate chain and key", "site of 10.0.0.1", *[TAKEN] * 3, *[GONE_ON] * 2, "monitoring"]
    assert machine.does == done
    main()
    assert machine.does == done


def test_before_the_first_site_it_takes_the_address_at_once_so_that_steps_reach_it(machine: Machine) -> None:
    machine.keep("booted")
    main()
    assert machine.does == [TAKEN, GONE_ON, "booted"]


def test_it_gives_up_without_the_address_where_a_step_fails_that_clients_need(machine: Machine) -> None:
    machine.keep("certificate", secret="certificate-0000000000000000")
    machine.keep("site", SITE)
    with pytest.raises(ProxyError, match="the parameters of certificate are not whole"):
        balancer_member.main([])
    assert machine.does == [GIVEN_UP]


def test_an_nginx_that_does_not_respond_is_restarted_and_then_the_machine_replaced(machine: Machine) -> None:
    (balancer_member.DONE).touch()
    machine.responses = [True, *[False] * 6, True, *[False] * 32]
    main()
    restart = ["systemctl kill --signal=KILL nginx", "systemctl restart --no-block nginx"]
    # The second time it stays away: after 90 s, and each minute.
    assert [each for each in machine.does if each != "who is in g"] == [
        *restart,
        *restart,
        "i-1 is dead",
        "i-1 is dead",
    ]


def test_it_brings_the_static_files_of_what_serves_and_serves_without_those_that_are_missing(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "static.json").write_text('["shop", "docs"]')
    machine.keep("site", SITE)
    asked: list[str] = []

    def fetch_file(store: str, key: str, file: Path) -> None:
        asked.append(f"{store}/{key}")
        assert (file.stat().st_mode & 0o777) == 0o600
        if "docs" in store:
            raise FetchError("the store has none")

    monkeypatch.setattr(balancer_member, "fetch_file", fetch_file)
    machine.pointers = {"s3://bucket/prod/shop": "r1", "s3://bucket/prod/docs": "r2"}
    main()
    assert asked == [f"s3://bucket/prod/{each}/static.tar.gz" for each in ("shop/releases/r1", "docs/releases/r2")]
    script = f"{sys.executable} {balancer_member.HERE}/static_files.py"
    assert machine.does[:3] == [f"{script} put shop r1", f"{script} point shop r1", "site of 10.0.0.1"]


def test_what_was_done_by_hand_to_the_one_before_holds(machine: Machine) -> None:
    machine.keep("site", json.dumps(render_site(Balancer(), [Upstream("a", ["10.0.0.1", "10.0.0.2"], 60, "/healthz")])))
    machine.marks = {"drained": {"10.0.0.2": "i-2", "10.0.0.9": "i-9"}, "page": "<h1>M\u00c3\u00bcde"}
    main()
    page = [f"{balancer_member.HERE}/proxy_site.py maintenance on <h1>Müde"]
    assert machine.does == ["site of 10.0.0.1, 10.0.0.2 without 10.0.0.2", *page, TAKEN, GONE_ON]
    # Servers that are all drained would leave none: they get requests.
    balancer_member.DONE.unlink()
    machine.does.clear()
    machine.marks = {"drained": {"10.0.0.1": "i-1", "10.0.0.2": "i-2"}, "page": None}
    main()
    # It had the address, and another machine may have it now.
    assert machine.does == ["site of 10.0.0.1, 10.0.0.2"]


def test_a_server_with_the_address_of_one_that_was_drained_gets_requests(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.keep(
        "site", json.dumps(render_site(Balancer(), [Upstream("a", ["10.0.0.1", "10.0.0.2", "10.0.0.3"], 60, "/")]))
    )
    machine.marks = {"drained": {"10.0.0.1": "i-1", "10.0.0.2": "i-2"}, "page": None}
    ids = {"10.0.0.1": "i-1", "10.0.0.2": "i-7", "10.0.0.3": "i-3"}
    members = SimpleNamespace(wait_for=lambda _: None, adopt=lambda new, _: new, instances_of=lambda _: ids)  # pyright: ignore
    monkeypatch.setattr(balancer_member.proxy_site, "has_groups", lambda _: True)  # pyright: ignore
    monkeypatch.setattr(balancer_member.proxy_site, "group_members", lambda: members)
    main()
    assert machine.does[0] == "site of 10.0.0.1, 10.0.0.2, 10.0.0.3 without 10.0.0.1"


def test_it_goes_on_where_the_group_does_not_wait_and_keeps_the_address(machine: Machine) -> None:
    machine.keep("site", SITE)
    machine.keep("monitoring")
    machine.fails = {GONE_ON: 1000}
    main()
    assert [each for each in machine.does if each != GONE_ON] == ["site of 10.0.0.1", TAKEN, "monitoring"]
    assert group_of_one.CALL_S <= machine.clock < group_of_one.CALL_S + 60


def test_a_machine_that_the_group_has_taken_is_replaced_where_it_does_not_become_the_balancer(machine: Machine) -> None:
    machine.keep("certificate", secret="certificate-0000000000000000")
    machine.keep("site", SITE)
    machine.fails = {GIVEN_UP: 1000}
    with pytest.raises(ProxyError, match="the parameters of certificate are not whole"):
        balancer_member.main([])
    assert {*machine.does[:-1]} == {GIVEN_UP}
    assert machine.does[-1] == "i-1 is dead"


def test_the_group_waits_while_the_steps_are_repeated(machine: Machine) -> None:
    class Ended:
        waits = iter([*[False] * 3, True])

        def wait(self, _seconds: float) -> bool:
            return next(self.waits)

    machine.fails = {"g hook is to wait": 1}
    member = group_of_one.Member()
    member.keep_waiting(cast("Event", Ended()))
    assert machine.does == ["g hook is to wait"] * 3
    Ended.waits = iter([False] * 1000)
    member.keep_waiting(cast("Event", Ended()))
    assert len(machine.does) == 3 + group_of_one.LAUNCH_S / group_of_one.HEARTBEAT_S


def test_a_balancer_takes_the_address_back_when_the_machine_that_was_to_replace_it_has_left(machine: Machine) -> None:
    balancer_member.DONE.touch()
    machine.responses = [True] * 75
    machine.others = [set(), {"i-2"}, {"i-2"}, set(), set()]
    machine.fails = {TAKEN: 1}
    main()
    asked = "who is in g"
    # The first try fails.
    assert machine.does == [*[asked] * 4, TAKEN, asked, TAKEN, asked]


def test_a_machine_boots_with_the_host_key_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    does: list[str] = []
    document = {"boot_s": 1, "files": {str(tmp_path / "file"): ["0644", "text"]}, "off": [], "prove": [], "on": ["m"]}
    (tmp_path / "store").write_text("s3://bucket/prod/_balancer")

    def fetch(_store: str, key: str) -> bytes:
        return json.dumps(document).encode() if key == "boot/1.json" else b""

    def fetch_secrets(_store: str, name: str) -> dict[str, str]:
        return {"key": f"key of {name}"}

    def systemctl(*words: str) -> None:
        does.append(" ".join(words))

    def run(words: list[Path], *, check: bool) -> None:
        assert check
        does.append(words[0].name)

    (tmp_path / "key.pub").write_text("of the key that it made")
    replaced: Mapping[str, Any] = {
        "CONFIG": tmp_path,
        "HOST_KEY": tmp_path / "key",
        "fetch": fetch,
        "fetch_secrets": fetch_secrets,
        "systemctl": systemctl,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(balancer_boot, name, value)
    monkeypatch.setattr("group_boot.systemctl", systemctl)
    monkeypatch.setattr(balancer_boot.subprocess, "run", run)
    balancer_boot.main(["boot/1.json"])
    assert does == ["restart ssh", "daemon-reload", "enable m", "start --no-block m", "setup-nginx"]
    assert [(tmp_path / each).exists() for each in ("file", "key.pub")] == [True, False]
    key = tmp_path / "key"
    assert (key.read_text(), key.stat().st_mode & 0o777) == ("key of boot", 0o600)
