"""List every metric of our own that machines export for Prometheus. Standard library only.

The table in docs/monitoring.md, the alerts and the dashboard are checked against this list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]
Tier = Literal["every machine", "app servers", "the balancer"]
# Upper bounds in seconds of the histogram: from a cached response to the longest time-out of a request.
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class Family:
    """A metric. labels: their names, in order. tier: the machines that export it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    text: str
    tier: Tier


# Tier -> kind, name without its prefix, labels, text.
_OF_TIER: Mapping[Tier, Sequence[tuple[Kind, str, str, str]]] = {
    "every machine": (
        ("gauge", "collection_success", "part", "Whether this part of the metrics could be read (1) or not (0)."),
    ),
    "app servers": (
        ("gauge", "release_info", "app release slot", "Always 1: the release in a slot that runs."),
        ("gauge", "release_live_timestamp_seconds", "app", "When the release became live, since 1970."),
        ("gauge", "release_drift", "app", "Whether another release is live or runs than the store names."),
        ("gauge", "slot_state", "app slot state", "1 for the state of the slot's unit, 0 for the others."),
        ("gauge", "app_healthy", "app", "Whether the slot that serves responds with 200 on its health path."),
        ("gauge", "workers", "app slot state", "Worker processes: busy with a request, or idle."),
        ("gauge", "threads", "app slot state", "Requests that workers can work on at a time: busy, or idle."),
        ("gauge", "accept_queue_connections", "app", "Connections that wait to be accepted by a worker."),
        ("counter", "restarts_total", "app unit", "How often systemd has restarted a unit of the application."),
    ),
    "the balancer": (
        ("gauge", "proxy_active", "", "Whether Nginx or Apache runs (1) or not (0)."),
        ("counter", "requests_total", "app code", "Requests by status; app is empty where no application has the URL."),
        ("histogram", "request_duration_seconds", "app", "From a request's first byte to its response's last."),
        ("counter", "upstream_requests_total", "app server code", "Attempts by server; code 000: no response."),
        ("gauge", "server_healthy", "app server", "Whether the health agent finds the server healthy."),
        ("gauge", "server_drained", "app server", "Whether an operator has drained the server."),
        ("gauge", "maintenance", "", "Whether the page of maintenance is served instead of the applications."),
        ("gauge", "health_agent_timestamp_seconds", "", "When the health agent last wrote its status, since 1970."),
        ("gauge", "health_agent_problem", "", "Whether the health agent reports a problem of its own."),
        ("gauge", "certificate_not_after_timestamp_seconds", "", "When the certificate expires, since 1970."),
    ),
}
FAMILIES = tuple(
    Family(f"wsgi_fleet_{name}", kind, tuple(labels.split()), text, tier)
    for tier, families in _OF_TIER.items()
    for kind, name, labels, text in families
)
BY_NAME = {family.name: family for family in FAMILIES}


def markdown_table() -> str:
    """Return a Markdown table of the metrics, which docs/monitoring.md contains."""
    rows = [("metric", "kind", "labels", "exported by", "what it is"), ("---",) * 5]
    for each in FAMILIES:
        labels = ", ".join(f"`{name}`" for name in each.labels)
        rows.append((f"`{each.name}`", each.kind, labels, each.tier, each.text))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
