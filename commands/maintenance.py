"""`./fleet maintenance`: clients get a page instead of the application."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.front import set_maintenance
from commands.servers import change_site
from commands.target import CommandError, StackOption, find_all


class Switch(StrEnum):
    """on: clients get 503 and the page. off: the application responds."""

    ON = "on"
    OFF = "off"


def from_user(path: Path) -> Path:
    """Return a path relative to the operator's folder: ./fleet itself works in the project's folder."""
    return Path(os.environ.get("FLEET_FROM", ".")) / path.expanduser()


def page_of(path: Path) -> bytes:
    """Return the content of a page. Raises CommandError where it is unreadable or empty."""
    file = from_user(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CommandError(f"--page {path}: {error.strerror}", code=2) from error
    if not content:
        raise CommandError(f"--page {path} is empty; write what clients shall read", code=2)
    return content


def maintenance(
    switch: Annotated[
        Switch, typer.Argument(metavar="on|off", show_default=False, help="Whether clients get the page.")
    ],
    stack: StackOption = None,
    *,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="HTML file, 1 MiB at most; the default is balancer.error_pages.maintenance, or a plain page.",
        ),
    ] = None,
) -> None:
    """Respond to clients with a page (on), or as usual (off).

    With 503 and `Retry-After: 60`, at once and without a reload, for all applications of the stack. Each
    application still responds on its health path. It stays on until this command turns it off, or the balancer is
    replaced. With balancer.kind alb: 1,024 characters at most, without Retry-After, for health paths as well.
    """
    if page and switch is Switch.OFF:
        raise CommandError("--page goes with `on` only", code=2)
    content, target = page_of(page) if page else b"", find_all(stack, None)[0]
    if target.load_balancer:
        text = content.decode(errors="replace") or target.maintenance_page
        set_maintenance(target, text if switch is Switch.ON else None)
    else:
        change_site(target, ["maintenance", switch.value], stdin=content)
