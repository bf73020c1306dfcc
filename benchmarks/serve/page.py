"""The tables of docs/performance.md and its plots, and a line of the README, from what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.results import ROOT
from benchmarks.serve import plots
from benchmarks.serve.contestants import CONTESTANTS
from benchmarks.serve.figures import Figures
from benchmarks.serve.works import ALL, BY_NAME, LOADS, WORKS, load_name

README, PAGE = ROOT / "README.md", ROOT / "docs" / "performance.md"
_PLACE = re.compile(r"(<!-- by `make bench-serve`: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
RATES = ("hello", "fresh", "wait", "cpu", "upload", "large")
README_RATES = {"hello": 'of a Flask "hello"', "wait": "that wait for 20 ms", "upload": "POSTs of 100 KiB"}
FRAMEWORKS = ("bare", "hello", "django", "static")
CLIENTS = ("few", "hello", "many", "many-fresh")


def blocks(result: dict[str, Any]) -> dict[str, str]:
    """Return each part of the page that is made from a run, by its name."""
    found = Figures(result)
    return {
        "readme": _readme(found),
        "run": _run(result),
        "goals": _goals(found),
        "rates": _rates(found, RATES, only=ALL),
        "frameworks": _rates(found, FRAMEWORKS),
        "clients": _rates(found, CLIENTS) + "\n" + _latencies(found, ("hello", "wait", "many")),
        "tls": _rates(found, ("hello", "tls", "fresh", "tls-fresh"), only=("default",)),
        "load": _load(found),
        "tuning": _rates(found, ("hello", "wait", "cpu", "many"), only=("threads-4", "default")),
        "cells": _table(
            ("work", "clients", "why"), [(each.title, f"{each.clients:,}", each.reason) for each in WORKS]
        ),
    }  # fmt: skip


def tables(result: dict[str, Any]) -> str:
    """Return all tables as text."""
    return "\n".join(blocks(result).values())


def write(result: dict[str, Any]) -> None:
    """Write the pages and plots. Raises ValueError where the pages have places for other parts than a run makes."""
    made = blocks(result)
    texts = {page: page.read_text() for page in (README, PAGE)}
    named = [match[2] for text in texts.values() for match in _PLACE.finditer(text)]
    if sorted(named) != sorted(made):
        raise ValueError(f"{README}, {PAGE}: have places for {sorted(named)}, and the run makes {sorted(made)}")
    for page, text in texts.items():
        page.write_text(_PLACE.sub(lambda match: match[1] + made[match[2]] + match[3], text))
    for name, plot in plots.draw(Figures(result)).items():
        (PAGE.parent / f"performance-{name}.svg").write_text(plot)


def _readme(found: Figures) -> str:
    rates = [f"{found.median('default', work):,.0f} {what}" for work, what in README_RATES.items()]
    times = [
        f"{found.ratio('default', other, 'hello'):.1f} times {title}"
        for other, title in (("gunicorn-sync", "Gunicorn's default"), ("beanstalk", "Elastic Beanstalk's"))
    ]
    cores = f"On {found.result['cores']} cores for clients, balancer and server, a second"
    return f'{cores}: {", ".join(rates)}.\n"Hello" is {" and ".join(times)}.\n'


def _run(result: dict[str, Any]) -> str:
    machine, day = result["machine"], result["when"].partition("T")[0]
    return (
        f"Measured on {day}, commit {result['commit']}: {result['cores']} cores for all machines, Linux "
        f"{result['kernel']}; an app server has {machine['cpus']} CPUs and {machine['memory_mib']} MiB. "
        f"{result['rounds']} rounds of {result['seconds']} seconds for each cell.\n"
    )


def _goals(found: Figures) -> str:
    rows = [
        (each.text, each.measured, "yes" if each.is_met else "**no**" + f": {each.missed}" * bool(each.missed))
        for each in found.goals()
    ]
    return _table(("goal", "measured", "met"), rows)


def _rates(found: Figures, works: Sequence[str], only: Sequence[str] = ()) -> str:
    # Of everyone there is "hello", which stands beside others here.
    rare = [work for work in works if work != "hello"]
    names = only or [name for name in ALL if any(found.samples(name, work) for work in rare)]
    titles = {each.name: each.title for each in CONTESTANTS}
    rows = [(titles[name], *(found.cell(name, work) for work in works)) for name in names]
    return _table(("requests/s", *(BY_NAME[work].title for work in works)), rows)


def _latencies(found: Figures, works: Sequence[str]) -> str:
    rows = [
        (each.title, *(found.latency(each.name, work) for work in works))
        for each in CONTESTANTS
        if found.samples(each.name, works[-1])
    ]
    return _table(("median / p99, ms", *(BY_NAME[work].title for work in works)), rows)


def _load(found: Figures) -> str:
    names = {f"{load:.0%}": load_name(load) for load in LOADS}
    rows = [(load, found.cell("default", name), found.latency("default", name)) for load, name in names.items()]
    return _table(("of the most", "requests/s", "median / p99, ms"), rows)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; numbers to the right."""
    side = "---" if titles[-1] in {"met", "why"} else "---:"
    lines = [
        f"| {' | '.join(titles)} |",
        f"| --- |{f' {side} |' * (len(titles) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(re.sub(" +", " ", line) for line in lines) + "\n"
