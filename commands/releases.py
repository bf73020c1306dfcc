"""`./fleet releases`, `rollback` and `allow`: what was released, and the way back."""

from __future__ import annotations

import itertools
import json
import sys
import textwrap
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from commands.bundle import secrets_of
from commands.progress import wrap
from commands.restarting import find_cause
from commands.status import console, format_age
from commands.target import AppOption, CommandError, JsonOption, StackOption, Target, find
from platforms.transport import Store
from releases import pointers
from releases.hooks import Hooks
from releases.journal import completed_releases, entries
from releases.redaction import Redaction
from releases.release import ID_LENGTH
from releases.rollback import RollbackError, roll_back, target_of
from settings.words import count

CAUSE_WIDTH = 100


def history(store: Store) -> list[dict[str, Any]]:
    """Return rollouts and rollbacks as values, newest first. The current release is marked where it came last."""
    now, rows = pointers.current(store), list[dict[str, Any]]()
    for entry in entries(store):
        is_current = entry.release == now and entry.result == "done" and not any(each["current"] for each in rows)
        rows.append(
            {
                "release": entry.release,
                "when": entry.when,
                "who": entry.who,
                "revision": entry.revision,
                "rollback": entry.is_rollback,
                "result": entry.result,
                "duration_s": entry.seconds,
                "why": entry.why,
                "current": is_current,
                "rejected": pointers.rejection(store, entry.release) is not None,
            }
        )
    return rows


def releases(
    stack: StackOption = None,
    app: AppOption = None,
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, metavar="N", help="How many, from the newest.")] = 20,
    as_values: JsonOption = False,
) -> None:
    """List what was released, and how that ended.

    Rollouts and rollbacks, newest first.
    """
    rows = history(find(stack, app).store)[:lines]
    if as_values:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo("nothing was released yet; `pulumi up` does")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("release", "when (UTC)", "who", "revision", "result", "took", ""):
        # A narrow terminal shortens the other columns: ids are copied from here.
        table.add_column(title, no_wrap=True, min_width=ID_LENGTH if title == "release" else None)
    for each in rows:
        marks = [mark for mark in ("current", "rejected") if each[mark]]
        good = each["result"] == "done"
        table.add_row(
            each["release"],
            each["when"][:16].replace("T", " "),
            each["who"],
            each["revision"] or "-",
            Text(("rollback " if each["rollback"] else "") + each["result"], style="" if good else "red"),
            format_age(each["duration_s"]),
            Text(", ".join(marks), style="green" if each["current"] else "red"),
        )
    console().print(table)
    for each in rows:
        if each["why"]:
            text = f"{each['release']} at {each['when']}: {shorten_cause(each['why'])}"
            typer.echo(wrap(text.splitlines(), sys.stdout), nl=False)


def shorten_cause(why: str) -> str:
    """Return the first line of a cause, and the error of the application that it quotes in indented lines."""
    first, *more = why.splitlines()
    quoted = textwrap.dedent("\n".join(itertools.takewhile(lambda line: line.startswith(" "), more))).splitlines()
    return "\n    ".join(line[:CAUSE_WIDTH] for line in (first, *find_cause(quoted)))


def is_terminal() -> bool:
    """Return whether standard input is a terminal, so that the operator can confirm."""
    return sys.stdin.isatty()


def rollback(
    release: Annotated[
        str | None,
        typer.Argument(
            metavar="RELEASE", show_default=False, help="Id of an earlier release; the default is the previous one."
        ),
    ] = None,
    stack: StackOption = None,
    app: AppOption = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make an earlier release serve at once.

    On all servers. The one that serves now is rejected: `pulumi up` refuses it until the application is changed, or
    you run `./fleet allow`.
    """
    # A rollback waits for machines as long as a rollout does.
    target = find(stack, app, patience_s=None)
    now = pointers.current(target.store)
    try:
        to = target_of(target.store, completed_releases(target.store), release)
    except RollbackError as error:
        raise CommandError(str(error), code=2 if release else 1) from error
    _check_front(target, to)
    try:
        if not yes:
            if not is_terminal():
                raise CommandError(
                    "there is no terminal for the question; run it with --yes. Nothing was changed", code=2
                )
            place = f"{target.app} of stack {target.stack}"
            question = f"{place}: from {now} back to {to} on {count(len(target.servers), 'server')}?"
            if not typer.confirm(question):
                raise CommandError("nothing was changed")
        # Before it begins: while a server says something, the connection to it can ask nothing.
        fleet = target.fleet(typer.echo, Redaction(secrets_of(target)[0]).clean)
        to = roll_back(
            fleet,
            target.store,
            target.servers,
            to,
            typer.echo,
            balancer=target.balancer,
            keeps_static=target.kept is not None,
            live=target.live,
            hooks=Hooks(target.hooks, stack=target.stack, log=typer.echo),
        )
    except RollbackError as error:
        raise CommandError(str(error)) from error
    typer.echo(f"release {to} serves; {now} is rejected (`./fleet allow {now}` takes that back)")


def _check_front(target: Target, release: str) -> None:
    """Raise CommandError for a release that was made for another kind of balancer."""
    manifest = json.loads(target.store.read(f"releases/{release}/manifest.json") or b"{}")
    made_for, here = manifest.get("front", "machine"), "alb" if target.load_balancer else "machine"
    if made_for != here:
        raise CommandError(
            f"release {release} is made for balancer.kind {made_for}, and {here} is in front; set kind to {made_for} "
            "and run `pulumi up`, or name another release (`./fleet releases`)"
        )


def allow(
    release: Annotated[
        str | None,
        typer.Argument(
            metavar="RELEASE", show_default=False, help="Id of a rejected release; without it, those are listed."
        ),
    ] = None,
    stack: StackOption = None,
    app: AppOption = None,
) -> None:
    """Take the rejection of a release back.

    `pulumi up` may roll it out again.
    """
    store = find(stack, app).store
    rejected = [key.removeprefix(pointers.REJECTED) for key in store.keys(pointers.REJECTED)]
    if release is None:
        typer.echo("\n".join(rejected) or "no release is rejected")
        return
    found = [each for each in rejected if each.startswith(release)]
    if len(found) != 1:
        there = f"rejected are {', '.join(rejected)}" if rejected else "none is rejected"
        raise CommandError(f"{release}: no rejected release has this id; {there} (`./fleet releases`)", code=2)
    pointers.allow(store, found[0])
    typer.echo(f"release {found[0]} is allowed again; `pulumi up` rolls it out when the application is that release")
