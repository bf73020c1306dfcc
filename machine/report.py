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
from collections.abc import Iterator, Mapping, Sequence
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
# Of each location that leads to an application: protocol, upstream, prefix taken off (templates/nginx/pass.conf.j2).
_PASS = re.compile(
    r'(uwsgi|proxy)_pass (?:http://)?(app_\w+);.*?X.FORWARDED.PREFIX "([^"]*)";', re.DOTALL | re.IGNORECASE
)
_MEMBERS = re.compile(r"<Proxy balancer://(\w+)>\n\s*BalancerMember (\w+)://")

# (name, value, unit)
Metric = tuple[str, float, str]


def disk_used_percent(path: str = "/") -> float:
    """As `df` counts it: of what is not kept for root."""
    usage = shutil.disk_usage(path)
    return round(100 * usage.used / (usage.used + usage.free), 1)


def answers(protocol: str, address: str, path: str, port: int = PORT) -> bool:
    """Whether a server answers GET of that path with 200, asked as the balancer does: by uwsgi, or by HTTP (proxy)."""
    return (by_uwsgi if protocol == "uwsgi" else by_http)(address, path, port)


def by_http(address: str, path: str, port: int) -> bool:
    """The same, by HTTP."""
    connection = http.client.HTTPConnection(address, port, timeout=ANSWER_S)
    try:
        connection.request("GET", path, headers={"Host": "localhost", "X-Forwarded-Proto": "http"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def by_uwsgi(address: str, path: str, port: int) -> bool:
    """The same, in the uwsgi protocol.

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


def of_apache(site: str) -> Iterator[tuple[str, str, str]]:
    """The same of a site of Apache (templates/apache/places.conf.j2)."""
    for upstream, protocol in _MEMBERS.findall(site):
        prefix = re.search(rf'X-Forwarded-Prefix "(\S*)"(?:\n(?!\s*</Location).*)*? balancer://{upstream} ', site)
        yield protocol, upstream, prefix[1] if prefix else ""


def unhealthy(site: str, members: Mapping[str, Sequence[str]], drained: Sequence[str], probes: Sequence[str]) -> int:
    """How many servers do not answer of those that are wanted and that nobody drained.

    members: by upstream. probes: UPSTREAM=HOST/PATH, as proxy_site.py keeps them.
    """
    passes = {upstream: (protocol, prefix) for protocol, upstream, prefix in [*_PASS.findall(site), *of_apache(site)]}
    asked: list[tuple[str, str, str]] = []
    for probe in probes:
        upstream, _, place = probe.partition("=")
        protocol, prefix = passes.get(upstream, ("uwsgi", ""))
        path = "/" + place.partition("/")[2]
        asked += [
            (protocol, address, path.removeprefix(prefix))
            for address in members.get(upstream, ())
            if address not in drained
        ]
    with ThreadPoolExecutor(PROBES) as pool:
        return list(pool.map(answers, *zip(*asked, strict=True))).count(False) if asked else 0


def of_balancer() -> Iterator[Metric]:
    """What the balancer alone knows."""
    # They lie on a balancer alone.
    import proxy_site  # noqa: PLC0415
    import traffic  # noqa: PLC0415

    seen = traffic.measure(*traffic.recent(time.time()))
    # Maintenance answers 503 on purpose.
    errors = 0 if proxy_site.PAGE.exists() else seen["errors_5xx"]
    yield "Errors5xxPercent", round(100 * errors / max(seen["requests"], 1), 2), "Percent"
    known, site = proxy_site.known, proxy_site.wanted()
    count = unhealthy(site, proxy_site.members(site), known(proxy_site.DRAINED), known(proxy_site.PROBES))
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
