"""A machine of a group: how it becomes a server by itself, joins the group once it serves, and leaves it empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any, cast
from urllib.parse import parse_qsl

import apply_files
import aws_service
import group_boot
import group_member
import lifecycle
import membership
import proxy
import pytest
import upstream_health
from fetch import FetchError

KEY = "boot/0123456789abcdef.json"


class Host:
    """What a machine meets. store: key -> content, or why it does not respond; of several answers each is given once.

    does: what it ran, was told, and slept, in order.
    """

    def __init__(self) -> None:
        self.store: dict[str, list[Any]] = {}
        self.does: list[str] = []
        self.target_state = ["InService"]
        self.spot = ""
        self.serves = [True]
        self.live = "r1"
        self.waits = True
        self.clock = 0.0

    def fetch(self, store: str, key: str, *, missing_ok: bool = False) -> bytes:
        del missing_ok
        assert store == "s3://bucket/prod/hello"
        responses = self.store.get(key, [b""])
        response = responses.pop(0) if len(responses) > 1 else responses[0]
        if isinstance(response, Exception):
            raise response
        return response

    def find(self, path: str) -> str:
        if path == "spot/instance-action":
            return self.spot
        assert path == "autoscaling/target-lifecycle-state"
        return self.target_state.pop(0) if len(self.target_state) > 1 else self.target_state[0]

    def stop(self, slot: str, limit: float) -> None:
        self.does.append(f"stop {slot} {limit:.0f}")

    def run(self, *command: str, timeout_s: float = 60) -> None:
        assert timeout_s > 75 or "--no-block" in command
        self.does.append(" ".join(command))

    def systemctl(self, *words: str) -> None:
        self.does.append(" ".join(["systemctl", *words]))

    def fetch_secrets(self, store: str, release: str) -> dict[str, str]:
        assert (store, release) == ("s3://bucket/prod/hello", "boot")
        return {"key": "opensesame"}

    def link_target(self, _path: Path) -> str:
        return self.live

    def healthy(self, *, by_load_balancer: bool) -> bool:
        assert by_load_balancer
        return self.serves.pop(0) if len(self.serves) > 1 else self.serves[0]

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        self.does.append(f"slept {seconds:.0f}")

    def post(self, content_type: str, body: bytes, target: str = "") -> bytes:
        assert (content_type.partition(";")[0], target) == ("application/x-www-form-urlencoded", "")
        form = dict(parse_qsl(body.decode()))
        assert (form["Version"], form["AutoScalingGroupName"], form["InstanceId"]) == ("2011-01-01", "g", "i-1")
        if not self.waits:
            raise aws_service.Refused("autoscaling", 400, "<Message>No active Lifecycle Action found</Message>")
        result = "" if form.get("LifecycleActionResult", "CONTINUE") == "CONTINUE" else " ABANDON"
        self.does.append(f"{form['Action']} {form['LifecycleHookName']}{result}")
        return b""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    names = {"name": "g", "launch": "up", "terminate": "down", "by_load_balancer": True}
    (tmp_path / "group").write_text(json.dumps(names))
    (tmp_path / "store").write_text("s3://bucket/prod/hello")

    class Service:
        def __init__(self, name: str) -> None:
            assert name == "autoscaling"
            self.machine, self.post = "i-1", made.post

    def ran(command: Sequence[Any], **_: Any) -> None:
        made.does.append(" ".join(map(str, command)))

    for module in (group_boot, group_member):
        monkeypatch.setattr(module, "CONFIG", tmp_path)
        monkeypatch.setattr(module, "fetch", made.fetch)
        monkeypatch.setattr(module.time, "sleep", made.sleep)
    monkeypatch.setattr(group_member.time, "monotonic", lambda: made.clock)
    monkeypatch.setattr(lifecycle, "Service", Service)
    monkeypatch.setattr(group_member, "find", made.find)
    monkeypatch.setattr(group_member, "is_healthy", made.healthy)
    monkeypatch.setattr(group_member, "store_url", lambda: "s3://bucket/prod/hello")
    monkeypatch.setattr(group_member, "link_target", made.link_target)
    monkeypatch.setattr(group_member, "serving_slots", lambda: ["blue"])
    monkeypatch.setattr(group_member, "drain_s", {"blue": 75.0}.__getitem__)
    monkeypatch.setattr(group_member, "stop", made.stop)
    monkeypatch.setattr(group_member, "run", made.run)
    monkeypatch.setattr(group_boot.subprocess, "run", ran)
    monkeypatch.setattr(group_boot, "systemctl", made.systemctl)
    monkeypatch.setattr(group_boot, "fetch_secrets", made.fetch_secrets)
    return made


def test_it_fetches_what_it_is_to_be_and_waits_for_rights_that_are_new(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "boot_s": 1,
        "files": {str(tmp_path / "unit"): ["0644", "[Unit]"]},
        "off": [],
        "prove": [],
        "on": ["g.service"],
    }
    logs = {**own, "files": {}, "on": []}
    host.store = {KEY: [FetchError("S3 responded with 403"), json.dumps([own, logs]).encode()]}
    monkeypatch.setattr(apply_files, "UNITS", tmp_path)
    group_boot.main([KEY, "nginx", "libpq5"])
    assert (tmp_path / "unit").read_text() == "[Unit]"
    assert (tmp_path / "key").read_text() == "opensesame"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    slept, setup, *rest = host.does
    assert slept == "slept 3"
    assert setup.endswith("/setup-app-server nginx libpq5")
    assert rest[:-1] == [
        "systemctl start --no-block app-boot.service", "systemctl enable g.service",
        "systemctl start --no-block g.service",
    ]  # fmt: skip
    assert rest[-1].endswith("apply_files.py")
    assert json.loads((tmp_path / "boot-0.json").read_text()) == logs


def test_it_joins_once_it_serves_the_release_that_the_store_names(host: Host) -> None:
    # None yet; another one; that one, and it is not healthy; then it is.
    host.store = {"pointer": [b"", b"r2\n", b"r1\n", b"r1\n"]}
    host.serves = [False, True]
    assert group_member.join(group_member.Group()) == ""
    assert host.does == ["slept 5", "slept 5", "slept 5", "CompleteLifecycleAction up"]


def test_a_group_waits_for_the_first_release_and_not_for_ever_for_one_that_does_not_come(host: Host) -> None:
    host.live = ""
    host.store = {"pointer": [b""] * 700 + [b"r1"]}
    host.target_state = ["InService"] * 1500 + ["Terminated"]
    assert group_member.join(group_member.Group()) == "the group takes this server away"
    beats = [place for place, what in enumerate(host.does) if what.startswith("RecordLifecycleActionHeartbeat up")]
    # The release is named after 3500 s; then it has half an hour.
    assert 60 < len(beats) * 5 < 100
    assert beats[-1] * 5 < 3500 + 1800 + 400


def test_a_store_that_does_not_respond_is_no_store_without_a_release(host: Host) -> None:
    host.store = {"pointer": [*[b""] * 10, FetchError("S3 responded with 403")]}
    host.target_state = ["InService"] * 1500 + ["Terminated"]
    group_member.join(group_member.Group())
    beats = host.does.count("RecordLifecycleActionHeartbeat up")
    assert beats * group_member.HEARTBEAT_S <= group_member.LAUNCH_S
    host.does.clear()
    group_member.main(["give-up"])
    assert host.does == ["CompleteLifecycleAction up ABANDON"]


def test_one_that_was_told_long_ago_joins_no_second_time(host: Host) -> None:
    host.store, host.waits = {"pointer": [b"r1"]}, False
    assert group_member.join(group_member.Group()) == ""
    assert 900 <= host.clock < 920


def test_one_that_leaves_finishes_its_requests_before_the_group_goes_on(host: Host) -> None:
    group_member.leave(group_member.Group(), "the group takes this server away")
    assert host.does == [
        "slept 75", "systemctl stop nginx app-worker-* app-schedule-*", "systemctl stop --no-block app.socket",
        "stop blue 75",
        "CompleteLifecycleAction down",
    ]  # fmt: skip


def test_one_that_leaves_a_balancer_which_finds_out_by_itself_stops_nothing_before(host: Host) -> None:
    group = group_member.Group()
    group.by_load_balancer = False
    group_member.leave(group, "the group takes this server away")
    assert (host.does[0], host.does[3]) == ("slept 20", "stop blue 75")
    # What asks the group, loads the proxy anew and stops it by turns is done by then.
    assert membership.ASK_S + upstream_health.RELOAD_S + proxy.PROBE_S / 2 < group_member.UNLISTED_S
    host.does.clear()
    group_member.leave(group, "Spot")
    assert host.does[3] == f"stop blue {group_member.SPOT_S - 20:.0f}"


def test_without_a_load_balancer_one_serves_when_its_live_release_is_healthy(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = {"blue": "r0", "green": "r1"}
    nginx = "active"

    def link_target(path: Path) -> str:
        return slots.get(path.name, host.live)

    def manifest_of(release: str) -> dict[str, str]:
        return {"release": release}

    def is_slot_healthy(slot: str, manifest: dict[str, str]) -> bool:
        return (slot, manifest["release"]) == ("green", "r1")

    def state_of(unit: str) -> str:
        assert unit == "nginx"
        return nginx

    for made in (link_target, manifest_of, is_slot_healthy, state_of):
        monkeypatch.setattr(group_member, made.__name__, made)
    monkeypatch.setattr(group_member, "serving_slots", lambda: list(slots))
    monkeypatch.setattr(group_member, "process_layout", lambda: ("systemd", 2))
    assert group_member.serves_by_itself()
    nginx = "activating"
    assert not group_member.serves_by_itself()
    nginx, slots["green"] = "active", "r0"
    assert not group_member.serves_by_itself()
    assert host.does == []


def test_without_a_load_balancer_one_that_has_booted_starts_what_the_first_request_would(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link_target(path: Path) -> str:
        return {"blue": blue}.get(path.name, "r1")

    def run(*words: str) -> None:
        host.does.append(" ".join(words))

    monkeypatch.setattr(group_member, "link_target", link_target)
    monkeypatch.setattr(group_member, "serving_slots", list[str])
    monkeypatch.setattr(group_member, "process_layout", lambda: ("systemd", 0))
    monkeypatch.setattr(group_member, "run", run)
    blue = ""
    assert not group_member.serves_by_itself()
    assert host.does == []
    blue = "r1"
    assert not group_member.serves_by_itself()
    assert host.does == ["systemctl start --no-block app.socket app@blue"]


def test_a_group_waits_for_one_that_takes_long_to_leave(host: Host) -> None:
    class Ended:
        waits = iter([False, False, True])

        def wait(self, _seconds: float) -> bool:
            return next(self.waits)

    group = group_member.Group()
    limits = {"every_s": group_member.LEAVING_S, "limit_s": 1000}
    lifecycle.keep_waiting(lambda: group.beat(group.terminate), cast("Event", Ended()), **limits)
    assert host.does == ["RecordLifecycleActionHeartbeat down"] * 2
    # Not for a process that nothing ends.
    Ended.waits = iter([False] * 1000)
    lifecycle.keep_waiting(lambda: group.beat(group.terminate), cast("Event", Ended()), **limits)
    assert len(host.does) == 2 + 17


def test_a_machine_that_does_not_become_a_server_is_given_up_once_there_is_a_release(host: Host) -> None:
    host.store = {"pointer": [b""]}
    group_member.main(["give-up"])
    assert host.does == []
    host.store, host.waits = {"pointer": [b"r1"]}, True
    group_member.main(["give-up"])
    assert host.does == ["CompleteLifecycleAction up ABANDON"]


def test_a_spot_notice_leaves_two_minutes(host: Host) -> None:
    host.spot = '{"action": "terminate"}'
    host_why = group_member.reason_to_leave()
    assert host_why.startswith("EC2 takes its Spot capacity back")
    group_member.leave(group_member.Group(), host_why)
    # The rest is for the group, which has not heard of it.
    assert host.does[:4] == ["slept 5", "slept 5", "slept 5", "slept 75"]
    assert group_member.SPOT_S < 120


def test_one_with_a_spot_notice_serves_until_the_group_takes_it_from_the_load_balancer(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_member, "drain_s", {"blue": 30.0}.__getitem__)
    host.spot = '{"action": "terminate"}'
    host.target_state = ["InService"] * 8 + ["Terminated"]
    group_member.leave(group_member.Group(), group_member.reason_to_leave())
    assert host.does[:8] == ["slept 5"] * 7 + ["slept 30"]
