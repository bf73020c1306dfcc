"""The gateways there are: which program runs the application, what it can do, and what it needs on a machine."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from gateways.kind import COMMON_SETTINGS, Gateway

__all__ = ["COMMON_SETTINGS", "GATEWAYS", "Gateway", "markdown_table"]


def _find() -> dict[str, Gateway]:
    """Return the gateways by name, one of each module beside this one but kind.py."""
    modules = [importlib.import_module(f"gateways.{each.name}") for each in pkgutil.iter_modules(__path__)]
    found = [cast("Gateway", module.GATEWAY) for module in modules if hasattr(module, "GATEWAY")]
    return {each.name: each for each in sorted(found, key=lambda each: (each.order, each.name))}


GATEWAYS = _find()


def markdown_table() -> str:
    """Return a Markdown table of what each gateway can do and cannot; docs/gateways.md contains it."""
    process_masters = [kind.process_master for kind in GATEWAYS.values()]
    rows = [
        ("", *(kind.title for kind in GATEWAYS.values())),
        ("---", *("---" for _ in GATEWAYS)),
        ("`gateway.kind`", *(f"`{kind.name}`" for kind in GATEWAYS.values())),
        ("packages", *(", ".join(f"`{each}`" for each in kind.packages) for kind in GATEWAYS.values())),
        ("a request runs in", *(kind.model for kind in GATEWAYS.values())),
        ("several processes", *process_masters),
        ("speaks with the balancer", *(_SPEAKS[kind.protocol] for kind in GATEWAYS.values())),
        ("takes systemd's socket", *("yes" for _ in GATEWAYS)),
        ("with `local_proxy` each process is", *(f"one worker under {master}" for master in process_masters)),
        ("says READY when", *(kind.ready for kind in GATEWAYS.values())),
        ("graceful stop", *(kind.stop for kind in GATEWAYS.values())),
        ("past `request_timeout_s`", *(kind.limit for kind in GATEWAYS.values())),
        ("`streaming`", *(kind.no_streaming or "yes" for kind in GATEWAYS.values())),
        ("`streaming.websockets`", *(kind.no_websockets or "yes" for kind in GATEWAYS.values())),
        ("statistics", *(kind.statistics for kind in GATEWAYS.values())),
        ("refused settings", *(", ".join(f"`{each}`" for each in sorted(kind.unused)) for kind in GATEWAYS.values())),
    ]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |", 1) for cells in rows)


_SPEAKS = {"uwsgi": "the uwsgi protocol", "http": "HTTP, a connection for each request"}
