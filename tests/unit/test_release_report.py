"""`./fleet report`: the page of a release says what happened, of every kind of journal, and no text in it is HTML."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from commands.__main__ import app
from commands.release_report import spans_of
from releases.journal import PREFIX, read_movement
from releases.status import Row, TrafficSeries
from rendering.release_report import Chart, Line, ReleaseReport, Span, nice, render_report, timeline_picture
from tests.unit.fake_fleet import NAMES, MemoryStore, a_fleet_on, release, roll_out
from tests.unit.fake_stack import ADDRESSES, NEW, OLD, FakeStack, make

TRAFFIC = "/usr/local/lib/wsgi-fleet/traffic.py"
HOSTILE = (
    "</pre><script src='http://evil.example/x.js'>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x1b[31m\x00"
)


class Seen(HTMLParser):
    """Reads a page back: its tags, its text, and every attribute that loads or runs something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self.loads = "", list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "
        active = [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href") or name.startswith("on")]
        self.loads += active

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.text += data


def journal(stack: FakeStack, *events: dict[str, Any], release: str = NEW) -> None:
    """Write the journal of a release that began 100 s ago."""
    head = {
        "release": release,
        "app": "hello",
        "who": "ann@desk",
        "when": "2026-11-30T10:00:00+00:00",
        "revision": "abc",
    }
    lines = [events[0] | head, *events[1:]]
    key = f"{PREFIX}{datetime.fromtimestamp(time.time() - 100, UTC):%Y%m%dT%H%M%S.%f}-{release}.jsonl"
    stack.store.write(key, "\n".join(map(json.dumps, lines)).encode())


NOW_EVENTS: list[dict[str, Any]] = [
    {"event": "begin", "after_s": 0, "before": OLD, "servers": list(ADDRESSES)},
    {"event": "published", "after_s": 1},
    {"event": "staged", "after_s": 9, "spans": {"hello-1": [1, 8], "hello-2": [5, 9]}},
    {"event": "switched", "after_s": 12, "server": "hello-1", "began_s": 9.5},
    {
        "event": "watched",
        "after_s": 20,
        "clients": {"new": [90, 30, 4.0, 9.0], "old": [99, 0, 4.0, 8.0], "beside": True},
    },
    {"event": "switch failed", "after_s": 20, "why": "clients got errors\n    in app.py"},
    {"event": "went back", "after_s": 23, "server": "hello-1", "release": OLD},
    {"event": "failed", "after_s": 24, "why": "clients got errors\n    in app.py", "seconds": 24},
]


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeStack:
    made = make(monkeypatch)
    monkeypatch.setenv("FLEET_FROM", str(tmp_path))
    now_s = float(int(time.time()))
    rows: list[Row] = [(number, 20, number % 3, 3.0, 7.5) for number in range(60)]
    series = TrafficSeries(
        now_s=now_s, first_s=now_s - 130, begins_s=now_s - 130, bucket_s=1, whole=rows, apps={"hello": rows},
        servers={"10.0.0.1": rows, "10.0.0.2": rows[:30]},
    )  # fmt: skip
    made.machines.answers["m-balancer", TRAFFIC] = series.model_dump_json()
    return made


def fleet(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def page_of(tmp_path: Path, *arguments: str) -> Seen:
    result = fleet("report", NEW, *arguments, "--output", "page.html")
    assert result.exit_code == 0, result.output
    return Seen((tmp_path / "page.html").read_text())


def test_the_page_of_a_failed_release_says_who_what_how_far_and_why(stack: FakeStack, tmp_path: Path) -> None:
    journal(stack, *NOW_EVENTS)
    result = fleet("report", NEW[:5])
    assert result.output.replace("\n", "") == f"{tmp_path}/release-prod-hello-{NEW}.html: Release {NEW} failed"
    page = page_of(tmp_path)
    words = " ".join(page.text.split())
    assert f"Release {NEW}: failed application hello of stack prod by ann@desk begun 2026-11-30T10:00:00+00:00" in words
    assert (
        f"took 24.0 s revision abc release before {OLD} servers hello-1, hello-2 clients got errors in app.py" in words
    )
    assert "20.0 s 30 of 90 requests got 5xx (33.3 %), p99 9 ms 0 of 99 requests got 5xx (0.0 %), p99 8 ms" in words
    assert page.text.count("in app.py") == 1
    assert "hello-1, switch: 9.5 s to 12.0 s" in page.text
    assert "hello-1, back: 20.0 s to 23.0 s" in page.text
    assert page.tags.count("rect") == 4
    assert page.tags.count("polyline") == 9
    assert page.loads == ["link href=data:,"]
    assert not {"script", "img", "iframe", "object"} & {*page.tags}


def test_a_time_around_the_release_is_asked_for_whatever_the_clock_of_the_balancer_says(
    stack: FakeStack, tmp_path: Path
) -> None:
    journal(stack, *NOW_EVENTS)
    page_of(tmp_path)
    _, _, from_s, until_s, bucket_s = stack.machines.asked("m-balancer")[-1].split()
    assert (130 <= float(from_s) < 140, 46 <= float(until_s) < 56, bucket_s) == (True, True, "1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"begins_s": 1e12}, "The balancer's access log does not reach back so far any more"),
        (None, "The balancer could not be asked: `/usr/local/lib/wsgi-fleet/traffic.py` failed: exit code 1"),
    ],
)
def test_without_a_log_the_page_says_so_and_has_the_rest(
    stack: FakeStack, tmp_path: Path, change: dict[str, Any] | None, said: str
) -> None:
    journal(stack, *NOW_EVENTS)
    before: Any = stack.machines.answers["m-balancer", TRAFFIC]
    stack.machines.answers["m-balancer", TRAFFIC] = json.dumps(json.loads(before) | change) if change else (1, "")
    page = page_of(tmp_path)
    assert said in " ".join(page.text.split())
    assert (page.tags.count("polyline"), page.tags.count("rect")) == (0, 4)


def test_a_load_balancer_of_aws_has_no_log_to_read(stack: FakeStack, tmp_path: Path) -> None:
    journal(stack, *NOW_EVENTS)
    stack.output["balancer"] = None
    assert "There is no balancer machine, because balancer.kind is alb" in page_of(tmp_path).text


def test_hostile_texts_are_text(stack: FakeStack, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = [
        {"event": "begin", "after_s": "<b>", "before": HOSTILE, "servers": [HOSTILE, 1, None]},
        {"event": "staged", "after_s": 1, "spans": {HOSTILE: [0, 1], "x": "<b>", "y": [1], "z": ["<b>", 1e999]}},
        {"event": "switched", "after_s": None, "server": HOSTILE, "began_s": "<b>", HOSTILE: HOSTILE},
        {"event": "watched", "after_s": 2, "clients": {"new": [1, HOSTILE], "old": [], "beside": 1}},
        {"event": HOSTILE, "after_s": 3, "why": HOSTILE, "missing": HOSTILE, "who": HOSTILE},
    ]
    journal(stack, *events)
    page = page_of(tmp_path)
    assert not {"script", "img", "b"} & {*page.tags}
    assert page.loads == ["link href=data:,"]
    assert page.text.count("<script src='http://evil.example/x.js'>") >= 8
    assert "\x1b" not in page.text
    assert "\x00" not in page.text


@pytest.mark.parametrize(
    ("events", "spans"),
    [
        # As releases wrote them before there were beginnings.
        (
            [
                {"event": "begin", "after_s": 0, "servers": ["a"]},
                {"event": "published", "after_s": 1},
                {"event": "staged", "after_s": 4},
                {"event": "release task", "after_s": 6, "server": "a"},
                {"event": "switched", "after_s": 8, "server": "a"},
                {"event": "switched", "after_s": 9, "server": "b"},
            ],
            [Span("a", "stage", 1, 4), Span("a", "task", 4, 6), Span("a", "switch", 6, 8), Span("b", "switch", 6, 9)],
        ),
        # A rollback in a journal of an earlier version, which had no events of servers.
        ([{"event": "begin", "after_s": 0, "rollback": True}, {"event": "done", "after_s": 2}], []),
        # Damaged: numbers that are none, or that no number of Python's can hold.
        ([{"event": "begin", "after_s": 10**400}, {"event": "x", "after_s": -1e300}], []),
        ([{"event": "x", "clients": {"new": [10**400, 1], "old": [0, 10**400, 1, 10**400], "beside": 0}}], []),
        # Killed at once.
        ([{"event": "begin"}], []),
    ],
)
def test_journals_of_other_kinds_have_the_phases_that_they_tell(
    stack: FakeStack, tmp_path: Path, events: list[dict[str, Any]], spans: list[Span]
) -> None:
    assert spans_of(events) == spans
    journal(stack, *events)
    assert page_of(tmp_path).tags.count("rect") == len(spans)


def test_a_rollout_writes_when_servers_began_to_stage_and_to_switch() -> None:
    fleet, _ = a_fleet_on(1)
    roll_out(fleet, 2)
    movement = read_movement(fleet.store, release(2).id)
    assert movement
    found = spans_of(movement.events)
    assert sorted((span.server, span.phase) for span in found) == sorted(
        (n, p) for p in ("stage", "switch") for n in NAMES
    )
    assert all(0 <= span.from_s <= span.to_s < 60 for span in found)
    assert time.time() - 60 < movement.begin_s <= time.time()


@pytest.mark.usefixtures("stack")
def test_the_newest_movement_to_a_release_is_found_and_damaged_ones_are_left_out() -> None:
    store = MemoryStore()
    for key, content in (
        ("journal/20261130T100000.000001-aaaa.jsonl", '{"event": "begin"}'),
        ("journal/20261130T100000.000002-aaaa.jsonl", '{"event": "done"}'),
        ("journal/20261130T100000.000003-aaaa.jsonl", "[]"),
        ("journal/20261130T100000.000004-aaaa.jsonl", "{"),
        ("journal/nonsense-aaaa.jsonl", "{}"),
        ("journal/20261130T100000.000005-bbbb.jsonl", ""),
    ):
        store.write(key, content.encode())
    for prefix in ("", "aa"):
        found = read_movement(store, prefix)
        assert found
        assert found.events == [{"event": "done"}]
    assert read_movement(store, "b") is None
    result = fleet("report", "cccc")
    assert (result.exit_code, result.output) == (2, "error: no release cccc was rolled out yet (`./fleet releases`)\n")


def test_a_file_that_cannot_be_written_is_named_with_the_remedy(stack: FakeStack, tmp_path: Path) -> None:
    journal(stack, *NOW_EVENTS)
    result = fleet("report", "--output", "none/page.html")
    assert result.exit_code == 2
    said = f"error: {tmp_path}/none/page.html: No such file or directory; name another file with --output"
    assert " ".join(result.output.split()) == said


@pytest.mark.parametrize(("value", "expected"), [(0.3, 0.5), (1, 1), (11, 20), (200, 200), (0, 1e-9), (999, 1000)])
def test_a_scale_ends_at_a_round_number(value: float, expected: float) -> None:
    assert nice(value) == pytest.approx(expected)


def test_a_picture_is_one_svg_that_loads_nothing_and_lines_break_where_there_is_no_value() -> None:
    chart = Chart("p99 in ms", [Line("<all>", {0: 1, 1: 2, 5: 3})], 1)
    report = ReleaseReport(
        "", "", is_good=True, facts={}, spans=[Span("<a>", "stage", -5, 99)], from_s=0, to_s=10, charts=[chart]
    )
    root = ElementTree.fromstring(timeline_picture(report))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    lines = [each.get("points", "").split() for each in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(line) for line in lines] == [4, 2]
    (band,) = root.iter("{http://www.w3.org/2000/svg}rect")
    assert (band.get("x"), band.get("width")) == ("150.0", "740.0")
    assert "&lt;all&gt;" in render_report(report)
