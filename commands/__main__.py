"""`python -m commands`, which ./fleet starts: the commands, their help, and how they end.

Exit codes: 0 done, 1 it failed or something is unhealthy, 2 it was called wrongly. `exec` ends as its command does.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from commands.progress import wrap
from commands.target import CommandError


class Commands(TyperGroup):
    """Says in one place what failed; a text and no traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse bytes that are no text: what names them could not be printed."""
        for each in args:
            if not each.isascii() and each != each.encode(errors="replace").decode():
                ctx.fail(f"{each!a} is no text in UTF-8")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; CommandError becomes its text and its exit code."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            typer.echo(wrap(f"error: {error}".splitlines(), sys.stderr), err=True, nl=False)
            raise typer.Exit(error.code) from error


class Command(TyperCommand):
    """Names arguments in its help without the types that they have in Python."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        found: list[Any] = super().get_params(ctx)
        for each in found:
            if isinstance(each, TyperArgument):
                each.display_type_rich = lambda ctx: None  # noqa: ARG005
        return found


# Command -> its function, in the order of the help.
COMMANDS = {
    "status": "status.status",
    "top": "top.top",
    "doctor": "doctor.doctor",
    "config": "config.config",
    "units": "units.units",
    "logs": "logs.logs",
    "releases": "releases.releases",
    "report": "release_report.report",
    "rollback": "releases.rollback",
    "allow": "releases.allow",
    "drain": "servers.drain",
    "admit": "servers.admit",
    "maintenance": "maintenance.maintenance",
    "monitoring": "monitoring.monitoring",
    "exec": "servers.exec_",
    "console": "servers.console",
    "shell": "servers.shell",
    "bundle": "bundle.bundle",
}


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Return the program with these commands. Others are not loaded: all of them take half a second."""
    made = typer.Typer(
        cls=Commands,
        name="fleet",
        help="Inspect and operate a fleet. The stack is --stack, else FLEET_STACK, else the selected one.",
        epilog="Exit codes: 0 done; 1 failed, or something is unhealthy; 2 called wrongly.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        module, function = COMMANDS[name].split(".")
        # Options after the first word of `exec` are that command's own.
        settings = {"allow_interspersed_args": False} if name == "exec" else {}
        add = made.command(name, cls=Command, context_settings=settings)
        add(getattr(importlib.import_module(f"commands.{module}"), function))
    return made


if __name__ == "__main__":
    called = sys.argv[1:2]
    if called and called[0] in COMMANDS:
        # As a group although it has one command.
        typer.main.get_group(make_app(called))(prog_name="fleet")
    else:
        make_app()(prog_name="fleet")
else:
    app = make_app()
