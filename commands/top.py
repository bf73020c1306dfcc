"""`./fleet top`: requests, times and errors of each server through the last minutes, until `q`."""

from __future__ import annotations

import contextlib
import math
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Generator, Sequence
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from commands.history import Cell, History, sparkline
from commands.observation import Observation, ServerView, observe_all
from commands.report import ask
from commands.status import REFRESH_S, RESOLVE_S, console, render_causes, render_head, state_style
from commands.target import AppOption, CommandError, StackOption, Target, find_all
from releases.status import TrafficSeries
from rendering.paths import SCRIPTS, site_identifier

# Seconds of a bucket: of few, so that numbers are new, and at most so many, which one answer has room for.
BUCKET_S, BUCKETS = 5, 200
# Characters of a name, of a number with its gap, and of the gap between columns.
NAME, NUMBER, GAP = 14, 6, 2
# A pipe has no width; it gets what fits a usual terminal.
PIPE_WIDTH = 80
WITHOUT_MACHINE = "CloudWatch has its traffic, and `./fleet status` the states of servers"


def traffic(target: Target, history: History, since_s: float) -> None:
    """Bring a history up to date by a query to the balancer. since_s: seconds ago. Raises CommandError."""
    balancer = target.machine_in_front(WITHOUT_MACHINE)
    words = [f"{SCRIPTS}/traffic.py", "series", f"{since_s:.0f}", "0", str(history.bucket_s)]
    report = ask(target, balancer, words, TrafficSeries)
    if report.facts is None:
        raise CommandError(f"the balancer: {report.error}")
    history.add(report.facts)


def render(every: Sequence[Observation], history: History, screen: Console, width: int, *, problem: str = "") -> Group:
    """Return the page: head, a row for each server and for all, and what is wrong.

    width: of the screen, in characters. problem: why the balancer did not respond this time; "" where it did.
    """
    servers = [(server, server.address) for observation in every for server in observation.servers]
    is_ascii = not screen.encoding.lower().startswith("utf")
    room = max((width - NAME - 3 * (NUMBER + 1 + GAP)) // 3, 4)
    cells = {address: history.cells(address, room) for address in ("", *(address for _, address in servers))}
    # Servers beside one another have one scale; all together are another matter.
    scales = {
        address: _scale([cells[""]] if not address else [cells[each] for _, each in servers]) for address in cells
    }
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column("server", no_wrap=True, width=NAME)
    for title in ("req/s", "p99 ms", "5xx"):
        table.add_column(f"{title:>{NUMBER}}", no_wrap=True, width=NUMBER + 1 + room)
    hidden = max(len(servers) - _rows_that_fit(screen), 0)
    for server, address in servers[: len(servers) - hidden]:
        table.add_row(
            Text(_short(server), style=state_style(server.state)),
            *_columns(cells[address], history.newest(address), scales[address], is_ascii=is_ascii),
        )
    table.add_row("all", *_columns(cells[""], history.newest(""), scales[""], is_ascii=is_ascii))
    more = (
        [Text(f"and {hidden} servers more: make the terminal higher, or name an application by --app")]
        if hidden
        else []
    )
    about = f"the last {history.window_s // 60} min; req/s and p99 of the last {history.bucket_s} s, and all 5xx"
    if history.now_s - history.begins_s < history.window_s - history.bucket_s:
        about += f"; the log begins {history.now_s - history.begins_s:.0f} s ago"
    below = render_causes(every)
    below.append(f"{below.plain and chr(10)}{problem}" if problem else "")
    return Group(render_head(every), Text(about), Text(), table, *more, *([Text(), below] if below.plain else []))


def _rows_that_fit(screen: Console) -> int:
    # Head, titles, the row of all, and some lines of what is wrong.
    return max(screen.height - 10, 1) if screen.is_terminal else 1000


def _short(server: ServerView) -> str:
    # Names of servers in a group differ at their ends.
    return server.name if len(server.name) <= NAME else f"…{server.name[1 - NAME :]}"


def _scale(lines: Sequence[Sequence[Cell]]) -> tuple[float, float, float]:
    every = [cell for line in lines for cell in line]
    return (
        max((cell.requests_per_s for cell in every), default=0),
        max((cell.p99_ms or 0 for cell in every), default=0),
        max((cell.errors_5xx for cell in every), default=0),
    )


def _columns(cells: Sequence[Cell], newest: Cell, most: tuple[float, float, float], *, is_ascii: bool) -> list[Text]:
    errors = sum(cell.errors_5xx for cell in cells)
    rows = (
        (_number(newest.requests_per_s), [cell.requests_per_s for cell in cells], ""),
        (_number(newest.p99_ms), [cell.p99_ms for cell in cells], ""),
        (str(errors), [float(cell.errors_5xx) for cell in cells], "red" if errors else ""),
    )
    return [
        Text(f"{number:>{NUMBER}} {sparkline(values, most[place], is_ascii=is_ascii)}", style=style)
        for place, (number, values, style) in enumerate(rows)
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


@contextlib.contextmanager
def keys() -> Generator[Callable[[float], bool]]:
    """Yield a function that waits for so many seconds, and returns whether `q` was pressed meanwhile."""
    if not sys.stdin.isatty():
        yield lambda seconds: bool(time.sleep(seconds))
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def wait(seconds: float) -> bool:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left_s)[0]:
                typed = os.read(descriptor, 100)
                # Nothing: the terminal is gone.
                if not typed or b"q" in typed.lower():
                    return True
        return False

    # Keys that were typed while the program started count.
    tty.setcbreak(descriptor, termios.TCSADRAIN)
    try:
        yield wait
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def top(
    stack: StackOption = None,
    app: AppOption = None,
    *,
    minutes: Annotated[int, typer.Option("--minutes", min=1, metavar="N", help="How far back it looks.")] = 5,
) -> None:
    """Show requests of each server through the last minutes.

    Refreshed every 2 seconds until `q` or Ctrl-C; in a pipe once. Of all applications, or of one. As attempts in the
    balancer's access log: one that was repeated on a second server counts for both.
    """
    bucket_s, asked_s = max(BUCKET_S, math.ceil(minutes * 60 / BUCKETS)), -math.inf
    history = History(bucket_s, minutes * 60, app=site_identifier(app or ""))
    found: list[tuple[float, list[Target]]] = []

    def look() -> list[Observation]:
        nonlocal asked_s
        if not found or time.monotonic() - found[-1][0] > RESOLVE_S:
            found.append((time.monotonic(), find_all(stack, app)))
        targets, now_s = found[-1][1], time.monotonic()
        # From the second query on, only what is new; the bucket that was not over comes again.
        traffic(targets[0], history, min(now_s - asked_s + 2 * bucket_s, history.window_s + bucket_s))
        asked_s = now_s
        return observe_all(targets)

    screen = console()
    if not screen.is_terminal:
        screen.print(render(look(), history, screen, PIPE_WIDTH))
        return
    try:
        page = render(seen := look(), history, screen, screen.width)
        with keys() as wait, Live(page, console=screen, auto_refresh=False, screen=True) as live:
            while not wait(REFRESH_S):
                try:
                    seen, problem = look(), ""
                except CommandError as error:
                    # It may be replaced at this moment; what was seen stays.
                    problem = str(error)
                live.update(render(seen, history, screen, screen.width, problem=problem), refresh=True)
    except KeyboardInterrupt:
        return
