"""How a machine ships its logs: nothing is lost when a file is rotated or a call fails, and nothing grows for ever."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cloudwatch_logs
import log_source
import pytest
from aws_service import Refused
from hypothesis import given
from hypothesis import strategies as st
from log_source import Event, RotatedFile, SystemdJournal

NOW_MS = 1_764_000_000_000
WHOLE = 1 << 20


def line(number: int) -> str:
    """Return a line of the access log."""
    moment = datetime.fromtimestamp((NOW_MS / 1000) + number, UTC).isoformat(timespec="seconds")
    return json.dumps({"time": moment, "uri": f"/{number}"})


def append_lines(path: Path, *numbers: int, ago_s: float = 0) -> None:
    with path.open("a") as file:
        file.writelines(f"{line(number)}\n" for number in numbers)
    moment = time.time() - ago_s
    os.utime(path, (moment, moment))


class Kept:
    """Stands in for CloudWatch Logs, and keeps what it takes. refuses: errors of the next calls, None for none."""

    def __init__(self, *refuses: Exception | None) -> None:
        self.machine = "i-1"
        self.refuses = list(refuses)
        self.taken: list[str] = []
        self.asked: list[str] = []

    def ask(self, version: str, action: str, asked: dict[str, Any]) -> dict[str, Any]:
        assert version == "Logs_20140328"
        assert (asked["logGroupName"], asked["logStreamName"]) == ("group", "i-1")
        self.asked.append(action)
        if self.refuses and (error := self.refuses.pop(0)):
            raise error
        self.taken += [json.loads(each["message"])["uri"] for each in asked.get("logEvents", ())]
        return {}


def read_all(source: RotatedFile, position: dict[str, Any], limit: int = WHOLE) -> tuple[list[str], dict[str, Any]]:
    """Return all events from a position on, and the position after them."""
    found: list[str] = []
    while True:
        events, after = source.read(position, limit)
        found += [json.loads(event.message)["uri"] for event in events]
        if after == position:
            return found, position
        position = after


def test_a_file_is_read_on_from_where_it_was_by_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    source = RotatedFile(log)
    assert source.read({}, WHOLE) == ([], {})
    append_lines(log, 1, 2)
    assert source.read({}, WHOLE)[0] == [Event(NOW_MS + 1000, line(1)), Event(NOW_MS + 2000, line(2))]
    with log.open("a") as file:
        file.write(line(3)[:10])
    found, position = read_all(source, {})
    with log.open("a") as file:
        file.write(line(3)[10:] + "\n")
    more, position = read_all(source, position)
    assert (found, more) == (["/1", "/2"], ["/3"])
    # One that was emptied is read from its beginning, and a line without end in parts.
    log.write_text("x" * 25 + "\n")
    parts: list[str] = []
    for _ in range(4):
        events, position = source.read(position, 10)
        parts += [event.message for event in events]
    assert parts == ["x" * 10, "x" * 10, "x" * 5]


def test_a_rotated_file_is_read_to_its_end_before_the_next(tmp_path: Path) -> None:
    log, before = tmp_path / "access.log", tmp_path / "access.log.1"
    source = RotatedFile(log)
    append_lines(log, 1)
    found, position = read_all(source, {})
    append_lines(log, 2)
    log.rename(before)
    append_lines(log, 4)
    # Nginx still writes into the one that was renamed, until it has reopened.
    append_lines(before, 3)
    more, position = read_all(source, position)
    assert found + more == ["/1", "/2", "/3"]
    append_lines(before, 5, 6, ago_s=log_source.QUIET_S + 1)
    assert read_all(source, position, len(line(5)) + 1)[0] == ["/5", "/6", "/4"]


@given(st.lists(st.sampled_from(["write", "rotate", "read"]), max_size=30), st.integers(min_value=60, max_value=400))
def test_however_writing_rotating_and_reading_mix_each_line_comes_once(
    tmp_path_factory: pytest.TempPathFactory, acts: list[str], limit: int
) -> None:
    """Check that each line comes once, as long as the log is read between two rotations."""
    folder = tmp_path_factory.mktemp("log")
    log, before = folder / "access.log", folder / "access.log.1"
    source, position, found, count = RotatedFile(log), dict[str, Any](), list[str](), 0
    append_lines(log)
    for act in [*acts, "read"]:
        if act == "write":
            count += 1
            append_lines(log, count)
        else:
            for path in (log, before):
                if path.exists():
                    append_lines(path, ago_s=log_source.QUIET_S + 1)
            more, position = read_all(source, position, limit)
            found += more
        if act == "rotate":
            log.rename(before)
            append_lines(log)
    assert found == [f"/{number + 1}" for number in range(count)]


def test_of_a_file_that_was_there_before_the_end_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_source, "FIRST_BYTES", 2 * len(line(7)) + 2)
    log = tmp_path / "access.log"
    append_lines(log, *range(1, 10))
    assert read_all(RotatedFile(log), {})[0] == ["/8", "/9"]


ENTRIES = [
    {"__CURSOR": "c1", "MESSAGE": "one", "PRIORITY": "6", "_SYSTEMD_UNIT": "app@blue.service"},
    {"__CURSOR": "c2", "MESSAGE": [0xC3, 0xBC, 0xFF], "PRIORITY": "3", "_SYSTEMD_UNIT": "app@blue.service"},
    {"__CURSOR": "c3", "MESSAGE": None, "_SYSTEMD_UNIT": "app@blue.service"},
    {"__CURSOR": "c4", "MESSAGE": "Started.", "_SYSTEMD_UNIT": "init.scope", "UNIT": "app-worker-mail@1.service"},
]


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for journalctl: print ENTRIES, and write its arguments to the file. The real one is in tests/e2e."""
    output, asked, program = tmp_path / "said", tmp_path / "asked", tmp_path / "journalctl"
    output.write_text("".join(json.dumps(each | {"__REALTIME_TIMESTAMP": f"{NOW_MS}123"}) + "\n" for each in ENTRIES))
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{asked}\ncat {output}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return asked


