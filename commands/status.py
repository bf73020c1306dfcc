"""`./fleet status`: a table of the fleet, once or every two seconds."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from commands.observation import (
    Observation,
    ServerView,
    as_json,
    observe_all,
    seconds_since,
)
from commands.target import AppOption, JsonOption, StackOption, Target, find_all
from commands.verdict import State
from releases.drift import REPAIR

REFRESH_S = 2.0
# A rollout may add and replace servers: how often the stack is asked for them while somebody watches.
RESOLVE_S = 30.0
# Without a terminal, no line is cut.
PIPE_WIDTH = 1000
LEFT = frozenset({"server", "state", "release", "slot"})
# What a narrow screen does without, in this order; --json has all of it.
DROPPED = ("slot", "age", "p50 ms", "queue")
_COLOURS = {
    State.SERVING: "green",
    State.DRAINED: "cyan",
    **dict.fromkeys((State.STARTING, State.OUTDATED, State.AHEAD), "yellow"),
}


def console() -> Console:
    """Return the console of standard output; plain and wide in pipes."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


def format_age(seconds: float | None) -> str:
    """Format a duration for the operator: 41 s, 12 min, 5 h, 3 d."""
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def state_style(state: State) -> str:
    """Return the colour of a server's state."""
    return _COLOURS.get(state, "red")


def describe_release(observation: Observation) -> str:
    """Describe which release serves and since when."""
    if not observation.pointer:
        return "no release yet"
    entry = observation.entry
    if not entry:
        return f"release {observation.pointer}"
    how = "after a rollback by" if entry.is_rollback else "by"
    revision = f" ({entry.revision})" if entry.revision else ""
    age = format_age(seconds_since(entry.when, observation.at_s))
    return f"release {observation.pointer}{revision} {how} {entry.who}, {age} ago"


def describe_rollout(observation: Observation) -> str:
    """Describe the rollout that is running, and how far it is."""
    moving = observation.rollout
    if not moving:
        return "no rollout is running"
    phase = f": {moving['phase']}" if "phase" in moving else ""
    return (
        f"{moving['what']} by {moving['who']} for {format_age(seconds_since(moving['since'], observation.at_s))}{phase}"
    )


def render_places(target: Target) -> str:
    """Describe an application and its routes in a few words."""
    more = f" and {len(target.routes) - 2} more" if len(target.routes) > 3 else ""
    return f"{target.app} ({', '.join(target.routes[:2] if more else target.routes)}{more})"


def describe_systems(every: Sequence[Observation]) -> str:
    """Describe what the servers run: one operating system and its Python, or several while they are replaced."""
    found = Counter((each.os, each.python) for observation in every for each in observation.servers if each.os)
    if not found:
        return "what the servers run is not known"
    texts = [f"{system} with Python {python}" for system, python in found]
    if len(found) > 1:
        texts = [f"{number} of {text}" for number, text in zip(found.values(), texts, strict=True)]
    return f"servers run {', '.join(texts)}"


