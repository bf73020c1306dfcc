"""The gateways there are: which program runs the application, what it can do, and what it needs on a machine."""

from __future__ import annotations

from gateways import gevent, gunicorn, tornado, uwsgi
from gateways.kind import EVERYWHERE, Kind

__all__ = ["EVERYWHERE", "KINDS", "Kind", "table"]

KINDS = {module.KIND.name: module.KIND for module in (uwsgi, gunicorn, gevent, tornado)}


def table() -> str:
    """Return a Markdown table of what each gateway can do and cannot; docs/gateways.md contains it."""
    rows = [
        ("", *(kind.title for kind in KINDS.values())),
        ("---", *("---" for _ in KINDS)),
        ("`gateway.kind`", *(f"`{kind.name}`" for kind in KINDS.values())),
        ("packages", *(", ".join(f"`{each}`" for each in kind.packages) for kind in KINDS.values())),
        ("a request runs in", *(kind.model for kind in KINDS.values())),
        ("several processes", *(kind.masters for kind in KINDS.values())),
        ("speaks with the balancer", *(_SPEAKS[kind.protocol] for kind in KINDS.values())),
        ("takes systemd's socket", *("yes" for _ in KINDS)),
        ("with `local_proxy` each process is", *(f"one worker under {kind.masters}" for kind in KINDS.values())),
        ("says READY when", *(kind.ready for kind in KINDS.values())),
        ("graceful stop", *(kind.stop for kind in KINDS.values())),
        ("past `request_timeout_s`", *(kind.limit for kind in KINDS.values())),
        ("statistics", *(kind.statistics for kind in KINDS.values())),
        ("refused settings", *(", ".join(f"`{each}`" for each in sorted(kind.unused)) for kind in KINDS.values())),
    ]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |", 1) for cells in rows)


_SPEAKS = {"uwsgi": "the uwsgi protocol", "http": "HTTP, a connection for each request"}
