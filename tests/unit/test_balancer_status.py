"""What the balancer's access log says of the last minute: whose answers, how many, how slow, and which were errors."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import balancer_status
import pytest
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 24, 20, 0, 0, tzinfo=UTC).timestamp()
ONE, TWO = "10.0.0.1", "10.0.0.2"


def line(
    ago_s: float = 1,
    upstream: str = f"{ONE}:8000",
    upstream_status: str = "200",
    response_s: str = "0.010",
    header_s: str | None = None,
    *,
    status: int = 200,
    seconds: float = 0.011,
) -> dict[str, Any]:
    """Return a line as nginx.conf's log_format writes it, ago_s seconds old."""
    return {
        "time": datetime.fromtimestamp(NOW - ago_s, UTC).isoformat(timespec="seconds"),
        "status": status,
        "seconds": seconds,
        "upstream": upstream,
        "upstream_status": upstream_status,
        "header_s": response_s if header_s is None else header_s,
        "response_s": response_s,
    }


def write_log(path: Path, *lines: dict[str, Any], end: str = "\n") -> Path:
    path.write_text("\n".join(map(json.dumps, lines)) + end)
    os.utime(path, (NOW, NOW))
    return path


def test_requests_are_counted_for_the_server_that_answered_them() -> None:
    lines = [line(), line(), line(upstream=f"{TWO}:8000", upstream_status="500", status=500, response_s="0.200")]
    report = balancer_status.measure(lines, 60)
    assert report["upstreams"] == {
        ONE: {"requests": 2, "requests_per_s": 0.03, "errors_5xx": 0, "p50_ms": 10.0, "p99_ms": 10.0},
        TWO: {"requests": 1, "requests_per_s": 0.02, "errors_5xx": 1, "p50_ms": 200.0, "p99_ms": 200.0},
    }
    assert (report["requests"], report["requests_per_s"], report["errors_5xx"], report["p50_ms"]) == (3, 0.05, 1, 11.0)


@pytest.mark.parametrize("between", [", ", " : "])
def test_a_request_that_a_second_server_saved_is_an_error_of_the_first_alone(between: str) -> None:
    saved = line(
        upstream=f"{ONE}:8000{between}{TWO}:8000",
        upstream_status=f"502{between}200",
        response_s=f"0.000{between}0.020",
        header_s=f"-{between}0.020",
    )
    report = balancer_status.measure([saved], 60)
    assert report["errors_5xx"] == 0
    assert {address: (each["requests"], each["errors_5xx"]) for address, each in report["upstreams"].items()} == {
        ONE: (1, 1),
        TWO: (1, 0),
    }
    # An attempt that brought no answer has no time of an answer.
    assert (report["upstreams"][ONE]["p50_ms"], report["upstreams"][TWO]["p50_ms"]) == (None, 20.0)


def test_what_no_server_answered_counts_for_the_balancer_only() -> None:
    alone = line(upstream="", upstream_status="", response_s="", status=503, seconds=0.0)
    nobody = line(upstream="app_hello", upstream_status="502", response_s="0.000", header_s="-", status=502)
    report = balancer_status.measure([alone, nobody], 60)
    assert (report["requests"], report["errors_5xx"], report["upstreams"]) == (2, 2, {})


def test_a_request_with_words_that_are_no_utf_8_counts_as_any_other() -> None:
    text = json.dumps({**line(), "agent": "MARK"}).encode().replace(b"MARK", b"caf\xe9")
    assert balancer_status.parse_line(text) == {**line(), "agent": "caf\ufffd"}


def test_nothing_has_no_percentile() -> None:
    report = balancer_status.measure([], 60)
    assert (report["window_s"], report["requests"], report["p50_ms"], report["p99_ms"]) == (60, 0, None, None)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300), st.integers(1, 100))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(seconds: list[float], percent: int) -> None:
    value = balancer_status.percentile_ms(seconds, percent)
    rounded = sorted(round(each * 1000, 1) for each in seconds)
    assert value in rounded
    assert sum(each <= value for each in rounded) >= len(rounded) * percent / 100
    assert sum(each < value for each in rounded) < len(rounded) * percent / 100


def test_only_the_last_minute_counts_also_of_the_log_before_and_what_is_not_whole_does_not(tmp_path: Path) -> None:
    older = write_log(tmp_path / "access.log.1", line(61), line(60))
    newer = write_log(tmp_path / "access.log", line(20), end='\n{"time":"2026-')
    for logs, times in (([older, newer], ["19:59:00", "19:59:40"]), ([tmp_path / "none"], [])):
        lines, window_s = balancer_status.read_recent(NOW, logs)
        assert ([each["time"][-14:-6] for each in lines], window_s) == (times, 60.0)


def test_of_a_log_that_is_too_long_the_seconds_that_were_read_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path / "access.log", *(line(ago) for ago in range(50, 0, -1)))
    size = log.stat().st_size // 50
    monkeypatch.setattr(balancer_status, "FIRST_BYTES", size * 2)
    with log.open("rb") as file:
        begins = balancer_status.seek_since(file, NOW - 60, limit=size * 10)
        read = len(file.read().splitlines())
    assert NOW - begins < 12
    assert read <= 33


@given(agos=st.lists(st.integers(0, 120), max_size=60), first=st.integers(50, 2000))
def test_however_the_tail_is_cut_every_line_of_the_minute_is_found(
    agos: list[int], first: int, tmp_path_factory: Any
) -> None:
    log = write_log(tmp_path_factory.mktemp("log") / "access.log", *(line(ago) for ago in sorted(agos)[::-1]))
    balancer_status.FIRST_BYTES, kept = first, balancer_status.FIRST_BYTES
    try:
        lines, _ = balancer_status.read_recent(NOW, [log])
        assert len(list(lines)) == sum(ago <= 60 for ago in agos)
    finally:
        balancer_status.FIRST_BYTES = kept
