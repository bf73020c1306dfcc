"""`./fleet report`: what happened in a release, as one HTML page to read, to keep and to hand on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.maintenance import from_user
from commands.report import ask
from commands.target import AppOption, CommandError, StackOption, Target, find
from releases.client_watch import describe
from releases.journal import Movement, read_movement
from releases.redaction import escape_control
from releases.status import Row, TrafficSeries
from rendering.paths import SCRIPTS, site_identifier
from rendering.release_report import Chart, Line, ReleaseReport, Span, render_report

# Seconds before and after a release that are shown with it.
LEAD_S, TAIL_S = 30.0, 30.0
# 30 years.
MAX_NUMBER = 1e9
# Of a chart: what its width can show.
BUCKETS = 200
RESULTS = {"done": "serves", "failed": "failed", "interrupted": "was interrupted"}
# Event -> the phase of a server that ends with it.
PHASES = {"release task": "task", "switched": "switch", "went back": "back"}
# Details of events that the page shows elsewhere.
SHOWN_ELSEWHERE = (
    "event",
    "after_s",
    "why",
    "spans",
    "began_s",
    "clients",
    "release",
    "app",
    "who",
    "when",
    "revision",
)


def text_of(value: Any) -> str:
    """Return a value of the journal as text for people, without what would control anything."""
    match value:
        case [*values]:
            return ", ".join(map(text_of, values))
        case _:
            return escape_control(str(value))


def number_of(value: Any) -> float:
    """Return a number of the journal; 0 for what is none, or what no release has: it is damaged."""
    return float(value) if isinstance(value, int | float) and abs(value) < MAX_NUMBER else 0.0


def spans_of(events: Sequence[Mapping[str, Any]]) -> list[Span]:
    """Return the phases of each server.

    Where an event has no beginning, as in older journals, that is the end of the phase before.
    """
    found: list[Span] = []
    phase_s, last_s, before = 0.0, 0.0, ""
    for event in events:
        name, after_s = str(event.get("event")), number_of(event.get("after_s"))
        if name != before:
            phase_s = last_s
        if name == "staged":
            found += _stages(event, events[0], (phase_s, after_s))
        elif name in PHASES:
            begin_s = number_of(event["began_s"]) if "began_s" in event else phase_s
            found.append(Span(text_of(event.get("server", "")), PHASES[name], begin_s, after_s))
        before, last_s = name, after_s
    return found


def _stages(event: Mapping[str, Any], first: Mapping[str, Any], phase: tuple[float, float]) -> Iterator[Span]:
    match event.get("spans"), first.get("servers"):
        case {**spans}, _:
            for server, span in spans.items():
                match span:
                    case [begin_s, end_s]:
                        yield Span(text_of(server), "stage", number_of(begin_s), number_of(end_s))
                    case _:
                        pass
        case _, [*servers]:
            for server in servers:
                yield Span(text_of(server), "stage", *phase)
        case _:
            pass


def seen_rows(events: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return what clients saw of both releases, each time that a rollout asked."""
    rows: list[list[str]] = []
    for event in events:
        match event.get("clients"):
            case {"new": [int(), int(), *_] as new, "old": [int(), int(), *_] as old, "beside": beside}:
                how = "servers beside it" if beside else "the time before"
                after = f"{number_of(event.get('after_s')):.1f} s"
                rows.append([after, *(describe(_summary(each)) for each in (new, old)), how])
            case _:
                pass
    return rows


def _summary(values: Sequence[Any]) -> tuple[int, int, float | None, float | None]:
    p99_ms = number_of(values[3]) if len(values) > 3 and isinstance(values[3], int | float) else None
    return int(number_of(values[0])), int(number_of(values[1])), None, p99_ms


def charts_of(series: TrafficSeries, app: str, names: Mapping[str, str], begin_s: float) -> list[Chart]:
    """Return requests, p99 and 5xx through time. names: address -> server. begin_s: by the balancer's clock."""
    whole = series.apps.get(site_identifier(app), [])
    rows = {"all servers": whole} | {
        name: series.servers[address] for address, name in names.items() if address in series.servers
    }
    start_s, bucket_s = series.first_s - begin_s, series.bucket_s

    def chart(title: str, value: Callable[[Row], float | None]) -> Chart:
        def points(of: Sequence[Row]) -> dict[float, float]:
            return {start_s + row[0] * bucket_s: found for row in of if (found := value(row)) is not None}

        return Chart(title, [Line(name, points(each)) for name, each in rows.items()], bucket_s)

    return [
        chart("requests/s", lambda row: row[1] / bucket_s),
        chart("p99 in ms", lambda row: row[4]),
        chart("5xx/s", lambda row: row[2] / bucket_s),
    ]


