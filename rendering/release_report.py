"""Render what happened in a release as one HTML page: it loads nothing, runs nothing, and prints as well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rendering.templates import render_page

# Of the drawings, in units of SVG: the width, the room for names at the left, and the heights of a row and a chart.
WIDTH, LEFT, ROW, CHART = 900, 150, 22, 110
# Lines of single servers that a chart shows; more could not be told apart.
MAX_LINES = 6
# Lines of the time axis.
TICKS = 8


@dataclass(frozen=True)
class Span:
    """A phase of one server, in seconds since the beginning. phase: stage, switch, task or back."""

    server: str
    phase: str
    from_s: float
    to_s: float


@dataclass(frozen=True)
class Line:
    """A value through time. points: seconds since the beginning -> value; those without one are left out."""

    name: str
    points: Mapping[float, float]


@dataclass(frozen=True)
class Chart:
    """A drawing of lines with one scale. bucket_s: how long each value lasts."""

    title: str
    lines: Sequence[Line]
    bucket_s: float


@dataclass(frozen=True)
class ReleaseReport:
    """is_good: whether it ended as it should. facts: name -> value. from_s, to_s: what the drawings show.

    no_traffic: why there are no charts; "" where there are. seen: rows of what clients saw. failures: their texts.
    events: seconds, name and details of each.
    """

    title: str
    result: str
    is_good: bool
    facts: Mapping[str, str]
    spans: Sequence[Span]
    from_s: float
    to_s: float
    seen: Sequence[Sequence[str]] = ()
    failures: Sequence[str] = ()
    events: Sequence[tuple[str, str, str]] = ()
    charts: Sequence[Chart] = field(default_factory=list[Chart])
    no_traffic: str = ""


@dataclass(frozen=True)
class Scale:
    """Places seconds in a drawing."""

    from_s: float
    to_s: float

    def x(self, seconds: float) -> float:
        """Return where a moment is; what is outside is at the edge."""
        inside = min(max(seconds, self.from_s), self.to_s)
        return round(LEFT + (inside - self.from_s) / max(self.to_s - self.from_s, 1e-9) * (WIDTH - LEFT - 10), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return places of the axis and their labels."""
        step = nice((self.to_s - self.from_s) / TICKS)
        first = math.ceil(self.from_s / step)
        return [(self.x(n * step), f"{n * step:g} s") for n in range(first, math.floor(self.to_s / step) + 1)]


def nice(value: float) -> float:
    """Return 1, 2 or 5 times a power of ten that is not less."""
    power = 10 ** math.floor(math.log10(max(value, 1e-9)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def render_report(report: ReleaseReport) -> str:
    """Return the page."""
    scale = Scale(report.from_s, report.to_s)
    return render_page(
        "report/page.html.j2",
        report=report,
        timeline=timeline(report, scale),
        charts=[draw(chart, scale) for chart in report.charts],
        size={"width": WIDTH, "left": LEFT, "row": ROW, "chart": CHART},
        ticks=scale.ticks,
    )


def timeline_picture(report: ReleaseReport) -> str:
    """Return the timeline and the charts alone, as an SVG file."""
    scale = Scale(report.from_s, report.to_s)
    return render_page(
        "report/picture.svg.j2",
        timeline=timeline(report, scale),
        charts=[draw(chart, scale) for chart in report.charts],
        size={"width": WIDTH, "left": LEFT, "row": ROW, "chart": CHART},
        ticks=scale.ticks,
    )


def timeline(report: ReleaseReport, scale: Scale) -> list[dict[str, object]]:
    """Return a row for each server, with its spans."""
    # hello-2 before hello-10.
    names = sorted({span.server for span in report.spans}, key=lambda name: (len(name), name))
    return [
        {
            "name": name,
            "spans": [
                {
                    "phase": span.phase,
                    "x": scale.x(span.from_s),
                    "width": max(round(scale.x(span.to_s) - scale.x(span.from_s), 1), 2.0),
                    "text": f"{span.phase}: {span.from_s:.1f} s to {span.to_s:.1f} s",
                }
                for span in report.spans
                if span.server == name
            ],
        }
        for name in names
    ]


def draw(chart: Chart, scale: Scale) -> dict[str, object]:
    """Return a chart's lines as steps, which break where there is no value, and its highest label."""
    shown = chart.lines[: MAX_LINES + 1]
    most = nice(max((value for line in shown for value in line.points.values()), default=0) or 1)
    return {
        "title": chart.title,
        "most": f"{most:g}",
        "lines": [
            {"name": line.name, "paths": [_path(part, chart.bucket_s, most, scale) for part in _parts(line, chart)]}
            for line in shown
        ],
    }


def _parts(line: Line, chart: Chart) -> list[list[tuple[float, float]]]:
    parts: list[list[tuple[float, float]]] = []
    for moment, value in sorted(line.points.items()):
        if parts and moment - parts[-1][-1][0] <= chart.bucket_s * 1.01:
            parts[-1].append((moment, value))
        else:
            parts.append([(moment, value)])
    return parts


def _path(part: Sequence[tuple[float, float]], bucket_s: float, most: float, scale: Scale) -> str:
    places: list[str] = []
    for moment, value in part:
        y = round(CHART - value / most * (CHART - 8), 1)
        places += [f"{scale.x(moment)},{y}", f"{scale.x(moment + bucket_s)},{y}"]
    return " ".join(places)
