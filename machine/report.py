#!/usr/bin/env python3
"""Publishes what this machine knows of itself as metrics of CloudWatch; a timer starts it each minute.

Of every machine: how full its disk is. Of the balancer: the share of answers that were errors, and how many servers
that it wants do not answer. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from aws_service import Refused, Service

# What the step that brought this script wants of it: namespace, balancer (whether this is one).
CONFIG = Path("/etc/wsgi-fleet/report.json")
# A server that takes longer than this for its health path is no server to wait for.
ANSWER_S = 5.0
PROBES = 64
PORT = 8000
_UPSTREAM, _SERVER = re.compile(r"^upstream \S+ \{"), re.compile(r"^\s*server (\S+):\d+ ")

# (name, value, unit)
Metric = tuple[str, float, str]


def disk_used_percent(path: str = "/") -> float:
    """As `df` counts it: of what is not kept for root."""
    usage = shutil.disk_usage(path)
    return round(100 * usage.used / (usage.used + usage.free), 1)


def members(site: str) -> list[list[str]]:
    """The members that a site names, by application in its order."""
    found: list[list[str]] = []
    for line in site.splitlines():
        if _UPSTREAM.match(line):
            found.append([])
        elif found and (server := _SERVER.match(line)):
            found[-1].append(server[1])
    return found


def answers(address: str, path: str, port: int = PORT) -> bool:
    """Whether a server answers GET of that path with 200, asked in the uwsgi protocol as the balancer does it.

    (uwsgi-docs.readthedocs.io/en/latest/Protocol.html: a header of four bytes, then names and values with their sizes.)
    """
    variables = {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": path,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "HTTP_HOST": "localhost",
        "REMOTE_ADDR": "127.0.0.1",
    }
    words = [word.encode() for pair in variables.items() for word in pair]
    packet = b"".join(struct.pack("<H", len(word)) + word for word in words)
    end = time.monotonic() + ANSWER_S
    try:
        with socket.create_connection((address, port), timeout=ANSWER_S) as connection:
            connection.sendall(struct.pack("<BHB", 0, len(packet), 0) + packet)
            said = b""
            while len(said.split(b"\r\n")[0].split()) < 3 and time.monotonic() < end:
                connection.settimeout(max(end - time.monotonic(), 0.01))
                if not (more := connection.recv(4096)):
                    break
                said += more
    except OSError:
        return False
    return said.split()[1:2] == [b"200"]


def unhealthy(site: str, drained: Sequence[str], paths: Sequence[str]) -> int:
    """How many servers do not answer of those that are wanted and that nobody drained. paths: by application."""
    asked = [
        (address, path)
        for addresses, path in zip(members(site), paths, strict=False)
        for address in addresses
        if address not in drained
    ]
    with ThreadPoolExecutor(PROBES) as pool:
        return list(pool.map(answers, *zip(*asked, strict=True))).count(False) if asked else 0


def of_balancer() -> Iterator[Metric]:
    """What the balancer alone knows."""
    # They lie on a balancer alone.
    import nginx_site  # noqa: PLC0415
    import traffic  # noqa: PLC0415

    seen = traffic.measure(*traffic.recent(time.time()))
    # Maintenance answers 503 on purpose.
    errors = 0 if nginx_site.PAGE.exists() else seen["errors_5xx"]
    yield "Errors5xxPercent", round(100 * errors / max(seen["requests"], 1), 2), "Percent"
    known = nginx_site.known
    count = unhealthy(nginx_site.wanted(), known(nginx_site.DRAINED), known(nginx_site.HEALTH_PATHS))
    yield "UnhealthyMembers", count, "Count"


def form(namespace: str, machine: str, metrics: Sequence[Metric], now: datetime) -> dict[str, str]:
    """PutMetricData (docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html)."""
    fields = {"Action": "PutMetricData", "Version": "2010-08-01", "Namespace": namespace}
    for number, (name, value, unit) in enumerate(metrics, 1):
        each = {
            "MetricName": name,
            "Value": str(value),
            "Unit": unit,
            "Timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Dimensions.member.1.Name": "InstanceId",
            "Dimensions.member.1.Value": machine,
        }
        fields |= {f"MetricData.member.{number}.{key}": text for key, text in each.items()}
    return fields


def main() -> None:
    config = json.loads(CONFIG.read_text())
    metrics: list[Metric] = [("DiskUsedPercent", disk_used_percent(), "Percent")]
    problem = ""
    if config["balancer"]:
        # Without these the disk is told all the same, and who waits for them hears nothing, which is an alarm.
        try:
            metrics += of_balancer()
        except (OSError, ValueError, KeyError) as error:
            problem = f"the balancer does not know: {error!r}"
    service = Service("monitoring")
    body = urlencode(form(config["namespace"], service.machine, metrics, datetime.now(UTC))).encode()
    service.post("application/x-www-form-urlencoded; charset=utf-8", body)
    if problem:
        raise OSError(problem)


if __name__ == "__main__":
    try:
        main()
    except (OSError, http.client.HTTPException, Refused) as error_:
        # "<3>": an error to journald, which keeps nothing less of this unit.
        sys.exit(f"<3>error: nothing was reported: {error_}")
