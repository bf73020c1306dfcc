"""`./fleet top`: what is kept between two queries, how it is drawn, and how it ends."""

from __future__ import annotations

import os
import pty
import re
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner, Result

from commands import top
from commands.__main__ import app
from commands.history import ASCII_BARS, BARS, Cell, History, sparkline
from releases.status import Row, TrafficSeries
from tests.unit.fake_stack import ADDRESSES, FakeStack, make

TRAFFIC = "/usr/local/lib/wsgi-fleet/traffic.py"
# Divisible by every bucket of the tests.
NOW = 1_800_000_000.0
ONE, TWO = ADDRESSES.values()


def series(whole: list[Row], now_s: float = NOW, first_s: float = NOW - 300, **servers: list[Row]) -> TrafficSeries:
    rows = {ONE: servers.get("one", []), TWO: servers.get("two", [])}
    return TrafficSeries(now_s=now_s, first_s=first_s, begins_s=first_s, bucket_s=5, whole=whole, apps={}, servers=rows)


def fleet(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    made = make(monkeypatch)
    rows: list[Row] = [(number, 10 * number, 0, 2.0, 4.0) for number in range(60)]
    failed: list[Row] = [(59, 30, 3, 2.0, 1234.5)]
    answer = series([*rows[:59], (59, 620, 3, 2.0, 1234.5)], one=rows, two=failed).model_dump_json()
    made.machines.answers["m-balancer", TRAFFIC] = answer
    return made


@pytest.mark.parametrize("end", range(5))
def test_a_second_query_takes_the_place_of_what_was_known_and_what_is_too_old_goes(end: int) -> None:
    history = History(5, 20)
    history.add(series([(56, 5, 0, 1.0, 1.0), (59, 10, 1, 1.0, 9.0)]))
    assert history.cells("", 4) == [Cell(1.0, 0, 1.0), Cell(), Cell(), Cell(2.0, 1, 9.0)]
    assert history.newest("") == Cell(2.0, 1, 9.0)
    # The bucket that was not over comes again, whole; the one that is not over now is left out.
    history.add(series([(0, 15, 1, 1.0, 8.0), (1, 20, 0, 1.0, 7.0), (2, 99, 0, 1.0, 7.0)], NOW + 5 + end, NOW - 5))
    assert history.cells("", 4) == [Cell(), Cell(), Cell(3.0, 1, 8.0), Cell(4.0, 0, 7.0)]
    assert history.cells("10.9.9.9", 4) == [Cell()] * 4


@given(now=st.integers(0, 1000), width=st.integers(1, 70))
def test_of_any_width_at_most_so_many_cells_have_all_errors_of_the_window_and_do_not_move(now: int, width: int) -> None:
    history, later = History(5, 300), History(5, 300)
    for each, now_s in ((history, NOW + now), (later, NOW + now + 5)):
        first_s = (now_s - 300) // 5 * 5
        rows: list[Row] = [(n, 5, int((first_s / 5 + n) % 7 == 0), 1.0, (first_s / 5 + n) % 11) for n in range(60)]
        each.add(series(rows, now_s, first_s))
    cells, next_ = history.cells("", width), later.cells("", width)
    assert 1 <= len(cells) <= width
    # All but what left at the one end and came at the other.
    assert any(cells[shift + 1 : -1] == next_[1 : len(cells) - 1 - shift] for shift in (0, 1))


@pytest.mark.parametrize(
    ("values", "most", "bars"),
    [
        ([0, 1, 4, 8, None], 8, " ▁▄█ "),
        ([0.001, 8], 8, "▁█"),
        ([0, 0], 0, "  "),
        ([9], 8, "█"),
        ([], 0, ""),
    ],
)
def test_a_bar_shows_the_share_of_the_highest_and_whatever_is_not_nothing(
    values: list[float | None], most: float, bars: str
) -> None:
    assert sparkline(values, most) == bars
    assert sparkline(values, most, is_ascii=True) == bars.translate(str.maketrans(BARS, ASCII_BARS))


@pytest.mark.usefixtures("stack")
def test_in_a_pipe_it_prints_once_within_80_columns() -> None:
    result = fleet("top")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert "the last 5 min; req/s and p99 of the last 5 s, and all 5xx" in lines
    table = lines[lines.index("the last 5 min; req/s and p99 of the last 5 s, and all 5xx") + 2 :]
    assert all(cell_len(line) <= 80 for line in table)
    assert re.split(r"\s{2,}", table[0].strip()) == ["server", "req/s", "p99 ms", "5xx"]
    numbers = {line.split()[0]: re.findall(r"(?<=\s)[\d.]+(?=\s|$)", line) for line in table[1:]}
    assert numbers == {
        "hello-1": ["118.0", "4.0", "0"],
        "hello-2": ["6.0", "1234", "3"],
        "all": ["124.0", "1234", "3"],
    }
    assert re.search("▁+▂+▃+▄+▅+▆+▇+█", table[1])
    assert "\x1b" not in result.output


def test_of_one_application_the_sum_has_no_request_of_another(stack: FakeStack) -> None:
    own: list[Row] = [(59, 20, 1, 2.0, 4.0)]
    answer = series([(59, 620, 3, 2.0, 1234.5)], one=own).model_copy(update={"apps": {"hello": own}})
    stack.machines.answers["m-balancer", TRAFFIC] = answer.model_dump_json()
    for arguments, numbers in (((), ["124.0", "1234", "3"]), (("--app", "hello"), ["4.0", "4.0", "1"])):
        line = next(line for line in fleet("top", *arguments).output.splitlines() if line.startswith("all "))
        assert re.findall(r"(?<=\s)[\d.]+(?=\s|$)", line) == numbers


def test_only_what_is_new_is_asked_for_again(stack: FakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([False, False, True])
    monkeypatch.setattr(top, "console", lambda: Console(force_terminal=True, width=80, height=24))
    monkeypatch.setattr(top, "REFRESH_S", 0)

    class Keys:
        def __enter__(self) -> Callable[[float], bool]:
            def wait(_seconds: float) -> bool:
                return next(waits)

            return wait

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(top, "keys", Keys)
    assert fleet("top").exit_code == 0
    words = [command for command in stack.machines.asked("m-balancer") if "series" in command]
    assert words == [f"{TRAFFIC} series 305 0 5", *[f"{TRAFFIC} series 10 0 5"] * 2]


def test_an_hour_is_asked_for_in_buckets_that_one_answer_has_room_for(stack: FakeStack) -> None:
    fleet("top", "--minutes", "60")
    assert f"{TRAFFIC} series 3618 0 18" in stack.machines.asked("m-balancer")


def test_a_log_that_begins_later_is_named(stack: FakeStack) -> None:
    late = series([], first_s=NOW - 300).model_copy(update={"begins_s": NOW - 40})
    stack.machines.answers["m-balancer", TRAFFIC] = late.model_dump_json()
    assert "and all 5xx; the log begins 40 s ago" in fleet("top").output


def test_a_load_balancer_of_aws_has_no_log_to_read(stack: FakeStack) -> None:
    stack.output["balancer"] = None
    result = fleet("top")
    assert result.exit_code == 2
    assert "there is no balancer machine, because balancer.kind is alb; CloudWatch has its traffic" in result.output


def test_a_balancer_that_does_not_tell_is_an_error(stack: FakeStack) -> None:
    stack.machines.answers["m-balancer", TRAFFIC] = (127, "No such file or directory")
    result = fleet("top")
    assert result.exit_code == 1
    assert f"error: the balancer: `{TRAFFIC}` failed: No such file or directory" in " ".join(result.output.split())


def test_more_servers_than_rows_are_counted() -> None:
    screen = Console(force_terminal=True, width=80, height=12)
    assert top._rows_that_fit(screen) == 2  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(("typed", "ends"), [(b"q", True), (b"xQ", True), (b"x", False), (b"", False)])
def test_q_ends_it_at_once_and_other_keys_do_not(typed: bytes, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    main, other = pty.openpty()
    with open(other) as terminal:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", terminal)
        start_s = time.monotonic()
        with top.keys() as wait:
            threading.Timer(0.05, lambda: os.write(main, typed)).start()
            assert wait(0.3) is ends
        assert (time.monotonic() - start_s < 0.25) is ends
    os.close(main)
