"""Render what makes a machine report metrics and ship logs to CloudWatch."""

from __future__ import annotations

import json

from rendering.common import files_to_apply, script_files
from rendering.paths import APP_UNITS
from rendering.templates import read_file

ACCESS_LOG = "/var/log/wsgi-fleet/access.log"


def monitoring_files(*, balancer: bool, namespace: str | None, log_group: str | None, group: str | None = None) -> str:
    """Return what makes a machine report metrics to a namespace and ship logs to a group, each where it is not None.

    group: the Auto Scaling group whose metrics they are; None: those of the instance.
    By a step and not in user-data: settings that are changed replace no machine, and 16 KiB are few.
    """
    metrics = ["wsgi-fleet-metrics.service", "wsgi-fleet-metrics.timer"] if namespace else []
    logs = ["wsgi-fleet-logs.service"] if log_group else []
    scripts = ["common/aws_service"] if metrics or logs else []
    files: dict[str, tuple[str, str]] = {}
    if metrics:
        scripts.append("cloudwatch/cloudwatch_metrics")
        reported = {"namespace": namespace, "balancer": balancer, **({"group": group} if group else {})}
        files["/etc/wsgi-fleet/metrics.json"] = "0644", json.dumps(reported)
    if logs:
        scripts += ["cloudwatch/cloudwatch_logs", "cloudwatch/log_source", "common/system"]
        source = {"file": ACCESS_LOG} if balancer else {"units": APP_UNITS}
        files["/etc/wsgi-fleet/logs.json"] = "0644", json.dumps({"group": log_group, **source})
    # App servers have it from their boot.
    if scripts and balancer:
        scripts.append("common/fetch")
    files |= script_files(*scripts)
    files |= {
        f"/etc/systemd/system/{unit}": ("0644", read_file(f"templates/systemd/{unit}")) for unit in metrics + logs
    }
    every = ("wsgi-fleet-metrics.timer", "wsgi-fleet-metrics.service", "wsgi-fleet-logs.service")
    # A report that arrives, and a stream that takes lines.
    off, prove = [unit for unit in every if unit not in metrics + logs], metrics[:1] + logs
    return files_to_apply(files, off=off, prove=prove, on=metrics[1:] + logs)
