"""The tables and plots of served requests in docs/performance.md, and a line of the README, from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.pages import Part, describe, table
from benchmarks.serve import plots
from benchmarks.serve.contestants import CONTESTANTS
from benchmarks.serve.figures import Figures
from benchmarks.serve.works import ALL, BY_NAME, LOADS, WORKS, load_name

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
        "cells": table(
            ("work", "clients", "why"), [(each.title, f"{each.clients:,}", each.reason) for each in WORKS]
        ),
    }  # fmt: skip


def _readme(found: Figures) -> str:
    rates = [f"{found.median('default', work):,.0f} {what}" for work, what in README_RATES.items()]
    times: list[str] = []
    for other, title in (("gunicorn-sync", "Gunicorn's default"), ("beanstalk", "Elastic Beanstalk's")):
        ratios = found.ratios("default", other, "hello")
        times.append(f"{statistics.median(ratios):.1f} times {title} ({min(ratios):.1f} to {max(ratios):.1f} by round)")
    cores = f"On {found.result['cores']} cores for clients, balancer and server, a second"
    return f'{cores}: {", ".join(rates)}.\n"Hello" is {" and ".join(times)}.\n'


def _run(result: dict[str, Any]) -> str:
    machine = result["machine"]
    what = f"an app server has {machine['cpus']} CPUs and {machine['memory_mib']} MiB."
    return describe(result, f"{what} {result['rounds']} rounds, in each {result['seconds']} s for each cell.")


def _goals(found: Figures) -> str:
    rows = [(each.text, each.measured, each.met()) for each in found.goals()]
    return table(("goal", "measured", "met"), rows)


def _rates(found: Figures, works: Sequence[str], only: Sequence[str] = ()) -> str:
    # Of everyone there is "hello", which stands beside others here.
    rare = [work for work in works if work != "hello"]
    names = only or [name for name in ALL if any(found.samples(name, work) for work in rare)]
    titles = {each.name: each.title for each in CONTESTANTS}
    rows = [(titles[name], *(found.cell(name, work) for work in works)) for name in names]
    return table(("requests/s", *(BY_NAME[work].title for work in works)), rows)


def _latencies(found: Figures, works: Sequence[str]) -> str:
    rows = [
        (each.title, *(found.latency(each.name, work) for work in works))
        for each in CONTESTANTS
        if found.samples(each.name, works[-1])
    ]
    return table(("median / p99, ms", *(BY_NAME[work].title for work in works)), rows)


def _load(found: Figures) -> str:
    names = {load: load_name(load) for load in LOADS}
    rows = [
        (f"{load:.0%}", f"{found.reached(load):.0%}", found.cell("default", name), found.latency("default", name))
        for load, name in names.items()
    ]
    return table(("asked for", "reached", "requests/s", "median / p99, ms"), rows)


PART = Part("bench-serve", "serve", blocks, lambda result: plots.draw(Figures(result)))
