"""What the balancer's access log says of a time, through time or of groups of servers, whatever happens to the log."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import balancer_status
import pytest
import site_state
import traffic
from hypothesis import given
from hypothesis import strategies as st

from releases.status import TrafficGroups, TrafficSeries
from tests.unit.test_balancer_status import NOW, ONE, TWO, line, write_log


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the state of a balancer that has one server of each of two applications."""
    monkeypatch.setattr(site_state, "STATE", tmp_path / "site.json")
    one = {"protocol": "http", "health_path": "/", "health_host": "", "probe": "/"}
    upstreams: Any = {"app_shop": {"servers": {ONE: ""}, **one}, "app_my_blog": {"servers": {TWO: ""}, **one}}
    site_state.State({"parts": [], "upstreams": upstreams, "https": False}, [], []).write()


def series(log: Path, from_s: float = 60, until_s: float = 0, bucket_s: int = 10) -> dict[str, Any]:
    return traffic.series(from_s, until_s, bucket_s, now_s=NOW, logs=[log])


def test_requests_are_counted_in_their_bucket_for_the_whole_their_application_and_their_server(tmp_path: Path) -> None:
    failed = line(5, f"{TWO}:8000", "500", "0.200", status=500, seconds=0.2)
    found = series(write_log(tmp_path / "log", line(61), line(55), line(51), failed))
    assert (found["first_s"], found["bucket_s"], found["now_s"]) == (NOW - 60, 10, NOW)
    assert found["whole"] == [(0, 2, 0, 11.0, 11.0), (5, 1, 1, 200.0, 200.0)]
    assert found["apps"] == {"shop": [(0, 2, 0, 11.0, 11.0)], "my_blog": [(5, 1, 1, 200.0, 200.0)]}
    assert found["servers"] == {ONE: [(0, 2, 0, 10.0, 10.0)], TWO: [(5, 1, 1, 200.0, 200.0)]}


def test_a_request_that_a_second_server_saved_is_one_good_request_of_its_application(tmp_path: Path) -> None:
    saved = line(5, f"{ONE}:8000, {TWO}:8000", "502, 200", "0.000, 0.020", "-, 0.020")
    found = series(write_log(tmp_path / "log", saved))
    assert found["apps"] == {"my_blog": [(5, 1, 0, 11.0, 11.0)]}
    assert found["servers"] == {ONE: [(5, 1, 1, None, None)], TWO: [(5, 1, 0, 20.0, 20.0)]}


def test_the_buckets_of_two_calls_fit_together_and_a_long_time_has_wider_ones(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", line(30))
    assert series(log, from_s=57)["first_s"] == series(log, from_s=60)["first_s"] == NOW - 60
    found = series(log, from_s=86_400, bucket_s=1)
    assert found["bucket_s"] == 362
    assert found["whole"][0][0] < traffic.MAX_BUCKETS


def test_only_the_busiest_servers_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "MAX_SERVERS", 1)
    found = series(write_log(tmp_path / "log", line(3), line(2, f"{TWO}:8000"), line(1, f"{TWO}:8000")))
    assert list(found["servers"]) == [TWO]


def test_without_a_site_or_a_log_there_is_nothing(tmp_path: Path) -> None:
    site_state.STATE.write_text("{")
    assert series(write_log(tmp_path / "log", line(5)))["apps"] == {}
    found = series(tmp_path / "none")
    assert (found["whole"], found["servers"], found["begins_s"]) == ([], {}, NOW + 1)


def test_each_server_of_a_group_counts_in_a_time_of_its_own(tmp_path: Path) -> None:
    ago = [line(each, f"{address}:8000") for each in range(50, 0, -1) for address in (ONE, TWO)]
    log = write_log(tmp_path / "log", *ago, line(1, f"{ONE}:8000", "500", status=500))
    wanted = {"new": {ONE: (10, 0), TWO: (5, 0)}, "old": {ONE: (40, 21)}, "none": {"10.9.9.9": (50.0, 0.0)}}
    found = traffic.groups(wanted, now_s=NOW, logs=[log])
    assert found["new"]["all"] == (16, 1, 10.0, 10.0)
    assert found["new"]["servers"] == {ONE: (11, 1, 10.0, 10.0), TWO: (5, 0, 10.0, 10.0)}
    assert found["old"] == {"all": (20, 0, 10.0, 10.0), "servers": {ONE: (20, 0, 10.0, 10.0)}}
    assert found["none"] == {"all": (0, 0, None, None), "servers": {}}


