"""The dynamic resources of releases: when a rollout is due, and what of it stands in the state."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from pulumi.dynamic import ResourceProvider

from platforms import operator
from platforms.provider import log
from platforms.transport import PrefixStore, Unreachable
from releases import pointers, resource, secret
from releases.archive import SourceError
from releases.plan import Plan
from releases.release import Release, build
from releases.rollout import RolloutError
from tests.unit.fake_fleet import ARCHIVE, NAMES, FakeFleet, MemorySecrets, MemoryStore, release

ROLLOUT = resource._Provider()  # pyright: ignore[reportPrivateUsage]
RUN = subprocess.run
BALANCER = {"name": "balancer", "target": "i-9", "unit": "nginx.service"}
SECRET = secret._Provider()  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def store() -> PrefixStore:
    """Return the store of application a, of a stack that may have others."""
    return PrefixStore(MemoryStore(), "a")


def test_work_goes_on_when_nobody_listens_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that output to a closed pipe raises nothing, as after an engine that was killed."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(pipe, write_through=True))
        log("a line")
        log("another")


@pytest.fixture(autouse=True)
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the options of the bundles that were asked for; each is created, in a project of its own."""
    monkeypatch.chdir(tmp_path)
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        if command[0] == "git":
            return RUN(command, **options)  # pyright: ignore
        asked.append(command[command.index("bundle") :])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", run)
    return asked


