"""Say what this balancer does, as metrics: its requests, its servers and its certificate. Standard library only."""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import balancer_status
import certificate
import site_state
from exposition import Histogram, Metrics
from log_tail import LogTail

LOG = Path("/var/log/wsgi-fleet/access.log")
# What labels may say: an application may respond with any number. 499 is Nginx's word for a client that has gone.
CODES = {str(int(status)) for status in HTTPStatus} | {"499"}
NO_RESPONSE, OTHER = "000", "other"


class VirtualHost(NamedTuple):
    """Names that share a table, as settings/route.py has them. names: () for every other name."""

    names: Sequence[str]
    table: Sequence[Sequence[str]]


class Routes:
    """The applications by URL. apps: name of an upstream in the site -> the application."""

    def __init__(self, hosts: Sequence[VirtualHost], apps: Mapping[str, str]) -> None:
        self._tables = {name: host.table for host in hosts for name in host.names or ("",)}
        self.apps = apps

    def app_of(self, host: str, uri: str) -> str:
        """Return the application that serves a URL, "" where none does. host and uri are a client's words."""
        # As the proxies read it: without a query, decoded, and "/a/../b" as "/b".
        path = posixpath.normpath("/" + unquote(re.split("[?#]", uri, maxsplit=1)[0]).lstrip("/"))
        table = self._tables.get(host.lower())
        labels = host.lower().split(".")
        for first in range(1, len(labels)):
            table = table if table is not None else self._tables.get("*." + ".".join(labels[first:]))
        table = table if table is not None else self._tables.get("", ())
        fits = [(begin, app) for begin, app in table if begin in ("/", path) or path.startswith(f"{begin}/")]
        return max(fits, key=lambda each: len(each[0]), default=("", ""))[1]


class Balancer:
    """The source of the metrics of a balancer. Its counters begin at 0 with this process, as Prometheus allows."""

    def __init__(self, routes: Routes, log: LogTail) -> None:
        self._routes, self._log = routes, log
        self._requests: dict[tuple[str, str], int] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        # There from the start, so that Prometheus sees the first request.
        self._seconds = {app: Histogram() for app in ["", *routes.apps.values()]}
        for app in self._seconds:
            for code in ("200", "500", "502", "503", "504"):
                self._requests[app, code] = 0
        self._certificate: tuple[float, float] | None = None
        self.parts = {
            "proxy": self.add_proxy,
            "requests": self.add_requests,
            "servers": self.add_servers,
            "certificate": self.add_certificate,
        }

    def count(self, line: Mapping[str, Any]) -> None:
        """Count a request of the access log."""
        app = self._routes.app_of(str(line["host"]), str(line["uri"]))
        key = app, label_of(str(line["status"]))
        self._requests[key] = self._requests.get(key, 0) + 1
        self._seconds[app].observe(float(line["seconds"]))
        for address, status, _ in balancer_status.attempts(line):
            there = address, label_of(status)
            self._attempts[there] = self._attempts.get(there, 0) + 1

    def add_proxy(self, metrics: Metrics) -> None:
        """Add whether the proxy runs: without it there are no requests, so nothing else tells."""
        metrics.add("proxy_active", balancer_status.proxy_state() in ("active", "reloading"))

    def add_requests(self, metrics: Metrics) -> None:
        """Count new lines of the access log, and add the sums."""
        for text in self._log.lines():
            if line := balancer_status.parse_line(text):
                self.count(line)
        for (app, code), number in self._requests.items():
            metrics.add("requests_total", number, app=app, code=code)
        for app, histogram in self._seconds.items():
            metrics.add_histogram("request_duration_seconds", histogram, app=app)

    def add_servers(self, metrics: Metrics) -> None:
        """Add what the site and the health agent say of the servers, and the requests that these got."""
        metrics.add("maintenance", site_state.PAGE.exists())
        health = balancer_status.health()
        if health:
            metrics.add("health_agent_timestamp_seconds", round(time.time() - health["age_s"]))
            metrics.add("health_agent_problem", bool(health["problem"]))
        state = site_state.read_state()
        servers = {
            address: self._routes.apps.get(name, "")
            for name, upstream in state.site["upstreams"].items()
            for address in upstream["servers"]
        }
        # Those that have gone are forgotten, else a group would leave a series for each server that it ever had.
        self._attempts = {each: number for each, number in self._attempts.items() if each[0] in servers}
        for (address, code), number in self._attempts.items():
            metrics.add("upstream_requests_total", number, app=servers[address], server=address, code=code)
        for address, app in servers.items():
            metrics.add("server_drained", address in state.drained, app=app, server=address)
            if health and address in health["servers"]:
                metrics.add("server_healthy", health["servers"][address]["healthy"], app=app, server=address)

    def add_certificate(self, metrics: Metrics) -> None:
        """Add when the certificate expires, where there is one. It is read again when its file is another one."""
        file = certificate.FILE
        written = file.stat().st_mtime if file.exists() else 0.0
        if self._certificate is None or self._certificate[0] != written:
            facts = certificate.facts()
            self._certificate = written, time.time() + facts["expires_in_s"] if facts else 0.0
        if self._certificate[1]:
            metrics.add("certificate_not_after_timestamp_seconds", round(self._certificate[1]))


def label_of(status: str) -> str:
    """Return a status as a label: one that HTTP knows, "000" for none, else "other"."""
    return status if status in CODES else NO_RESPONSE if not status.strip("-0") else OTHER