def test_a_log_that_is_rotated_while_it_is_opened_is_read_once(tmp_path: Path) -> None:
    newest = write_log(tmp_path / "access.log", line(5))
    os.link(newest, tmp_path / "access.log.1")
    logs = [tmp_path / "access.log.1", newest]
    assert len(list(traffic.read_period(NOW - 60, NOW, logs).lines)) == 1


def test_lines_of_both_logs_are_read_in_their_order_and_what_is_no_line_is_left_out(tmp_path: Path) -> None:
    older = write_log(tmp_path / "access.log.1", line(50), line(30), end='\n{"time":"","status":0,"seconds":0}\n[]\n')
    newer = write_log(tmp_path / "access.log", line(20), end='\n{"time":"2026-')
    period = traffic.read_period(NOW - 40, NOW, [older, newer])
    assert [NOW - time_s for time_s, _ in period.lines] == [30, 20]
    assert period.begins_s == NOW - 40
    period = traffic.read_period(NOW - 90, NOW, [older, newer])
    assert (len(list(period.lines)), period.begins_s) == (3, NOW - 50)


def test_of_a_log_that_is_too_long_the_newest_is_read_and_from_when_on_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path / "log", *(line(ago) for ago in range(400, 0, -1)))
    monkeypatch.setattr(traffic, "MAX_BYTES", log.stat().st_size // 10)
    period = traffic.read_period(NOW - 500, NOW, [log])
    times = [time_s for time_s, _ in period.lines]
    assert 38 <= len(times) <= 40
    assert times[-1] == NOW - 1
    assert times[0] <= period.begins_s <= times[0] + 2


@given(
    agos=st.lists(st.integers(0, 120), max_size=80),
    time_=st.tuples(st.integers(1, 130), st.integers(0, 130)),
    block=st.integers(300, 3000),
    cut=st.integers(0, 80),
)
def test_however_the_log_is_searched_every_line_of_the_time_is_found(
    agos: list[int], time_: tuple[int, int], block: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, (from_s, until_s) = tmp_path_factory.mktemp("log"), time_
    lines = [line(ago) for ago in sorted(agos)[::-1]]
    # As two processes of Nginx may write them.
    lines[1:3] = lines[1:3][::-1] if len(lines) > 2 and lines[1]["time"] == lines[2]["time"] else lines[1:3]
    logs = [write_log(folder / "access.log.1", *lines[:cut]), write_log(folder / "access.log", *lines[cut:])]
    traffic.BLOCK, kept = block, traffic.BLOCK
    try:
        found = [round(NOW - time_s) for time_s, _ in traffic.read_period(NOW - from_s, NOW - until_s, logs).lines]
    finally:
        traffic.BLOCK = kept
    assert sorted(found) == sorted(ago for ago in agos if until_s < ago <= from_s)


def run(monkeypatch: pytest.MonkeyPatch, log: Path, arguments: Sequence[str], stdin: str = "") -> None:
    monkeypatch.setattr(traffic.read_period, "__defaults__", ([log],))
    for function in (traffic.series, traffic.groups):
        monkeypatch.setattr(function, "__kwdefaults__", {"logs": [log]})
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    traffic.main(arguments, NOW)


def test_it_prints_the_keys_that_are_typed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "log", line(5))
    run(monkeypatch, log, ["series", "60", "0", "10"])
    found = TrafficSeries.model_validate_json(capsys.readouterr().out, extra="forbid")
    assert found.whole == found.apps["shop"] == [(5, 1, 0, 11.0, 11.0)]
    run(monkeypatch, log, ["groups"], json.dumps({"new": {ONE: [10, 0]}}))
    groups = TrafficGroups.model_validate_json(capsys.readouterr().out, extra="forbid")
    assert groups.groups["new"].all == groups.groups["new"].servers[ONE] == (1, 0, 10.0, 10.0)
    with pytest.raises(SystemExit, match="error: Prints requests"):
        traffic.main(["serie"], NOW)


def test_a_line_of_apaches_log_that_it_could_not_read_is_left_out_of_the_last_minute(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", line(5), {"time": "", "status": 0, "seconds": 0, "problem": "?"})
    lines, _ = balancer_status.read_recent(NOW, [log])
    assert len(list(lines)) == 1