def traffic(target: Target, movement: Movement, length_s: float) -> tuple[list[Chart], str]:
    """Return charts of a release, or why there are none."""
    if target.balancer is None:
        return [], "There is no balancer machine, because balancer.kind is alb: CloudWatch has the traffic."
    ago_s = time.time() - movement.begin_s
    from_s, until_s = ago_s + LEAD_S, max(ago_s - length_s - TAIL_S, 0)
    bucket_s = max(math.ceil((from_s - until_s) / BUCKETS), 1)
    words = [f"{SCRIPTS}/traffic.py", "series", f"{from_s:.1f}", f"{until_s:.1f}", str(bucket_s)]
    report = ask(target, target.balancer, words, TrafficSeries)
    if report.facts is None:
        return [], f"The balancer could not be asked: {escape_control(report.error)}"
    begin_s = report.facts.now_s - ago_s
    if report.facts.begins_s >= begin_s + length_s + TAIL_S:
        return [], "The balancer's access log does not reach back so far any more, or nothing asked in that time."
    names = {target.addresses[server.name]: server.name for server in target.servers}
    return charts_of(report.facts, target.app, names, begin_s), ""


def build(target: Target, movement: Movement) -> ReleaseReport:
    """Return the report of a movement."""
    events = movement.events
    facts: dict[str, Any] = {}
    for event in events:
        facts |= event
    # Servers that went back name another release.
    facts |= events[0]
    last = str(events[-1].get("event"))
    length_s = max(0.0, *(number_of(event.get("after_s")) for event in events))
    is_rollback = bool(facts.get("rollback"))
    shown = {
        "application": f"{target.app} of stack {target.stack}",
        "by": facts.get("who"),
        "begun": facts.get("when"),
        "took": f"{length_s:.1f} s",
        "revision": facts.get("revision"),
        "release before": facts.get("before"),
        "servers": facts.get("servers"),
        "without": facts.get("missing"),
    }
    charts, no_traffic = traffic(target, movement, length_s)
    what = f"{'Rollback to' if is_rollback else 'Release'} {text_of(facts.get('release'))}"
    return ReleaseReport(
        title=what,
        result=RESULTS.get(last, f"did not end; its last event is {text_of(last)}"),
        is_good=last == "done",
        facts={name: text_of(value) for name, value in shown.items() if value},
        spans=spans_of(events),
        from_s=-LEAD_S,
        to_s=length_s + TAIL_S,
        seen=seen_rows(events),
        failures=list(dict.fromkeys(text_of(event["why"]) for event in events if event.get("why"))),
        events=[
            (
                f"{number_of(event.get('after_s')):.1f} s",
                text_of(event.get("event")),
                "; ".join(
                    f"{text_of(name)}: {text_of(value)}"
                    for name, value in event.items()
                    if name not in SHOWN_ELSEWHERE and value
                ),
            )
            for event in events
        ],
        charts=charts,
        no_traffic=no_traffic,
    )


def report(
    release: Annotated[
        str, typer.Argument(metavar="RELEASE", show_default=False, help="Id of a release; the default is the newest.")
    ] = "",
    stack: StackOption = None,
    app: AppOption = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", show_default=False, help="The file; the default is named by the release."
        ),
    ] = None,
) -> None:
    """Write what happened in a release as one HTML page.

    Who, when, what, the phases of each server, what clients saw, and failures. The page loads nothing from elsewhere.
    The newest rollout or rollback to the release is described.
    """
    target = find(stack, app)
    movement = read_movement(target.store, release)
    if movement is None:
        there = f"no release {release} was" if release else "nothing was"
        raise CommandError(f"{there} rolled out yet (`./fleet releases`)", code=2)
    page = build(target, movement)
    id_ = "".join(each for each in page.title.rpartition(" ")[2] if each.isalnum())
    path = from_user(output or Path(f"release-{target.stack}-{target.app}-{id_}.html"))
    try:
        path.write_text(render_report(page), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}; name another file with --output", code=2) from error
    typer.echo(f"{path}: {page.title} {page.result}")
