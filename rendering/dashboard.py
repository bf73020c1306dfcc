"""Render a dashboard for Grafana (10 and later) with the metrics of a fleet. templates/prometheus/ has its panels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from rendering.templates import read_file

# Grafana's columns, and the size of a panel.
COLUMNS, WIDTH, HEIGHT = 24, 8, 7
# As Grafana 10 writes it; later versions migrate it.
SCHEMA_VERSION = 38
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Variable -> what it may be.
_VARIABLES = {
    "stack": "label_values(wsgi_fleet_collection_success, stack)",
    "app": 'label_values(wsgi_fleet_release_info{stack="$stack"}, app)',
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it. One chooses the data source, the stack and applications there."""
    return {
        "title": "wsgi-fleet",
        "uid": "wsgi-fleet",
        "tags": ["wsgi-fleet"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "templating": {"list": [*_variables()]},
        "panels": [*_panels()],
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "type": "datasource", "label": "Prometheus", "query": "prometheus"}
    for name, query in _VARIABLES.items():
        several = {"multi": True, "includeAll": True, "allValue": ".*"} if name == "app" else {}
        shared = {"name": name, "type": "query", "datasource": _SOURCE, "refresh": 2, "sort": 1}
        yield {**shared, "definition": query, "query": {"query": query, "refId": name}, **several}


def _panels() -> Iterator[dict[str, Any]]:
    rows: Mapping[str, Mapping[str, Mapping[str, str]]] = yaml.safe_load(
        read_file("templates/prometheus/dashboard.yml")
    )
    id_, top, beside = 0, 0, COLUMNS // WIDTH
    for row, panels in rows.items():
        id_ += 1
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"id": id_, "type": "row", "title": row, "collapsed": False, "gridPos": place, "panels": []}
        for number, (title, panel) in enumerate(panels.items()):
            id_ += 1
            left, below = number % beside * WIDTH, top + 1 + number // beside * HEIGHT
            yield _panel(id_, title, panel) | {"gridPos": {"x": left, "y": below, "w": WIDTH, "h": HEIGHT}}
        top += 1 + -(-len(panels) // beside) * HEIGHT


def _panel(id_: int, title: str, panel: Mapping[str, str]) -> dict[str, Any]:
    queries = {legend: query for legend, query in panel.items() if legend != "unit"}
    targets = [
        {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query, "legendFormat": legend or title}
        for number, (legend, query) in enumerate(queries.items())
    ]
    defaults = {"unit": panel["unit"], "min": 0}
    return {
        "id": id_,
        # What has one value is shown as a number.
        "type": "stat" if "" in queries else "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {},
        "targets": targets,
    }
