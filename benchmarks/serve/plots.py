"""The plots of served requests in docs/performance.md."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.plots import HEIGHT, OURS, THEIRS, WIDTH, leather
from benchmarks.serve.contestants import CONTESTANTS
from benchmarks.serve.figures import Figures
from benchmarks.serve.works import LOADS, load_name

BAR = 26


def draw(found: Figures) -> dict[str, str]:
    """Return the plots as SVG, by name."""
    return {
        "hello": _bars(found, "hello", "hello (Flask), 64 clients: requests/s"),
        "wait": _bars(found, "wait", "20 ms of waiting, 64 clients: requests/s"),
        "load": _latencies(found),
    }


def _bars(found: Figures, work: str, title: str) -> str:
    """Draw the requests/s of each contestant, the most at the top; the product's in a colour of their own."""
    measured = [each for each in CONTESTANTS if found.samples(each.name, work) and each.name != "nginx"]
    measured.sort(key=lambda each: found.median(each.name, work), reverse=True)
    values = [found.median(each.name, work) for each in measured]
    labels = [f"{re.sub('[*`]', '', each.title)}: {value:,.0f}" for each, value in zip(measured, values, strict=True)]
    colours = {label: OURS if each.is_product else THEIRS for label, each in zip(labels, measured, strict=True)}
    chart = leather.Chart(title)

    def colour(bar: Any) -> str:
        return colours[bar.y]

    chart.add_bars(list(zip(values, labels, strict=True)), fill_color=colour)
    return chart.to_svg(width=WIDTH, height=130 + BAR * len(labels))


def _latencies(found: Figures) -> str:
    """Draw the latencies of the default by the load that clients reached."""
    chart = leather.Chart("the default, hello: latency in ms by the percentage of the most requests/s that was reached")
    for name, colour, value in (("median", OURS, "p50_ms"), ("p99", THEIRS, "p99_ms")):
        points = [(found.reached(load) * 100, found.median("default", load_name(load), value)) for load in LOADS]
        chart.add_line(points, name=name, stroke_color=colour)
    return chart.to_svg(width=WIDTH, height=HEIGHT)
