#!/usr/bin/env python3
"""Publishes metrics of this machine to CloudWatch; a timer starts it each minute.

Of every machine: how full its disk is. Of the balancer: the share of responses that were errors, and how many of its
servers are unhealthy. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aws_service import Refused, Service

# Configuration written by the step that installs this script: namespace, balancer (whether this is one), group (the
# Auto Scaling group whose metrics they are; without it they are the instance's).
CONFIG = Path("/etc/wsgi-fleet/metrics.json")
# It writes each 5 s.
SILENT_S = 30.0

# (name, value, unit)
Metric = tuple[str, float, str]


def disk_used_percent(path: str = "/") -> float:
    """Return the used percentage as `df` counts it: of what is not kept for root."""
    usage = shutil.disk_usage(path)
    return round(100 * usage.used / (usage.used + usage.free), 1)


def count_unhealthy(health: Mapping[str, Any], drained: Sequence[str]) -> int:
    """Return how many servers upstream_health.py finds unhealthy of those that no operator drained.

    health: as balancer_status.py reads it. Raises ValueError if nothing is at work there.
    """
    if health["age_s"] > SILENT_S:
        raise ValueError(f"wsgi-fleet-health.service has written nothing for {health['age_s']:.0f} s")
    return sum(not each["healthy"] for address, each in health["servers"].items() if address not in drained)


def balancer_metrics() -> Iterator[Metric]:
    """Yield the metrics that the balancer alone knows."""
    # These modules exist on a balancer alone.
    import balancer_status  # noqa: PLC0415
    import site_state  # noqa: PLC0415

    status = balancer_status.measure(*balancer_status.read_recent(time.time()))
    # Maintenance responds with 503 on purpose.
    errors = 0 if site_state.PAGE.exists() else status["errors_5xx"]
    yield "Errors5xxPercent", round(100 * errors / max(status["requests"], 1), 2), "Percent"
    if (health := balancer_status.health()) is None:
        raise ValueError("wsgi-fleet-health.service has written nothing yet")
    try:
        drained = site_state.read_state().drained
    except site_state.ProxyError as error:
        raise ValueError(str(error)) from error
    yield "UnhealthyServers", count_unhealthy(health, drained), "Count"


def metrics_form(namespace: str, about: tuple[str, str], metrics: Sequence[Metric], now: datetime) -> dict[str, str]:
    """Return the form of PutMetricData. about: name and value of their dimension.

    See docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html.
    """
    fields = {"Action": "PutMetricData", "Version": "2010-08-01", "Namespace": namespace}
    for number, (name, value, unit) in enumerate(metrics, 1):
        each = {
            "MetricName": name,
            "Value": str(value),
            "Unit": unit,
            "Timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Dimensions.member.1.Name": about[0],
            "Dimensions.member.1.Value": about[1],
        }
        fields |= {f"MetricData.member.{number}.{key}": text for key, text in each.items()}
    return fields


def main() -> None:
    """Publish the metrics of this machine. Raises OSError where the balancer's cannot be read."""
    config = json.loads(CONFIG.read_text())
    metrics: list[Metric] = [("DiskUsedPercent", disk_used_percent(), "Percent")]
    problem = ""
    if config["balancer"]:
        # Without these the disk is still reported; their missing data raise an alarm.
        try:
            metrics += balancer_metrics()
        except (OSError, ValueError, KeyError) as error:
            problem = f"the balancer's metrics cannot be read: {error!r}"
    service = Service("monitoring")
    group = config.get("group")
    about = ("AutoScalingGroupName", group) if group else ("InstanceId", service.machine)
    body = urlencode(metrics_form(config["namespace"], about, metrics, datetime.now(UTC))).encode()
    service.post("application/x-www-form-urlencoded; charset=utf-8", body)
    if problem:
        raise OSError(problem)


if __name__ == "__main__":
    try:
        main()
    except (OSError, http.client.HTTPException, Refused) as error_:
        # "<3>": an error to journald, which keeps nothing less of this unit.
        sys.exit(f"<3>error: nothing was reported: {error_}")
