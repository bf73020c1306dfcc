"""The rollout over a fake fleet: every failure at every phase, and what serves after it."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from platforms.transport import Result, Unreachable
from releases import lock, pointers
from releases.fleet import Fleet, Server
from releases.journal import entries
from releases.plan import batches
from releases.pointers import current
from releases.redaction import Redaction
from releases.rollout import RolloutError
from releases.status import ReleaseStatus
from releases.workers import report_ended_workers
from tests.unit.fake_fleet import NAMES, FakeFleet, MemoryStore, a_fleet_on, release, roll_out


def test_a_release_is_staged_everywhere_before_it_is_switched_anywhere() -> None:
    fleet = FakeFleet(MemoryStore())
    id_ = roll_out(fleet, 1)
    verbs = [verb for _, verb in fleet.calls]
    assert verbs == ["status"] * 3 + ["stage"] * 3 + ["switch"] * 3 + ["status"] * 3 + ["prune"] * 3
    assert (fleet.live, current(fleet.store)) == (dict.fromkeys(NAMES, id_), id_)
    assert fleet.secrets == {name: {"PASSWORD": "hunter2"} for name in NAMES}
    assert not any(b"hunter2" in content for content in fleet.store.files.values())


def test_a_server_that_is_silent_at_work_is_named_with_its_phase_and_how_long_it_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("releases.fleet.SILENCE_S", 0.05)
    lines: list[str] = []

    class Slow(FakeFleet):
        def exec(self, *arguments: Any, **options: Any) -> Result:
            time.sleep(0.15)
            options["on_line"]("building")
            return super().exec(*arguments, **options)

    server = Server("a-1", "a-1")
    fleet = Fleet("a", Slow(MemoryStore()), lines.append, first=server, start_timeout_s=1, drain_timeout_s=1)
    fleet.run(server, "stage", ["prune"], timeout_s=340)
    assert set(lines) == {"a-1: stage: at work for 0 s of at most 340 s", "a-1: building"}
    assert fleet.latest == {"a-1": "building"}


@pytest.mark.parametrize("verb", ["stage", "switch"])
def test_a_secret_that_a_failing_application_tells_is_taken_out_of_what_is_told_and_kept(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, _ = a_fleet_on(1)
    fleet.fails["a-2", verb] = "its last lines:\n    no database at postgres://app:hunter2@db, aHVudGVyMg=="
    with pytest.raises(RolloutError, match=r"no database at postgres://app:\[removed\]@db, \[removed\]"):
        roll_out(fleet, 2)
    assert "hunter2" not in capsys.readouterr().out
    assert not any(b"hunter2" in content for content in fleet.store.files.values())


def test_what_a_machine_says_changes_nothing_of_the_operators_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    fleet, _ = a_fleet_on(1)
    fleet.fails["a-2", "stage"] = "its last lines:\n    \x1b[31mKeyError\x9b2J\t1\r\x00"
    with pytest.raises(RolloutError) as failed:
        roll_out(fleet, 2)
    assert "\n    \\x1b[31mKeyError\\x9b2J\t1\\x0d\\x00" in str(failed.value)
    report = str(failed.value) + capsys.readouterr().out + "".join(map(str, fleet.store.files.values()))
    assert not re.search(r"[\x1b\x9b\x00\r]", report)


@pytest.mark.parametrize("server", NAMES)
@pytest.mark.parametrize(
    ("verb", "failure", "message"),
    [
        ("status", Unreachable("no route"), "reach: unreachable: no route"),
        ("stage", "the module does not import", "stage: the module does not import"),
        ("stage", TimeoutError(), "stage: `stage {id}` did not finish in 50 s"),
        ("stage", Unreachable("gone"), "stage: unreachable: gone"),
    ],
)
def test_a_failure_before_the_switch_switches_nothing_and_names_server_and_phase(
    server: str, verb: str, failure: str | Exception, message: str
) -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails[server, verb] = failure
    with pytest.raises(RolloutError) as error:
        roll_out(fleet, 2)
    assert f"{server}, {message.format(id=release(2).id)}" in str(error.value)
    assert f"release {old} still serves" in str(error.value)
    assert fleet.did("switch") == []
    assert fleet.live == dict.fromkeys(NAMES, old)
    assert current(fleet.store) == old


def test_an_unreachable_server_that_is_allowed_is_left_out_and_the_pointer_waits_for_it() -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails["a-2", "status"] = Unreachable("no route")
    new = roll_out(fleet, 2, allow_unreachable=1)
    assert fleet.live == {"a-1": new, "a-2": old, "a-3": new}
    assert current(fleet.store) == new
    assert sorted(fleet.did("stage")) == ["a-1", "a-3"]


@pytest.mark.parametrize(
    ("away", "allowed", "message"), [(2, 1, r"(?s)a-1, reach.*a-2, reach"), (3, 3, "no server can be reached")]
)
def test_more_unreachable_servers_than_allowed_or_none_left_switch_nothing(
    away: int, allowed: int, message: str
) -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails = {(name, "status"): Unreachable("no route") for name in NAMES[:away]}
    with pytest.raises(RolloutError, match=message):
        roll_out(fleet, 2, allow_unreachable=allowed)
    assert (fleet.live, current(fleet.store)) == (dict.fromkeys(NAMES, old), old)


@pytest.mark.parametrize(
    ("why", "message"),
    [
        ("no memory", ": a-1, stage: no disk\na-3, stage: no memory\n"),
        ("no disk", "^[a-z]+: a-1, a-3, stage: no disk\n"),
    ],
)
def test_every_server_that_fails_to_stage_is_in_the_error_and_equal_causes_once(why: str, message: str) -> None:
    fleet, _ = a_fleet_on(1)
    fleet.fails = {("a-1", "stage"): "no disk", ("a-3", "stage"): why}
    with pytest.raises(RolloutError, match=message):
        roll_out(fleet, 2)


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("failure", ["GET /healthz was not 200", TimeoutError(), Unreachable("gone")])
def test_a_failing_switch_takes_the_servers_before_it_back(failing: int, failure: str | Exception) -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails[NAMES[failing], f"switch {release(2).id}"] = failure
    with pytest.raises(RolloutError, match=NAMES[failing]):
        roll_out(fleet, 2)
    assert fleet.live == dict.fromkeys(NAMES, old)
    assert current(fleet.store) == old
    there, back = fleet.did("switch")[: failing + 1], fleet.did("switch")[failing + 1 :]
    assert there == sorted(back) == NAMES[: failing + 1]


def test_a_server_that_cannot_go_back_is_named_as_well() -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails = {("a-2", f"switch {release(2).id}"): "broken", ("a-1", f"switch {old}"): Unreachable("lost")}
    message = r"(?s)a-2, switch: broken.*going back failed as well: a-1, switch: unreachable: lost"
    with pytest.raises(RolloutError, match=message):
        roll_out(fleet, 2)


def test_a_first_release_that_fails_leaves_no_pointer_and_the_mended_one_goes_on() -> None:
    fleet = FakeFleet(MemoryStore(), fails={("a-2", "stage"): "does not import"})
    with pytest.raises(RolloutError, match="no other release was there before"):
        roll_out(fleet, 1)
    assert current(fleet.store) is None
    fleet.fails.clear()
    id_ = roll_out(fleet, 2)
    assert fleet.live == dict.fromkeys(NAMES, id_)


def test_a_rollout_that_was_killed_after_one_switch_is_undone_by_the_next_that_fails_or_finished() -> None:
    fleet, old = a_fleet_on(1)
    new = release(2).id
    fleet.staged["a-3"].add(new)
    fleet.live["a-3"] = new
    fleet.fails["a-2", f"switch {new}"] = "broken"
    with pytest.raises(RolloutError, match="a-2, switch: broken"):
        roll_out(fleet, 2)
    assert fleet.live == dict.fromkeys(NAMES, old)
    fleet.live["a-1"] = new
    fleet.fails.clear()
    roll_out(fleet, 2)
    assert fleet.live == dict.fromkeys(NAMES, new)


def test_the_pointer_moves_only_after_the_last_server() -> None:
    fleet, old = a_fleet_on(1)
    seen: list[str | None] = []
    fleet.before = lambda _machine, _verb: seen.append(current(fleet.store))
    new = roll_out(fleet, 2)
    assert set(seen[:-6]) == {old}
    assert current(fleet.store) == new


def test_only_the_newest_releases_are_kept_on_servers_and_in_the_store() -> None:
    fleet = FakeFleet(MemoryStore())
    ids = [roll_out(fleet, number, keep_releases=2) for number in (1, 2, 3)]
    assert fleet.staged == {name: set(ids[1:]) for name in NAMES}
    assert {key.split("/")[1] for key in fleet.store.keys("releases/")} == set(ids[1:])


def test_a_server_that_cannot_prune_does_not_fail_the_release() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.fails["a-1", "prune"] = "busy"
    id_ = roll_out(fleet, 2)
    assert current(fleet.store) == id_


def test_the_journal_says_who_did_what_and_how_it_ended() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.fails["a-2", f"switch {release(2).id}"] = "broken"
    with pytest.raises(RolloutError):
        roll_out(fleet, 2)
    lines = [json.loads(line) for line in fleet.store.files[fleet.store.keys("journal/")[-1]].splitlines()]
    events = "begin, published, staged, switched, switch failed, went back, went back, failed"
    assert ", ".join(line["event"] for line in lines) == events
    assert (lines[0]["release"], lines[0]["revision"]) == (release(2).id, "abc1234")
    assert "@" in lines[0]["who"]
    assert "a-2, switch: broken" in lines[-1]["why"]


def test_a_rollout_whose_process_was_ended_is_interrupted_in_the_journal_in_words() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.fails["a-1", "stage"] = RuntimeError("cannot schedule new futures after interpreter shutdown")
    with pytest.raises(RolloutError):
        roll_out(fleet, 2)
    entry = next(entries(fleet.store))
    assert (entry.result, entry.is_unfinished) == ("interrupted", True)
    assert entry.why == "the command was ended while it was running; run the same command again"


def test_one_server_is_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    id_ = roll_out(FakeFleet(MemoryStore()), 1, names=NAMES[:1])
    assert f"release {id_} serves on 1 server\n" in capsys.readouterr().out


def test_a_fleet_without_servers_is_refused() -> None:
    with pytest.raises(RolloutError, match="no servers"):
        roll_out(FakeFleet(MemoryStore()), 1, names=[])


def test_the_first_server_goes_ahead_is_watched_and_the_others_follow_in_batches() -> None:
    names = [f"a-{number}" for number in range(1, 8)]
    fleet = FakeFleet(MemoryStore(), dict.fromkeys(names), {name: set[str]() for name in names})
    roll_out(fleet, 1, names=names)
    fleet.calls.clear()
    roll_out(fleet, 2, names=names, bake_s=5, batch_size=3)
    calls = [(name, verb) for name, verb in fleet.calls if verb in ("switch", "bake")]
    assert calls[:2] == [("a-1", "switch"), ("a-1", "bake")]
    assert sorted(calls[2:5]) == [(name, "switch") for name in names[1:4]]
    assert sorted(calls[5:]) == [(name, "switch") for name in names[4:]]


def test_the_first_release_has_no_canary_since_nothing_serves_yet() -> None:
    fleet = FakeFleet(MemoryStore())
    roll_out(fleet, 1, bake_s=5)
    assert (fleet.did("bake"), sorted(fleet.did("switch"))) == ([], NAMES)


def test_a_canary_that_falls_ill_goes_back_and_no_other_server_follows() -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails["a-1", "bake"] = "GET /healthz was 500 while it served"
    with pytest.raises(RolloutError, match="a-1, canary: GET /healthz was 500 while it served"):
        roll_out(fleet, 2, bake_s=5)
    assert fleet.live == dict.fromkeys(NAMES, old)
    assert set(fleet.did("switch")) == {"a-1"}


@pytest.mark.parametrize(
    ("servers", "size", "expected"),
    [
        (0, 1, []),
        (2, 1, [1, 1]),
        (5, 2, [2, 2, 1]),
        (9, "25%", [3, 3, 3]),
        (2, "50%", [2]),
        (2, "10%", [1, 1]),
        (4, 99, [4]),
    ],
)
def test_batches_are_as_large_as_set_and_never_empty(servers: int, size: int | str, expected: list[int]) -> None:
    made = batches([Server(str(number), "") for number in range(servers)], size)
    assert [len(batch) for batch in made] == expected


def test_the_release_task_runs_once_after_staging_and_before_any_switch_which_waits_for_its_success() -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails["a-1", "task"] = "`migrate` failed with exit code 3"
    with pytest.raises(RolloutError, match="a-1, release task: `migrate` failed with exit code 3"):
        roll_out(fleet, 2, task="migrate")
    assert (fleet.did("switch"), fleet.live) == ([], dict.fromkeys(NAMES, old))
    fleet.fails.clear()
    for times in (1, 0):
        fleet.calls.clear()
        roll_out(fleet, 2, task="migrate")
        assert fleet.did("task") == ["a-1"] * times
        verbs = [verb for _, verb in fleet.calls if verb in ("stage", "task", "switch")]
        assert verbs == ["stage"] * 3 + ["task"] * times + ["switch"] * 3


def test_a_release_task_before_the_proof_runs_on_the_first_server_before_any_other_stages() -> None:
    fleet, old = a_fleet_on(1)
    fleet.fails["a-1", "stage"] = "GET /healthz was not 200 in 60 s but 500 no such table"
    with pytest.raises(RolloutError, match=r"(?s)a-1, stage: GET .*\nhint: .*rollout\.task_before_proof"):
        roll_out(fleet, 2, task="migrate", task_before_proof=True)
    assert (fleet.did("stage"), fleet.live) == (["a-1"], dict.fromkeys(NAMES, old))
    fleet.fails.clear()
    fleet.calls.clear()
    roll_out(fleet, 2, task="migrate", task_before_proof=True)
    assert (fleet.with_task, sorted(fleet.did("stage")), fleet.did("task")) == (["a-1"], NAMES, [])
    assert fleet.did("stage")[0] == "a-1"


def test_a_release_that_was_proven_without_its_task_gets_it_before_the_switch() -> None:
    fleet, _ = a_fleet_on(1)
    fleet.staged["a-1"].add(release(2, "migrate").id)
    # A rollout that was killed may have switched a server.
    fleet.live["a-3"] = release(2, "migrate").id
    roll_out(fleet, 2, task="migrate", task_before_proof=True)
    assert (fleet.with_task, fleet.did("task")) == ([], ["a-1"])


def test_threads_that_a_fork_loses_are_told_with_the_setting_that_keeps_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = FakeFleet(MemoryStore())
    fleet.journal = "*** Starting uWSGI ***\nwarning: threads of the import end in workers: beat, queue\n"
    roll_out(fleet, 1)
    message = (
        "a: warning: the import of the application starts threads (beat, queue). The gateway forks its workers after "
    )
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith(message)] != []


def test_a_server_that_booted_meanwhile_is_taken_along() -> None:
    fleet, old = a_fleet_on(1)

    def boot(machine: str, verb: str) -> None:
        # While a-3 switches, on what the pointer names still.
        if (machine, verb) == ("a-3", "switch"):
            fleet.live["a-2"] = old

    fleet.before = boot
    new = roll_out(fleet, 2)
    assert fleet.live == dict.fromkeys(NAMES, new)


def test_a_rejected_release_is_refused_with_who_when_and_how_to_allow_it() -> None:
    fleet, old = a_fleet_on(1)
    bad = release(2).id
    pointers.reject(fleet.store, pointers.Rejection(bad, "ada@desk", "2026-11-24T20:00:00+00:00"))
    with pytest.raises(RolloutError, match=rf"rejected by ada@desk at 2026-11-24T20:00:00.*fleet allow {bad}"):
        roll_out(fleet, 2)
    assert fleet.calls == []
    assert pointers.allow(fleet.store, bad)
    assert roll_out(fleet, 2) == current(fleet.store) != old


def test_a_second_rollout_is_refused_with_who_is_at_work_since_when() -> None:
    fleet, _ = a_fleet_on(1)
    with (
        lock.acquire(fleet.store, "release abc", print),
        pytest.raises(RolloutError, match=r"is at work .* since .*release abc"),
    ):
        roll_out(fleet, 2)
    assert fleet.did("status") == []
    roll_out(fleet, 2)
    assert fleet.store.read(lock.KEY) is None


def test_the_lock_of_a_process_that_is_gone_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, _ = a_fleet_on(1)
    with monkeypatch.context() as patch:
        # Above what Linux gives out (2^22).
        patch.setattr("os.getpid", lambda: 2**22 + 1)
        # Named, or it would be left at once.
        killed = lock.acquire(fleet.store, "killed", print)
        killed.__enter__()
    roll_out(fleet, 2)


def test_a_rollout_whose_pulumi_was_killed_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    fleet, _ = a_fleet_on(1)
    left = lock.acquire(fleet.store, "release abc", print)
    left.__enter__()
    # Above what Linux gives out (2^22).
    held: dict[str, Any] = json.loads(fleet.store.read(lock.KEY) or b"")
    assert held["started_by"][0] == os.getppid()
    fleet.store.write(lock.KEY, json.dumps(held | {"started_by": [os.getppid(), 2**22 + 1]}).encode())
    ending = threading.Timer(1.5, lambda: left.__exit__(None, None, None))
    ending.start()
    roll_out(fleet, 2)
    ending.join()
    message = f"process {os.getpid()} is not done yet (release abc), though who started it is gone; waiting"
    assert capsys.readouterr().out.count(message) == 1


def test_the_lock_of_another_host_is_taken_over_only_when_it_is_silent() -> None:
    fleet, _ = a_fleet_on(1)
    other = {"who": "ada@desk", "since": "then", "what": "release abc", "host": "desk", "process": 1, "token": "t"}
    # Three that did not arrive are a slow store.
    for missed in (0, 3):
        beat = time.time() - missed * lock.HEARTBEAT_S
        fleet.store.write(lock.KEY, json.dumps({**other, "beat": beat}).encode())
        with pytest.raises(RolloutError, match="ada@desk is at work"):
            roll_out(fleet, 2)
    fleet.store.write(lock.KEY, json.dumps({**other, "beat": time.time() - lock.LEASE_S - 1}).encode())
    roll_out(fleet, 2)


def test_of_eight_that_want_the_lock_at_once_one_gets_it() -> None:
    store, start_s, tried = MemoryStore(), threading.Barrier(8), threading.Barrier(8)

    def is_mine(number: int) -> bool:
        start_s.wait(5)
        try:
            with lock.acquire(store, str(number), print):
                tried.wait(5)
        except lock.Locked:
            tried.wait(5)
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(is_mine, range(8))) == 1


def test_a_worker_that_keeps_ending_is_told_when_its_release_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    unit, output = "app-worker-mail@1.service", list[str]()

    class Ending:
        def exec(self, machine: str, command: Sequence[str], **_: Any) -> Result:
            if command[0] == "journalctl":
                assert f"_SYSTEMD_UNIT={unit}" in command
                return Result(0, "no such worker queue\n" if machine == "a-1" else "")
            restarts = {"app@blue.service": 1, unit: 2} if machine != "a-3" else {}
            status = ReleaseStatus(live=None, slots={}, staged=[], socket="active", restarts=restarts)
            return Result(0, status.model_dump_json())

    servers = [Server(name, name) for name in NAMES]
    # "worker" is a secret as well, by chance: only what machines say is cleaned.
    clean = Redaction(["queue", "worker"]).clean
    fleet = Fleet("a", Ending(), output.append, first=servers[0], start_timeout_s=9, drain_timeout_s=9, clean=clean)
    report_ended_workers(fleet, servers, b'{"workers": {}}')
    assert (output, waited) == ([], [])
    report_ended_workers(fleet, servers, b'{"workers": {"mail": {}}}')
    message = "worker mail@1 has ended 2 times since it was started with this release; it is started again for ever."
    assert output == [
        f"a: warning: a-1: {message} Its last lines:\n    no such [removed] [removed]",
        f"a: warning: a-2: {message} Its last lines:\n    (it logged nothing)",
    ]
    assert waited == [5.0]
