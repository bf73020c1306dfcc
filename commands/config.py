"""`./fleet config`: what is in force in a stack and where each value comes from, by the stack file alone."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from commands.stack import PROJECT
from commands.status import console
from commands.target import AppOption, CommandError, JsonOption, StackOption, selected_stack, suggest
from settings.effective import COMPUTED, STACK_FILE, Value, values
from settings.stack import Settings
from settings.stack_file import SettingsError, read


def load_settings(stack: str) -> Settings:
    """Return the settings of a stack file that can be used. Raises CommandError."""
    file = PROJECT / "stacks" / f"Pulumi.{stack}.yaml"
    try:
        return read(file, project=PROJECT)
    except FileNotFoundError as error:
        there = sorted(each.name.split(".")[1] for each in (PROJECT / "stacks").glob("Pulumi.*.yaml"))
        raise CommandError(f"there is no {file.relative_to(PROJECT)}; {suggest(stack, there)}", code=2) from error
    except OSError as error:
        raise CommandError(f"stacks/{file.name[:80]}: {error.strerror}", code=2) from error
    except SettingsError as error:
        raise CommandError(str(error)) from error


def as_json(value: Value) -> dict[str, Any]:
    """Return the fields of a settings.effective.Value; its origin is `from`."""
    return {
        "name": value.name,
        "value": value.value,
        "from": value.origin,
        "derived_from": list(value.derived_from),
        "explanation": value.explanation,
    }


def source_of(value: Value) -> str:
    """Describe where a value comes from: settings of the same application by their ends."""
    block, name, *_ = [*value.name.split("."), ""]
    sources = ", ".join(each.removeprefix(f"{block}.{name}.") for each in value.derived_from)
    return (
        value.origin + (f" of {sources}" if sources else "") + (f": {value.explanation}" if value.explanation else "")
    )


def config(stack: StackOption = None, app: AppOption = None, *, as_values: JsonOption = False) -> None:
    """Show every setting in force, and where it comes from.

    From the stack file, a default, or computed from others. Also of a stack that was never up. Secrets are masked.
    """
    settings = load_settings(selected_stack(stack))
    if app is not None and app not in settings.apps:
        raise CommandError(f"there is no application {app}; {suggest(app, list(settings.apps))}", code=2)
    values_ = [each for each in values(settings) if app is None or each.name.startswith(f"apps.{app}.")]
    if as_values:
        typer.echo(json.dumps([as_json(each) for each in values_], indent=2))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    # A name that breaks cannot be searched for.
    table.add_column("setting", no_wrap=True, min_width=max((len(each.name) for each in values_), default=0))
    for title in ("value", "from"):
        table.add_column(title, overflow="fold")
    for each in values_:
        style = {STACK_FILE: "bold", COMPUTED: "cyan"}.get(each.origin, "")
        text = each.value if isinstance(each.value, str) and each.value.isprintable() else json.dumps(each.value)
        table.add_row(each.name, Text(text or '""'), Text(source_of(each), style=style))
    console().print(table)