def test_the_journal_is_read_on_after_its_cursor_and_tells_units_and_how_bad_it_is(journalctl: Path) -> None:
    events, position = SystemdJournal(["app@blue", "app-worker-*"]).read({}, WHOLE)
    assert [json.loads(event.message) for event in events] == [
        {"unit": "app@blue", "priority": 6, "message": "one"},
        {"unit": "app@blue", "priority": 3, "message": "ü\ufffd"},
        {"unit": "app-worker-mail@1", "priority": 6, "message": "Started."},
    ]
    assert {event.time_ms for event in events} == {NOW_MS}
    assert position == {"cursor": "c4"}
    units = ["--unit=app@blue", "--unit=app-worker-*"]
    assert journalctl.read_text().splitlines()[-3:] == [*units, "--since=-1h"]
    # A part at a time.
    events, position = SystemdJournal(["app@blue", "app-worker-*"]).read({"cursor": "c0"}, 1)
    assert (len(events), position) == (1, {"cursor": "c1"})
    assert journalctl.read_text().splitlines()[-3:] == [*units, "--after-cursor=c0"]


@given(
    st.lists(
        st.tuples(st.integers(min_value=0, max_value=10 * 24 * 3_600_000), st.text(min_size=1, max_size=50)),
        max_size=60,
    ),
    st.integers(min_value=200, max_value=2000),
)
def test_batches_are_what_cloudwatch_takes_and_hold_every_event(found: Sequence[tuple[int, str]], limit: int) -> None:
    events = [Event(NOW_MS + ms, text) for ms, text in found]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloudwatch_logs, "BATCH_BYTES", limit)
        patch.setattr(cloudwatch_logs, "BATCH_EVENTS", 10)
        made = cloudwatch_logs.make_batches(events)
    every = [(each["timestamp"], each["message"]) for batch in made for each in batch]
    assert sorted(every) == sorted((event.time_ms, event.message) for event in events)
    assert every == sorted(every, key=lambda each: each[0])
    for batch in made:
        assert 1 <= len(batch) <= 10
        assert sum(len(each["message"].encode()) + 26 for each in batch) <= max(limit, 50 * 4 + 26)
        assert batch[-1]["timestamp"] - batch[0]["timestamp"] < 24 * 3_600_000


def test_a_message_that_is_too_long_is_cut_between_characters() -> None:
    (batch,) = cloudwatch_logs.make_batches([Event(NOW_MS, "x" + "ü" * 200_000)])
    assert batch[0]["message"] == "x" + "ü" * 124_999


def ship(tmp_path: Path, kept: Kept, position: dict[str, Any]) -> dict[str, Any]:
    source = RotatedFile(tmp_path / "access.log")
    state = cloudwatch_logs.PositionFile(tmp_path / "position.json")
    return cloudwatch_logs.ship_next_part(source, cloudwatch_logs.Stream("group", kept), state, position)  # pyright: ignore[reportArgumentType]


def test_a_position_moves_only_after_what_is_before_it_was_taken(tmp_path: Path) -> None:
    append_lines(tmp_path / "access.log", 1, 2)
    (tmp_path / "position.json").write_text('{"inode"')
    state = cloudwatch_logs.PositionFile(tmp_path / "position.json")
    kept = Kept(Refused("logs", 503, "{}"))
    with pytest.raises(Refused):
        ship(tmp_path, kept, state.load())
    assert state.load() == {}
    position = ship(tmp_path, kept, state.load())
    assert kept.taken == ["/1", "/2"]
    assert state.load() == position != {}
    ship(tmp_path, kept, state.load())
    assert kept.taken == ["/1", "/2"]


def test_a_line_that_will_never_be_taken_does_not_hold_up_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append_lines(tmp_path / "access.log", 1, 2, 3, 4)
    never = Refused("logs", 400, '{"__type": "InvalidParameterException", "message": "no"}')
    # All four, the first two, the first of these.
    kept = Kept(never, never, never)
    ship(tmp_path, kept, {})
    assert kept.taken == ["/2", "/3", "/4"]
    assert "a line was rejected: logs responded with 400" in capsys.readouterr().err


def test_a_stream_that_is_there_is_used_and_another_refusal_is_told() -> None:
    there = Refused("logs", 400, '{"__type": "ResourceAlreadyExistsException"}')
    denied = Refused("logs", 400, '{"__type": "com.amazonaws.logs#AccessDeniedException", "Message": "no"}')
    cloudwatch_logs.Stream("group", Kept(there)).ensure()  # pyright: ignore[reportArgumentType]
    with pytest.raises(Refused, match="AccessDenied") as error:
        cloudwatch_logs.Stream("group", Kept(denied)).ensure()  # pyright: ignore[reportArgumentType]
    assert error.value.code == "AccessDeniedException"
