"""The part "Time to serving" of docs/performance.md, from what benchmarks/run.py measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.growth import BOUND, Growth
from benchmarks.pages import Goal, Part, describe, table
from benchmarks.plots import HEIGHT, OURS, THEIRS, THIRD, WIDTH, leather
from benchmarks.profile import FIRST_RESPONSE, FIRST_UP, NO_CHANGE, RELEASE, ROLLBACK, medians, wholes

BENCH, PROFILE = "`make bench`", "`make bench-profile`"
PREVIEW, ROLLOUT = "`python -m benchmarks.preview`", "`python -m benchmarks.rollout`"
SCALE_OUT, P99, FURTHER = "scale out by one", "p99 in a release / before", "further server"
LARGE, MEMORY = "preview of a large fleet", "its memory"
# The preview that has a goal: applications, servers of each.
LARGEST = (1, 1000)
MACHINES, PLANS = "growth", "plans"
# The share of the cores from which on other work makes seconds longer than they are on idle cores.
BUSY = 0.1
OTHER_WORK = "other work had the cores in this run"
MIB = " MiB"


@dataclass(frozen=True)
class Wanted:
    """text: what is measured. limit: the most that meets the goal. missed: why it can be missed."""

    text: str
    limit: float
    unit: str
    command: str
    missed: str

    def goal(self, found: Sequence[float], *, is_busy: bool) -> Goal:
        """Return the goal with what was found in each run; the median counts. is_busy: with other work as well."""
        middle = statistics.median(found)
        spread = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
        shown = f"{middle:,.0f}" if middle >= 100 else f"{middle:.2f}"
        text, measured = f"{self.text}: {self.limit:g}{self.unit}", f"{shown}{self.unit}{spread}"
        why = OTHER_WORK if is_busy and self.unit != MIB else self.missed
        return Goal(text, measured, middle <= self.limit, why, self.command)


WANTED = {
    FIRST_UP: Wanted("from nothing to the first response", 12, " s", PROFILE,
                     "machines boot on the two cores that the engine needs as well"),
    RELEASE: Wanted("release of new code, 2 s of it the bake", 5, " s", PROFILE,
                    "the engine starts, and each server starts the new release and proves it, on two cores"),
    NO_CHANGE: Wanted("`up` that changes nothing", 1.5, " s", PROFILE,
                      "the engine starts processes of Python, which import their libraries"),
    ROLLBACK: Wanted("rollback", 1, " s", PROFILE,
                     "all servers start the other release at the same time, on two cores"),
    FURTHER: Wanted("each further server of a release", 0.2, " s", BENCH,
                    "all servers stage on the same two cores; elsewhere each has its own"),
    SCALE_OUT: Wanted("one server more, until it serves", 5, " s", BENCH,
                      "a machine boots, installs the release and is admitted by the balancer, on two cores"),
    P99: Wanted("p99 during a release, against before", 1.5, " times", BENCH,
                "staging takes the cores that requests need"),
    LARGE: Wanted("preview of 1,000 servers", 10, " s", PREVIEW, "Pulumi's SDK makes each resource"),
    MEMORY: Wanted("memory of that preview", 500, MIB, PREVIEW, "Pulumi's SDK keeps each resource with its inputs"),
}  # fmt: skip


def blocks(result: dict[str, Any]) -> dict[str, str]:
    """Return each part of the pages that is made from a run, by its name."""
    machines, plans = (growths(result)[name] for name in (MACHINES, PLANS))
    skipped = f"\n{result['skipped']}\n" * bool(result["skipped"])
    return {
        "times": _readme(result),
        "run": describe(result, f"{result['runs']} stacks, each made and removed once; medians, and the range."),
        "goals": table(
            ("goal", "measured", "met", "command"),
            [(each.text, each.measured, each.met(), each.command) for each in goals(result)],
        ),
        "phases": _phases(result),
        "machines": _growth(machines) + skipped,
        "plans": _growth(plans) + "\n" + _previews(result),
    }  # fmt: skip


def goals(result: dict[str, Any]) -> list[Goal]:
    """Return each goal with what was measured. A quick run has no preview of the size that has goals."""
    phases, measured = result["phases"], result["measured"]
    found: dict[str, Sequence[float]] = {
        FIRST_UP: phases[FIRST_UP][FIRST_RESPONSE],
        **{name: wholes(phases[name]) for name in (RELEASE, NO_CHANGE, ROLLBACK)},
        FURTHER: [_further_s(result)],
        **{name: measured[name] for name in (SCALE_OUT, P99)},
    }
    for each in result["previews"]:
        if (each["applications"], each["servers"]) == LARGEST:
            found |= {LARGE: [each["seconds"]], MEMORY: [each["mib"]]}
    is_busy = _other_work(result) > BUSY
    return [each.goal(found[name], is_busy=is_busy) for name, each in WANTED.items() if name in found]


def growths(result: dict[str, Any]) -> dict[str, list[Growth]]:
    """Return what grows with the servers: of machines, and of plans without machines."""
    machines = {
        what: {int(size): seconds for size, seconds in found.items()} for what, found in result["machines"].items()
    }
    preview = {each["servers"]: each["seconds"] for each in result["previews"] if each["applications"] == 1}
    rollout = {each["servers"]: each["seconds"] for each in result["rollouts"]}
    return {
        MACHINES: [Growth(what, BENCH, seconds) for what, seconds in machines.items()],
        PLANS: [Growth("preview of `prod`", PREVIEW, preview), Growth("rollout in memory", ROLLOUT, rollout)],
    }


def draw(result: dict[str, Any]) -> dict[str, str]:
    """Return the plots as SVG, by name."""
    titles = {
        MACHINES: "seconds by the number of servers, on LXD",
        PLANS: "seconds by the number of servers, no machines",
    }
    return {name: _lines(titles[name], found) for name, found in growths(result).items()}


def _further_s(result: dict[str, Any]) -> float:
    """Return what each further server costs a release, from the smallest fleet to the largest."""
    seconds = next(each.seconds for each in growths(result)[MACHINES] if each.what == "release")
    least, most = min(seconds), max(seconds)
    return (seconds[most] - seconds[least]) / (most - least)


def _other_work(result: Mapping[str, Any]) -> float:
    return statistics.median(result["other_work"])


def _readme(result: dict[str, Any]) -> str:
    phases = result["phases"]
    whole = {name: statistics.median(wholes(phases[name])) for name in (RELEASE, NO_CHANGE, ROLLBACK)}
    first_s = statistics.median(phases[FIRST_UP][FIRST_RESPONSE])
    other = _other_work(result)
    busy = f"These are too long: other work had {other:.0%} of the cores meanwhile.\n" * (other > BUSY)
    return (
        f"On {result['cores']} cores: {first_s:.1f} s from nothing to the first response, a release "
        f"{whole[RELEASE]:.1f} s, a rollback {whole[ROLLBACK]:.1f} s,\nan `up` that changes nothing "
        f"{whole[NO_CHANGE]:.1f} s. Each further server costs a release {_further_s(result):.1f} s.\n{busy}"
    )


def _phases(result: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = []
    for title, phases in result["phases"].items():
        rows.append((f"**{title}**", f"**{statistics.median(wholes(phases)):.2f}**", PROFILE))
        rows += [(phase, f"{seconds:.2f}", "") for phase, seconds in medians(phases).items()]
    return table(("phase", "seconds", "command"), rows)


def _growth(found: Sequence[Growth]) -> str:
    sizes = list(found[0].seconds)
    titles = [f"{size:,} servers" for size in sizes] + [f"each further, to {size:,}" for size in sizes[1:]]
    rows = [
        (
            each.what,
            *(f"{seconds:.1f} s" for seconds in each.seconds.values()),
            *(f"{1000 * cost:,.0f} ms" for cost in each.further_s()),
            *_verdict(each),
            each.command,
        )
        for each in found
    ]
    return table(("", *titles, "times", "even", "command"), rows)


def _verdict(found: Growth) -> tuple[str, str]:
    """Return the ratio of a growth, and whether it is even; "" for both with two sizes."""
    ratio = found.ratio()
    if ratio is None:
        return "", ""
    return f"{ratio:.1f}", "yes" if ratio <= BOUND else f"**no**: more than {BOUND:.0f}"


def _previews(result: Mapping[str, Any]) -> str:
    rows = [
        (str(each["applications"]), f"{each['servers']:,}", f"{each['resources']:,}",
         f"{each['seconds']:.1f} s", f"{each['mib']:.0f} MiB", PREVIEW)
        for each in result["previews"]
    ]  # fmt: skip
    return table(("applications", "servers of each", "resources", "preview of `prod`", "memory", "command"), rows)


def _lines(title: str, found: Sequence[Growth]) -> str:
    """Draw seconds by servers; the legend has the cost of a server among the most of them."""
    chart = leather.Chart(title)
    for each, colour in zip(found, (OURS, THEIRS, THIRD), strict=False):
        name = f"{each.what.replace('`', '')}, each further server {1000 * each.further_s()[-1]:,.0f} ms"
        chart.add_line(list(each.seconds.items()), name=name, stroke_color=colour)
    chart.add_y_scale(0, 1.1 * max(seconds for each in found for seconds in each.seconds.values()))
    return chart.to_svg(width=WIDTH, height=HEIGHT)


PART = Part("bench", "times", blocks, draw)