def render_head(every: Sequence[Observation]) -> Text:
    """Describe what serves where and since when, and what is under way; several applications get a line each."""
    observation, target = every[0], every[0].target
    words = {True: "maintenance is ON", False: "maintenance is off", None: "maintenance is not known"}
    maintenance = words[observation.maintenance], "red" if observation.maintenance else ""
    if len(every) == 1:
        first = f"{target.url}  {target.app} of stack {target.stack}, {describe_release(observation)}"
        return Text.assemble(
            first, "\n", describe_rollout(observation), "; ", maintenance, f"; {describe_systems(every)}"
        )
    lines = [f"\n{render_places(each.target)}: {describe_release(each)}; {describe_rollout(each)}" for each in every]
    first = f"{target.url}  {len(every)} applications of stack {target.stack}; {describe_systems(every)}; "
    return Text.assemble(first, maintenance, *lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def _cells(server: ServerView) -> dict[str, Text | str]:
    busy = "-" if server.workers_busy is None else f"{server.workers_busy}/{server.workers_idle}"
    return {
        "server": server.name,
        "state": Text(server.state, style=state_style(server.state)),
        "release": server.release or "-",
        "slot": server.slot or "-",
        "age": format_age(server.release_age_s),
        "busy/idle": busy,
        "queue": _number(server.listen_queue),
        "req/s": _number(server.requests_per_s),
        "p50 ms": _number(server.p50_ms),
        "p99 ms": _number(server.p99_ms),
        "5xx": _number(server.errors_5xx),
    }


def _balancer_cells(observation: Observation) -> dict[str, Text | str]:
    front = observation.front
    state = Text("failed", style="red") if observation.balancer_problem else Text("serving", style="green")
    return {
        "server": "balancer" if observation.balancer else "load balancer",
        "state": state,
        "req/s": _number(front and front.requests_per_s),
        "p50 ms": _number(front and front.p50_ms),
        "p99 ms": _number(front and front.p99_ms),
        "5xx": _number(front and front.errors_5xx),
    }


def render_table(every: Sequence[Observation], screen: Console) -> Table:
    """Return a row for each server and one for the whole balancer, with as many columns as fit the screen."""
    rows = [*(_cells(server) for observation in every for server in observation.servers), _balancer_cells(every[0])]
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


def render_causes(every: Sequence[Observation]) -> Text:
    """Return what servers of a rollout said last, and a sentence for each machine that does not serve, and more."""
    rollouts = [seen.rollout for seen in every if seen.rollout]
    lines = [f"{name}: {line}" for each in rollouts for name, line in sorted(each["servers"].items())]
    lines += [
        f"{server.name} is {server.state}: {'; '.join(filter(None, [server.cause, server.remedy]))}"
        for observation in every
        for server in observation.servers
        if server.cause
    ]
    lines += [
        f"{server.name}: {each}"
        for observation in every
        for server in observation.servers
        for each in server.background
    ]
    lines += [
        f"{server.name}: {server.ended}" for observation in every for server in observation.servers if server.ended
    ]
    lines += [
        f"the store of {observation.target.app}: {observation.damage}; {REPAIR}"
        for observation in every
        if observation.damage
    ]
    if every[0].balancer_problem:
        lines.append(f"the balancer: {every[0].balancer_problem}")
    return Text("\n".join(lines))


def render_page(every: Sequence[Observation], screen: Console) -> Group:
    """Return all that `status` shows of the applications of a stack."""
    below = render_causes(every)
    return Group(render_head(every), Text(), render_table(every, screen), *([Text(), below] if below.plain else []))


def values(every: Sequence[Observation]) -> dict[str, Any]:
    """Return the status as JSON values.

    With several applications, shared values are at the top, and each application has its own object.
    """
    if len(every) == 1:
        return as_json(every[0])
    reports = [as_json(observation) for observation in every]
    shared = {key: reports[0][key] for key in ("stack", "url", "maintenance", "balancer")}
    apps = {each["app"]: {key: value for key, value in each.items() if key not in (*shared, "app")} for each in reports}
    return {**shared, "healthy": all(each["healthy"] for each in reports), "apps": apps}


def _watch(look: Callable[[], Sequence[Observation]], *, as_values: bool) -> None:
    """Show the status until Ctrl-C; JSON as one line each time."""
    if as_values:
        while True:
            typer.echo(json.dumps(values(look())))
            time.sleep(REFRESH_S)
    screen = console()
    if not screen.is_terminal:
        while True:
            screen.print(render_page(look(), screen), Text())
            time.sleep(REFRESH_S)
    with Live(render_page(look(), screen), console=screen, auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_S)
            live.update(render_page(look(), screen), refresh=True)


def status(
    stack: StackOption = None,
    app: AppOption = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every 2 seconds, until Ctrl-C.")] = False,
    as_values: JsonOption = False,
) -> None:
    """Show what every server is and does.

    Of all applications, or of one.

    Ends with 1 when a server is neither serving nor drained, or the balancer is unhealthy. Rates, times and 5xx are
    those of the last 60 seconds in the balancer's access log (of less where it is long).
    """
    found: list[tuple[float, list[Target]]] = []

    def look() -> list[Observation]:
        if not found or time.monotonic() - found[-1][0] > RESOLVE_S:
            found.append((time.monotonic(), find_all(stack, app)))
        return observe_all(found[-1][1])

    if watch:
        try:
            _watch(look, as_values=as_values)
        except KeyboardInterrupt:
            return
    observations = look()
    if as_values:
        typer.echo(json.dumps(values(observations), indent=2))
    else:
        screen = console()
        screen.print(render_page(observations, screen))
    if not all(each.is_healthy for each in observations):
        raise typer.Exit(1)
