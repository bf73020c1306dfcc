"""`./fleet status`: a table of the fleet, once or every two seconds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from commands.observation import Observation, ServerView, State, as_json, observe, seconds_since
from commands.target import AppOption, JsonOption, StackOption, Target, find

EVERY_S = 2.0
# A rollout may add and replace servers: how often the stack is asked for them while somebody watches.
FIND_AGAIN_S = 30.0
# Where nobody looks, nothing is cut to the width of a terminal.
PIPE_WIDTH = 240
LEFT = frozenset({"server", "state", "release", "slot"})
# What a narrow screen does without, in this order; --json has all of it.
DROPPED = ("slot", "age", "p50 ms", "queue")
_COLOURS = {State.SERVING: "green", State.DRAINED: "cyan", State.STARTING: "yellow", State.BEHIND: "yellow"}


def console() -> Console:
    """The console of standard output; plain and wide in pipes."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


def age(seconds: float | None) -> str:
    """A duration for a person: 41 s, 12 min, 5 h, 3 d."""
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def head(seen: Observation) -> Text:
    """Two lines: what serves where and since when, and what is under way."""
    target, entry = seen.target, seen.entry
    first = f"{target.url}  {target.app} of stack {target.stack}, "
    if not seen.pointer:
        first += "no release yet"
    else:
        first += f"release {seen.pointer}"
        if entry:
            how = "back to it by" if entry.is_rollback else "by"
            revision = f" ({entry.revision})" if entry.revision else ""
            first += f"{revision} {how} {entry.who}, {age(seconds_since(entry.when, seen.at_s))} ago"
    moving = seen.rollout
    second = f"{moving['what']} by {moving['who']} since {moving['since']}" if moving else "no rollout is running"
    maintenance = {True: "maintenance is ON", False: "maintenance is off", None: "maintenance is not known"}
    return Text.assemble(first, "\n", second, "; ", (maintenance[seen.maintenance], "red" if seen.maintenance else ""))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def _cells(server: ServerView) -> dict[str, Text | str]:
    busy = "-" if server.workers_busy is None else f"{server.workers_busy}/{server.workers_idle}"
    return {
        "server": server.name,
        "state": Text(server.state, style=_COLOURS.get(server.state, "red")),
        "release": server.release or "-",
        "slot": server.slot or "-",
        "age": age(server.release_age_s),
        "busy/idle": busy,
        "queue": _number(server.listen_queue),
        "req/s": _number(server.requests_per_s),
        "p50 ms": _number(server.p50_ms),
        "p99 ms": _number(server.p99_ms),
        "5xx": _number(server.errors_5xx),
    }


def _balancer_cells(seen: Observation) -> dict[str, Text | str]:
    front = seen.balancer.facts or {}
    state = Text("failed", style="red") if seen.balancer_problem else Text("serving", style="green")
    keys = {"req/s": "requests_per_s", "p50 ms": "p50_ms", "p99 ms": "p99_ms", "5xx": "errors_5xx"}
    return {"server": "balancer", "state": state, **{title: _number(front.get(key)) for title, key in keys.items()}}


def table(seen: Observation, screen: Console) -> Table:
    """A line for each server and one for all that the balancer answered; columns as the screen has room."""
    rows = [*map(_cells, seen.servers), _balancer_cells(seen)]
    titles, made = list(rows[0]), Table()
    for dropped in (None, *DROPPED):
        titles = [title for title in titles if title != dropped]
        made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title in titles:
            made.add_column(title, justify="left" if title in LEFT else "right", no_wrap=True)
        for cells in rows:
            made.add_row(*(cells.get(title, "") for title in titles))
        if screen.measure(made, options=screen.options.update(width=PIPE_WIDTH)).maximum <= screen.width:
            break
    return made


def causes(seen: Observation) -> Text:
    """A sentence for each machine that does not serve."""
    lines = [
        f"{server.name} is {server.state}: {'; '.join(filter(None, [server.cause, server.remedy]))}"
        for server in seen.servers
        if server.cause
    ]
    if seen.balancer_problem:
        lines.append(f"the balancer: {seen.balancer_problem}")
    return Text("\n".join(lines))


def page(seen: Observation, screen: Console) -> Group:
    """All that `status` shows."""
    below = causes(seen)
    return Group(head(seen), Text(), table(seen, screen), *([Text(), below] if below.plain else []))


def _watch(look: Callable[[], Observation], *, as_values: bool) -> None:
    """Until Ctrl-C; JSON as one line a look."""
    if as_values:
        while True:
            typer.echo(json.dumps(as_json(look())))
            time.sleep(EVERY_S)
    screen = console()
    if not screen.is_terminal:
        while True:
            screen.print(page(look(), screen), Text())
            time.sleep(EVERY_S)
    with Live(page(look(), screen), console=screen, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY_S)
            live.update(page(look(), screen), refresh=True)


def status(
    stack: StackOption = None,
    app: AppOption = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every 2 seconds, until Ctrl-C.")] = False,
    as_values: JsonOption = False,
) -> None:
    """Show what every server is and does.

    Ends with 1 when a server is neither serving nor drained, or the balancer is not well. Rates, times and 5xx are
    those of the last 60 seconds in the balancer's access log (of less where it is long).
    """
    found: list[tuple[float, Target]] = []

    def look() -> Observation:
        if not found or time.monotonic() - found[-1][0] > FIND_AGAIN_S:
            found.append((time.monotonic(), find(stack, app)))
        return observe(found[-1][1])

    if watch:
        try:
            _watch(look, as_values=as_values)
        except KeyboardInterrupt:
            return
    seen = look()
    if as_values:
        typer.echo(json.dumps(as_json(seen), indent=2))
    else:
        screen = console()
        screen.print(page(seen, screen))
    if not seen.is_well:
        raise typer.Exit(1)
