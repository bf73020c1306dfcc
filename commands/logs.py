"""`./fleet logs`: what the machines log, side by side, each line with the name of its machine."""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from commands.target import BALANCER, AppOption, CommandError, StackOption, Target, find, find_all, server_names
from platforms.transport import Unreachable
from releases.fleet import Server
from releases.redaction import escape_control
from rendering.paths import APP_UNITS

BALANCER_LOGS = ("error", "access")
ONCE_S = 60.0
# A machine ends a follow after this time, so that none outlives a closed terminal; then a new one begins.
FOLLOW_S = 120.0
RETRY_S = 5.0
# A new follow begins so long before the last one ended; what it repeats of that one's last lines is not shown.
OVERLAP_S = 3.0
MAX_REMEMBERED = 500

# The time that an application or a gateway writes into a line after journald's: at its begin, and where uWSGI has it.
_DAY = r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}"
_SECOND = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?[+-]\d\d:?\d\d|Z)?"
_OWN_TIME = re.compile(rf"^(\S+T\S+ \S+: )(?:\[?(?:{_SECOND}|{_DAY})\]?(?: - |[ :,]\s*)|(\[pid.*?)\[{_DAY}\] )")


@dataclass(frozen=True)
class LogSource:
    """One log on one machine. name: stands before its lines. command: prints the last lines, and follows for FOLLOW_S.

    again: the command that takes up the follow, given how many seconds ago it is that all was read.
    """

    name: str
    server: Server
    command: Sequence[str]
    again: Callable[[float], Sequence[str]]


def journalctl_command(lines: int, *, follow: bool = False, since_s: float | None = None) -> list[str]:
    """Return the journalctl command for the application's units.

    since_s: seconds ago by the machine's own clock, in place of lines.
    """
    words = ["journalctl", "--no-pager", "--quiet", "--output=short-iso", "--no-hostname"]
    words += [f"--unit={unit}" for unit in APP_UNITS]
    words += [f"--since=-{math.ceil(since_s)}s", "--lines=all"] if since_s is not None else [f"--lines={lines}"]
    return [*words, "--follow"] if follow else words


def balancer_log(name: str, lines: int, *, follow: bool = False) -> list[str]:
    """Return the command that prints the end of one of the proxy's logs; it follows a rotated one under its name."""
    words = ["tail", "-n", str(lines), f"/var/log/wsgi-fleet/{name}.log"]
    return [*words, "-F"] if follow else words


def sources(target: Target, name: str | None, lines: int, *, follow: bool) -> list[LogSource]:
    """Return the requested logs: the two of the balancer, or the journals of one server or all."""
    if name == BALANCER:
        front = target.machine_in_front(
            "its access log is in S3, where balancer.alb.access_logs is set; without --server, the servers' logs follow"
        )
        return [
            LogSource(
                f"{BALANCER} {log}",
                front,
                balancer_log(log, lines, follow=follow),
                lambda _, log=log: balancer_log(log, 0, follow=True),
            )
            for log in BALANCER_LOGS
        ]
    servers = target.servers if name is None else [target.server(name)]
    return [
        LogSource(
            server.name,
            server,
            journalctl_command(lines, follow=follow),
            lambda since: journalctl_command(0, follow=True, since_s=since),
        )
        for server in servers
    ]


class Output:
    """Standard output that many machines write to, a whole line at a time, names in one column."""

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(map(len, names))
        self._lock = threading.Lock()

    def line(self, name: str, text: str) -> None:
        """Print one line of a machine after the machine's name, with one time."""
        shown = _OWN_TIME.sub(r"\1\2", text)
        if sys.stdout.isatty():
            shown = escape_control(shown)
        with self._lock:
            sys.stdout.write(f"{name:<{self._width}} | {shown}\n")
            sys.stdout.flush()


def read(target: Target, source: LogSource, output: Output) -> str:
    """Print a log once. Why that did not work, or ""."""
    try:
        result = target.run(
            source.server, source.command, timeout_s=ONCE_S, on_line=lambda line: output.line(source.name, line)
        )
    except CommandError as error:
        return str(error)
    return f"{source.name}: `{source.command[0]}` failed with exit code {result.exit_code}" if result.exit_code else ""


def follow(target: Target, source: LogSource, output: Output, ended: threading.Event) -> None:
    """Print a log as it grows, until the event; a machine that is away is tried again."""
    seen: deque[str] = deque(maxlen=MAX_REMEMBERED)
    repeats = frozenset[str]()
    read_until: float | None = None

    def show(line: str) -> None:
        if line not in repeats and not ended.is_set():
            seen.append(line)
            output.line(source.name, line)

    while not ended.is_set():
        now = time.monotonic()
        command = source.command if read_until is None else source.again(now - read_until + OVERLAP_S)
        repeats, pause = frozenset(seen), RETRY_S
        try:
            target.transport.exec(source.server.target, command, timeout_s=FOLLOW_S, on_line=show)
            read_until = time.monotonic()
        except TimeoutError:
            read_until, pause = time.monotonic(), 0.0
        except Unreachable as error:
            output.line(source.name, f"unreachable, next try in {RETRY_S:.0f} s: {error}")
            read_until = now if read_until is None else read_until
        ended.wait(pause)


def logs(
    stack: StackOption = None,
    app: AppOption = None,
    *,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help='One server, or "balancer" for its error and access log; the default is all servers.',
            autocompletion=server_names,
        ),
    ] = None,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they grow, until Ctrl-C.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, metavar="N", help="Lines of the past, of each log.")
    ] = 50,
) -> None:
    """Print what the machines log, side by side.

    Of app servers the applications' units: the gateway's slots, boot, proof of a release, release task, workers and
    schedules. Of the balancer its error and its access log.
    """
    targets = find_all(stack, app) if server is None else [find(stack, app, server)]
    selected = [source for target in targets for source in sources(target, server, lines, follow=following)]
    # They differ by their servers alone, and a source names its own.
    target = targets[0]
    output = Output([source.name for source in selected])
    problems: list[str] = []
    ended = threading.Event()

    def work(source: LogSource) -> None:
        if following:
            follow(target, source, output, ended)
        elif problem := read(target, source, output):
            problems.append(problem)

    # Daemon threads: Ctrl-C ends the command even while a machine does not respond.
    threads = [threading.Thread(target=work, args=(source,), daemon=True) for source in selected]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except KeyboardInterrupt:
        ended.set()
        return
    if problems:
        raise CommandError("\n".join(sorted(problems)))
