"""`python -m commands`, which ./fleet starts: the commands, their help, and how they end.

Exit codes: 0 done, 1 it failed or something is unhealthy, 2 it was called wrongly. `exec` ends as its command does.
"""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from commands import (
    bundle,
    config,
    doctor,
    logs,
    maintenance,
    monitoring,
    release_report,
    releases,
    servers,
    status,
    top,
    units,
)
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


app = typer.Typer(
    cls=Commands,
    name="fleet",
    help="Inspect and operate a fleet. The stack is --stack, else FLEET_STACK, else the selected one.",
    epilog="Exit codes: 0 done; 1 failed, or something is unhealthy; 2 called wrongly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in (
    status.status,
    top.top,
    doctor.doctor,
    config.config,
    units.units,
    logs.logs,
    releases.releases,
    release_report.report,
    releases.rollback,
    releases.allow,
    servers.drain,
    servers.admit,
    maintenance.maintenance,
    monitoring.monitoring,
):
    app.command(cls=Command)(function)
# Options after the command's first word are its own.
app.command("exec", cls=Command, context_settings={"allow_interspersed_args": False})(servers.exec_)
for function in (servers.console, servers.shell, bundle.bundle):
    app.command(cls=Command)(function)


if __name__ == "__main__":
    app(prog_name="fleet")
