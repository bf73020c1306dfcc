"""Hooks: real commands, a real server for webhooks, and when a rollout and a rollback run them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from releases.hooks import HookError, Hooks
from releases.journal import entries
from releases.pointers import current
from releases.rollback import RollbackError
from releases.rollout import RolloutError
from tests.receiver import Receiver, receiving
from tests.unit.fake_fleet import NAMES, FakeFleet, MemoryStore, a_fleet_on, go_back, release, roll_out
from tests.unit.stack_blocks import app, of_app, problems_of

EVENT = {
    "app": "a", "release": "r2", "before": "r1", "revision": "abc1234", "who": "ann@desk", "servers": ["a-1"],
    "seconds": 12.3, "tokens": "not passed on",
}  # fmt: skip
OURS = ("before_release", "after_release", "failed", "rolled_back")


@pytest.fixture
def receiver() -> Generator[Receiver]:
    with receiving() as made:
        yield made


def hooks(log: list[str] | None = None, /, **settings: Any) -> Hooks:
    """Return hooks that all have these settings."""
    each = {"format": "json", "timeout_s": 5.0} | settings
    return Hooks(dict.fromkeys(OURS, each), stack="prod", log=(log if log is not None else []).append)


def test_a_command_gets_the_event_as_json_and_the_usual_of_it_as_variables(tmp_path: Path) -> None:
    lines: list[str] = []
    command = f"cat > {tmp_path}/event.json; env | grep ^WSGI_FLEET_ | sort; echo oops >&2"
    hooks(lines, command=command).run("after_release", EVENT)
    event = json.loads((tmp_path / "event.json").read_text())
    text = "prod: a: release r2 serves after 12 s (by ann@desk, revision abc1234)"
    nothing = dict.fromkeys(("when", "missing", "why")) | {"rollback": False}
    passed = {key: value for key, value in EVENT.items() if key != "tokens"}
    assert event == passed | nothing | {"event": "after_release", "stack": "prod", "text": text}
    values = ["APP=a", "BEFORE=r1", "EVENT=after_release", "RELEASE=r2", "REVISION=abc1234", "STACK=prod"]
    assert lines == [f"hooks.after_release: {each}" for each in (*(f"WSGI_FLEET_{one}" for one in values), "oops")]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("seq 20; exit 3", "`seq 20; exit 3` failed with exit code 3:" + "".join(f"\n    {n}" for n in range(11, 21))),
        ("exit 4", "`exit 4` failed with exit code 4"),
        ("no-such-program", "`no-such-program` failed with exit code 127:\n    sh: 1: no-such-program: not found"),
    ],
)
def test_the_error_of_a_command_quotes_its_last_lines(command: str, message: str) -> None:
    with pytest.raises(HookError) as error:
        hooks(command=command).run("failed", EVENT)
    assert str(error.value) == f"hooks.failed: {message}"


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    start_s = time.monotonic()
    with pytest.raises(HookError, match=r"did not finish in 1 s"):
        hooks(command=f"(sleep 3; touch {tmp_path}/late) & sleep 30", timeout_s=1.0).run("failed", EVENT)
    assert time.monotonic() - start_s < 3
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_a_command_need_not_read(tmp_path: Path) -> None:
    hooks(command=f"exec <&-; touch {tmp_path}/done").run("failed", EVENT | {"why": "x" * 1_000_000})
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("hook", "more", "text"),
    [
        ("before_release", {}, "release r2 begins (by ann@desk, revision abc1234)"),
        (
            "after_release",
            {"missing": ["a-3"]},
            "release r2 serves after 12 s (by ann@desk, revision abc1234); without a-3",
        ),
        (
            "failed",
            {"why": "a-1: <b> & c\nmore"},
            "release r2 failed (by ann@desk, revision abc1234): a-1: &lt;b&gt; &amp; c",
        ),
        ("failed", {"why": "x", "rollback": True, "revision": ""}, "rollback to r2 failed (by ann@desk): x"),
        ("rolled_back", {"revision": ""}, "went back from r1 to r2 (by ann@desk)"),
    ],
)
def test_a_webhook_gets_a_line_as_slack_expects_it(
    receiver: Receiver, hook: str, more: dict[str, Any], text: str
) -> None:
    hooks(webhook=receiver.url, format="slack").run(hook, EVENT | more)
    assert receiver.bodies == [{"text": f"prod: a: {text}"}]


def test_a_webhook_gets_all_of_the_event(receiver: Receiver) -> None:
    hooks(webhook=receiver.url).run("after_release", EVENT)
    (body,) = receiver.bodies
    assert (body["event"], body["stack"], body["servers"], "tokens" in body) == (
        "after_release",
        "prod",
        ["a-1"],
        False,
    )


def test_the_error_of_a_webhook_does_not_show_its_url(receiver: Receiver) -> None:
    receiver.status = 403
    with pytest.raises(HookError, match=r"^hooks.failed: the webhook at 127.0.0.1 responds with status 403$"):
        hooks(webhook=receiver.url).run("failed", EVENT)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/opensesame"
        with pytest.raises(HookError, match=r"cannot be reached: .*refused") as error:
            hooks(webhook=url).run("failed", EVENT)
        silent.listen()
        with pytest.raises(HookError, match="cannot be reached: timed out"):
            hooks(webhook=url, timeout_s=0.2).run("failed", EVENT)
    assert "opensesame" not in str(error.value)


def events(receiver: Receiver) -> list[tuple[str, str, str | None]]:
    return [(each["event"], each["release"], each["before"]) for each in receiver.bodies]


def test_releases_and_rollbacks_run_their_hooks(receiver: Receiver) -> None:
    fleet, ours = FakeFleet(MemoryStore()), hooks(webhook=receiver.url)
    first, second = (roll_out(fleet, number, hooks=ours) for number in (1, 2))
    # It serves already: only new servers take it.
    roll_out(fleet, 2, hooks=ours)
    go_back(fleet, hooks=ours)
    assert events(receiver) == [
        ("before_release", first, None), ("after_release", first, None),
        ("before_release", second, first), ("after_release", second, first), ("rolled_back", first, second),
    ]  # fmt: skip
    assert receiver.bodies[3]["servers"] == list(NAMES)
    assert receiver.bodies[3]["seconds"] >= 0


def test_a_failed_hook_before_a_release_stops_it_and_changes_nothing() -> None:
    fleet, first = a_fleet_on(1)
    files = set(fleet.store.files)
    with pytest.raises(RolloutError) as error:
        roll_out(fleet, 2, hooks=hooks(command="echo not on fridays; exit 1"))
    why = "hooks.before_release: `echo not on fridays; exit 1` failed with exit code 1:\n    not on fridays"
    assert error.value.cause == f"a: {why}\nrelease {release(2).id} was not taken: release {first} still serves."
    assert (current(fleet.store), {verb for _, verb in fleet.calls}) == (first, {"status"})
    assert not any(key.startswith("releases/") for key in set(fleet.store.files) - files)
    assert next(entries(fleet.store)).why == why


def test_a_failed_hook_after_a_release_or_a_rollback_changes_nothing(receiver: Receiver) -> None:
    fleet, first = a_fleet_on(1)
    receiver.status = 500
    lines: list[str] = []
    spec = {
        name: {"webhook": receiver.url, "format": "json", "timeout_s": 5} for name in OURS if name != "before_release"
    }
    broken = Hooks(spec, stack="prod", log=lines.append)
    second = roll_out(fleet, 2, hooks=broken)
    for id_ in (first, release(3).id):
        fleet.fails["a-2", f"switch {id_}"] = "GET /healthz was 500"
    with pytest.raises(RolloutError, match="GET /healthz was 500"):
        roll_out(fleet, 3, hooks=broken)
    assert (receiver.bodies[1]["event"], receiver.bodies[1]["why"]) == ("failed", "a-2, switch: GET /healthz was 500")
    with pytest.raises(RollbackError, match="still serves"):
        go_back(fleet, hooks=broken)
    assert (receiver.bodies[2]["event"], receiver.bodies[2]["rollback"]) == ("failed", True)
    assert current(fleet.store) == second
    problem = "the webhook at 127.0.0.1 responds with status 500"
    assert lines == [f"hooks.{name}: {problem}" for name in ("after_release", "failed", "failed")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "hooks.failed.command: null: should be set, or webhook; set one, or remove the hook"),
        ({"command": "x", "format": "slack"}, "hooks.failed.format: slack: is the format of a webhook; set webhook"),
        ({"command": "a\nb"}, "hooks.failed.command: "),
        *(
            ({"webhook": url}, "hooks.failed.webhook: (secret): should be a URL, such as https://hooks.slack.com/")
            for url in (
                "hooks.slack.com/x",
                "file:///etc/passwd",
                "https://",
                "http://[::1",
                "https://a/b c",
                "http://a:x/",
            )
        ),
    ],
)
def test_a_bad_hook_is_refused_with_its_path(given: dict[str, Any], message: str) -> None:
    (line,) = of_app(hooks={"failed": given})
    assert line.startswith(message)


def test_a_webhook_in_plain_is_refused() -> None:
    blocks = {"apps": {"hello": app(hooks={"failed": {"webhook": "https://a.example/x"}})}}
    (line,) = problems_of(blocks, [])
    assert line.startswith("apps.hello.hooks.failed.webhook: (secret): is stored in plain text; remove it")
