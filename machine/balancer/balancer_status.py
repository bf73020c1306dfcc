#!/usr/bin/env python3
"""Prints what this balancer does, as JSON: its servers, and what the last minute of its access log says of them.

Runs as root; standard library only. Times in the names' units; nothing is kept between two calls.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import certificate
import proxy
from host_status import host_status
from site_state import HEALTH, PAGE, require_state

# The newest last; the older one is read when the log was rotated within the window.
LOGS = (Path("/var/log/wsgi-fleet/access.log.1"), Path("/var/log/wsgi-fleet/access.log"))
WINDOW_S = 60.0
# Longest tail that is read: at 350 bytes a line 800 requests/s fit a minute; above that the window gets shorter.
TAIL_BYTES = 16 << 20
FIRST_BYTES = 256 << 10
_BETWEEN = re.compile(r", | : ")


@dataclass
class Count:
    """Requests of one kind. seconds: how long each response took."""

    requests: int = 0
    errors_5xx: int = 0
    seconds: list[float] = field(default_factory=list[float])

    def add(self, status: str, seconds: float | None) -> None:
        """Count a request. seconds: None where no response came."""
        self.requests += 1
        self.errors_5xx += status.startswith("5")
        if seconds is not None:
            self.seconds.append(seconds)

    def summary(self, window_s: float) -> dict[str, Any]:
        """Return the counts and times as facts of a window of window_s seconds."""
        return {
            "requests": self.requests,
            "requests_per_s": round(self.requests / window_s, 2),
            "errors_5xx": self.errors_5xx,
            "p50_ms": percentile_ms(self.seconds, 50),
            "p99_ms": percentile_ms(self.seconds, 99),
        }


def percentile_ms(seconds: Sequence[float], percent: int) -> float | None:
    """Return the nearest-rank percentile in milliseconds; None without values."""
    if not seconds:
        return None
    return round(sorted(seconds)[math.ceil(len(seconds) * percent / 100) - 1] * 1000, 1)


def parse_number(text: str) -> float | None:
    """Return the number that a text is; None for another text."""
    try:
        return float(text)
    except ValueError:
        return None


def attempts(line: Mapping[str, Any]) -> Iterator[tuple[str, str, float | None]]:
    """Yield each server that was tried for a request: its address, its status, and its seconds if it responded."""
    parts = [_BETWEEN.split(str(line[key])) for key in ("upstream", "upstream_status", "header_s", "response_s")]
    # Without an upstream all four are empty; Nginx writes "-" for an attempt that brought no header.
    for upstream, status, header, response in zip(*parts, strict=False):
        address, _, port = upstream.rpartition(":")
        if address and port.isdigit():
            yield address, status, parse_number(response) if parse_number(header) is not None else None


def measure(lines: Iterable[dict[str, Any]], window_s: float) -> dict[str, Any]:
    """Count lines of the access log, all within the window. upstreams: by address, each attempt counted where it went.

    A request that a second server saved is one of each, and one response of the whole.
    """
    whole, upstreams = Count(), dict[str, Count]()
    for line in lines:
        whole.add(str(line["status"]), float(line["seconds"]))
        for address, status, seconds in attempts(line):
            upstreams.setdefault(address, Count()).add(status, seconds)
    by_address = {address: count.summary(window_s) for address, count in sorted(upstreams.items())}
    return {"window_s": round(window_s, 1), **whole.summary(window_s), "upstreams": by_address}


@lru_cache(maxsize=256)
def seconds_of(time_: str) -> float:
    """Return the seconds since 1970 of an ISO 8601 time; a log has many lines of one second."""
    return datetime.fromisoformat(time_).timestamp()


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return a line of the log, None where it is not whole.

    The first of a tail is cut, and the last may just be written. apache_log.py has no time for words it cannot read.
    """
    try:
        # Clients send words that are no UTF-8, which Nginx writes as they are.
        match json.loads(line.decode(errors="replace")):
            case {"time": str(time_), **rest} if time_:
                return {"time": time_, **rest}
            case _:
                return None
    except ValueError:
        return None


def seek_since(file: BinaryIO, since_s: float, limit: int = TAIL_BYTES) -> float:
    """Set the file to where lines since then begin, or before. Returns since_s, or a later time if limit cuts them."""
    size, want = file.seek(0, os.SEEK_END), FIRST_BYTES
    while True:
        file.seek(max(size - want, 0))
        first = next((found for found in map(parse_line, file) if found), None)
        file.seek(max(size - want, 0))
        begins = seconds_of(first["time"]) if first else since_s
        if begins < since_s or want >= size:
            return since_s
        if want >= limit:
            return begins
        want = min(want * 4, limit)


def read_recent(now_s: float, logs: Sequence[Path] = LOGS) -> tuple[Iterator[dict[str, Any]], float]:
    """Return lines of the last WINDOW_S seconds, and how many seconds of these are covered."""
    since = now_s - WINDOW_S
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(log.open("rb")) for log in logs if log.exists() and log.stat().st_mtime >= since]
        begin = max([since, *(seek_since(file, since) for file in files)])
        kept = stack.pop_all()

    def read() -> Iterator[dict[str, Any]]:
        with kept:
            for file in files:
                yield from (line for line in map(parse_line, file) if line and seconds_of(line["time"]) >= begin)

    return read(), max(now_s - begin, 1.0)


def health() -> dict[str, Any] | None:
    """Return the last status of upstream_health.py, and its age; None if there is none."""
    try:
        written = json.loads(HEALTH.read_text())
    except (OSError, ValueError):
        return None
    servers = {address: {key: each[key] for key in ("healthy", "why")} for address, each in written["servers"].items()}
    # What an earlier agent wrote has no problem.
    problem = written.get("problem", "")
    return {"age_s": round(time.time() - written["at"], 1), "servers": servers, "problem": problem}


def proxy_state() -> str:
    """Return what systemd says of the proxy, such as "active"."""
    command = ["systemctl", "is-active", proxy.backend().UNIT]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Print the facts of this balancer as JSON. Raises ProxyError where nothing is known of its site."""
    site = require_state()
    facts: dict[str, Any] = {
        "proxy": proxy.backend().TITLE,
        "state": proxy_state(),
        "maintenance": PAGE.exists(),
        "certificate": certificate.facts() if site.site["https"] else None,
        "active": site.active_addresses(),
        "drained": site.drained,
        "health": health(),
        **measure(*read_recent(time.time())),
        "machine": host_status(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    try:
        main()
    except (OSError, proxy.ProxyError) as problem:
        sys.exit(f"error: {problem}")