@pytest.fixture
def fleet(store: PrefixStore, monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """Create the fleet and the store that the inputs below lead to."""
    fleet = FakeFleet(cast("Any", store))

    def open_store(spec: dict[str, str]) -> object:
        assert spec == {"platform": "memory"}
        return store._store  # pyright: ignore[reportPrivateUsage]

    def open_transport(spec: dict[str, str]) -> object:
        assert spec.keys() <= {"private_key", "deadline_s"}
        return fleet

    monkeypatch.setattr(operator, "store", open_store)
    monkeypatch.setattr(operator, "transport", open_transport)
    monkeypatch.setattr(operator, "secrets", lambda *_: None)  # pyright: ignore
    monkeypatch.setattr(resource, "build", lambda _, manifest, *__, **___: Release(manifest, ARCHIVE))  # pyright: ignore
    return fleet


def inputs(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return what the engine hands over for a release: numbers are floats."""
    limits = {field.name: 3.0 for field in dataclasses.fields(Plan) if field.type == "int"}
    limits |= {"bake_s": 0.0, "allow_unreachable": 1.0}
    made = release(number)
    values: dict[str, Any] = {"app": "a", "source": "app", "stack": "prod", "revision": "abc1234", "static": False}
    values |= {
        "release": made.id,
        "manifest": made.manifest.decode(),
        "limits": limits | {"batch_size": "50%", "task_before_proof": False},
    }
    values |= {"servers": [{"name": name, "target": name} for name in NAMES], "balancer": BALANCER}
    values |= {"secrets": {"PASSWORD": "opensesame"}, "reach": {"private_key": "opensesame"}}
    return values | {"store": {"platform": "memory"}} | changes


def is_due(provider: ResourceProvider, olds: dict[str, Any], news: dict[str, Any]) -> bool | None:
    found = provider.diff("id", olds, news)
    assert not found.replaces
    assert not found.delete_before_replace
    return found.changes


def outs(news: dict[str, Any]) -> dict[str, Any]:
    """Return what a rollout leaves in the state, read back from it."""
    return json.loads(json.dumps(ROLLOUT.create(news).outs))


def test_a_rollout_moves_the_fleet_and_leaves_no_secret_in_the_state(fleet: FakeFleet) -> None:
    news = inputs()
    left = ROLLOUT.create(news)
    assert fleet.live == dict.fromkeys(NAMES, news["release"])
    assert fleet.secrets["a-1"] == {"PASSWORD": "opensesame"}
    assert left.id is not None
    assert re.fullmatch("a-[0-9a-f]{8}", left.id)
    expected = {key: news[key] for key in ("app", "servers", "balancer", "static", "store", "release")} | {
        "manual_changes": 0
    }
    assert left.outs == expected
    assert ROLLOUT.update("a", expected, inputs(2)).outs == expected | {"release": release(2).id}


def test_a_release_is_judged_by_what_the_balancer_saw_unless_both_limits_are_off(fleet: FakeFleet) -> None:
    """Check it without the limits that are None: the engine passes none of these."""
    ROLLOUT.create(inputs())
    limits: dict[str, Any] = {"addresses": {"a-1": "10.0.0.1"}}
    ROLLOUT.update("a", {}, inputs(2, client_limits=limits))
    assert fleet.asked == []
    ROLLOUT.update("a", {}, inputs(3, client_limits=limits | {"max_latency_ratio": 3.0}))
    assert "10.0.0.1" in fleet.asked[0]["new"]


def test_a_fleet_without_a_balancer_machine_takes_releases(fleet: FakeFleet) -> None:
    """Check it without the property: the engine passes none that is None."""
    first, second = ({key: value for key, value in inputs(number).items() if key != "balancer"} for number in (1, 2))
    olds = outs(first)
    assert is_due(ROLLOUT, olds, first) is False
    assert is_due(ROLLOUT, olds, second)
    ROLLOUT.update("a", olds, second)
    assert fleet.live == dict.fromkeys(NAMES, second["release"])


def test_a_source_that_changed_meanwhile_ends_a_rollout_before_anything_is_done(
    fleet: FakeFleet, store: PrefixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "build", build)
    with pytest.raises(
        SourceError, match=f"{tmp_path}: changed while `pulumi up` ran; .*run `pulumi up` again"
    ) as error:
        ROLLOUT.create(inputs(source=str(tmp_path)))
    assert (error.value.__suppress_context__, sys.tracebacklimit) == (True, 0)
    assert (fleet.calls, store.keys("")) == ([], [])


@pytest.mark.usefixtures("fleet")
def test_a_rollout_is_due_for_another_release_or_other_servers_and_for_nothing_else() -> None:
    news = inputs()
    olds = outs(news)
    assert is_due(ROLLOUT, olds, news) is False
    others: dict[str, Any] = {"release": "r2", "servers": news["servers"][:2], "static": True}
    for key in news.keys() - {"store"}:
        assert is_due(ROLLOUT, olds, news | {key: others.get(key, {})}) is (key in others), key
    static = news | {"static": True}
    assert is_due(ROLLOUT, outs(static), static | {"balancer": BALANCER | {"target": "i-10"}}) is True
    replaced = [news["servers"][0] | {"target": "i-2"}, *news["servers"][1:]]
    assert is_due(ROLLOUT, olds, news | {"servers": replaced}) is True


def test_a_proxy_that_somebody_stopped_makes_a_rollout_due_that_starts_it(fleet: FakeFleet) -> None:
    news = inputs()
    olds = outs(news)
    fleet.proxy = "failed"
    assert is_due(ROLLOUT, olds, news) is True
    # Another machine in its place is being made: it starts by itself.
    ROLLOUT.update("a", olds, news | {"balancer": BALANCER | {"target": "i-10"}})
    assert fleet.proxy == "failed"
    fleet.fails[("i-9", "start")] = "no such file"
    message = r"(?s)balancer: nginx.service does not start: .*no such file.*journalctl -u"
    with pytest.raises(RolloutError, match=message):
        ROLLOUT.update("a", olds, news)
    fleet.fails.clear()
    ROLLOUT.update("a", olds, news)
    assert (fleet.proxy, is_due(ROLLOUT, olds, news)) == ("active", False)


def test_a_rollout_that_left_a_server_out_or_failed_is_due_again_and_told_without_a_traceback(fleet: FakeFleet) -> None:
    news = inputs()
    fleet.fails["a-2", "status"] = Unreachable("no route")
    olds = outs(news)
    assert is_due(ROLLOUT, olds, news) is True
    fleet.fails = {("a-2", "stage"): "does not import"}
    with pytest.raises(RolloutError, match="a-2, stage: does not import") as error:
        ROLLOUT.update("a", olds, inputs(2))
    assert (error.value.__suppress_context__, sys.tracebacklimit) == (True, 0)
    assert is_due(ROLLOUT, olds, news) is True


def test_a_rollout_that_fails_leaves_what_support_would_ask_for(
    fleet: FakeFleet, bundles: list[list[str]], tmp_path: Path, capsys: Any
) -> None:
    news = inputs()
    ROLLOUT.create(news)
    assert bundles == []
    fleet.fails["a-2", "stage"] = "does not import"
    news = inputs(2)
    file = tmp_path / ".state" / "prod" / f"failed-{news['release']}.tar.gz"
    file.parent.mkdir(parents=True)
    for number in range(4):
        old = file.parent / f"failed-{number}.tar.gz"
        old.touch()
        os.utime(old, (number, number))
    with pytest.raises(RolloutError, match=re.escape(f"What support would ask for is in .state/prod/{file.name}.")):
        ROLLOUT.create(news)
    assert capsys.readouterr().err.endswith("a: collects what support would ask for, in 120 s at most\n")
    assert bundles == [["bundle", "--stack", "prod", "--app", "a", "--output", str(file)]]
    assert sorted(path.name for path in file.parent.glob("failed-*")) == ["failed-2.tar.gz", "failed-3.tar.gz"]


@pytest.mark.usefixtures("fleet")
def test_what_is_read_is_what_the_store_names_and_a_fleet_moved_by_hand_is_due(store: PrefixStore) -> None:
    news = inputs()
    olds = outs(news)
    pointers.count_manual_change(store)
    assert is_due(ROLLOUT, olds, news) is True
    assert is_due(ROLLOUT, outs(news), news) is False
    pointers.set_current(store, "older")
    found = ROLLOUT.read("a", olds)
    assert (found.id, found.outs) == ("a", olds | {"release": "older", "manual_changes": 1})
    assert is_due(ROLLOUT, found.outs or {}, news) is True


@pytest.mark.usefixtures("fleet")
def test_what_somebody_went_back_from_fails_the_check_and_so_the_preview(store: PrefixStore) -> None:
    olds, news = outs(inputs()), inputs(2)
    assert ROLLOUT.check(olds, news).failures == []
    rejection = pointers.Rejection(news["release"], "ada@host", "2026-01-01T00:00:00+00:00")
    pointers.reject(store, rejection)
    failures = [(each.property, each.reason) for each in ROLLOUT.check(olds, news).failures]
    assert failures == [("release", str(rejection))]
    assert ROLLOUT.check(olds, inputs()).failures == []


def test_what_an_application_left_goes_with_it_and_nothing_of_others(
    fleet: FakeFleet, store: PrefixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = MemorySecrets()
    monkeypatch.setattr(operator, "secrets", lambda *_: kept)  # pyright: ignore
    whole: MemoryStore = store._store  # pyright: ignore
    whole.write("ab/pointer", b"b1")
    left = ROLLOUT.create(inputs())
    assert kept.releases() == [release(1).id]
    # As the engine hands over pulumi.Output.all() of nothing.
    ROLLOUT.update(str(left.id), left.outs or {}, inputs(secrets=[]))
    assert fleet.secrets["a-1"] == {}
    ROLLOUT.delete(str(left.id), left.outs or {})
    assert (whole.files, kept.releases()) == ({"ab/pointer": b"b1"}, [])


@pytest.mark.usefixtures("fleet")
def test_a_rollout_that_was_replaced_leaves_the_store_to_its_successor(store: PrefixStore) -> None:
    old, new = (ROLLOUT.create(inputs(number)) for number in (1, 2))
    ROLLOUT.delete(str(old.id), old.outs or {})
    assert pointers.current(store) == release(2).id
    # As versions made it that did not know of owners.
    store.delete("owner")
    ROLLOUT.delete("a", new.outs or {})
    assert store.keys("") == []


def test_a_secret_is_made_once_and_each_is_another() -> None:
    first, second = (SECRET.create({}).outs or {} for _ in range(2))
    assert re.fullmatch("[0-9a-f]{64}", first["value"])
    assert first["value"] != second["value"]
    assert is_due(SECRET, first, {"value": None}) is False
