"""Render what makes a machine report metrics and ship logs to CloudWatch."""

from __future__ import annotations

import json

from rendering.common import SCRIPTS
from rendering.templates import read_file
from rendering.user_data import minified_script

# Of an app server; systemd's names, or patterns of them.
JOURNALS = ("app@*", "nginx", "app-boot", "app-proof", "app-worker-*", "app-schedule-*")
ACCESS_LOG = "/var/log/wsgi-fleet/access.log"


def monitoring_files(*, balancer: bool, namespace: str | None, log_group: str | None) -> str:
    """Return what makes a machine report metrics to a namespace and ship logs to a group, each where it is not None.

    By a step and not in user-data: settings that are changed replace no machine, and 16 KiB are few.
    """
    report = ["wsgi-fleet-report.service", "wsgi-fleet-report.timer"] if namespace else []
    ship = ["wsgi-fleet-ship.service"] if log_group else []
    scripts = ["aws_service"] if report or ship else []
    files: dict[str, tuple[str, str]] = {}
    if report:
        scripts.append("report")
        files["/etc/wsgi-fleet/report.json"] = "0644", json.dumps({"namespace": namespace, "balancer": balancer})
    if ship:
        scripts += ["ship", "log_source"]
        source = {"file": ACCESS_LOG} if balancer else {"units": JOURNALS}
        files["/etc/wsgi-fleet/ship.json"] = "0644", json.dumps({"group": log_group, **source})
    # App servers have it from their boot.
    if scripts and balancer:
        scripts.append("fetch")
    files |= {f"{SCRIPTS}/{name}.py": ("0755", minified_script(name)) for name in scripts}
    files |= {f"/etc/systemd/system/{unit}": ("0644", read_file(f"templates/systemd/{unit}")) for unit in report + ship}
    every = ("wsgi-fleet-report.timer", "wsgi-fleet-report.service", "wsgi-fleet-ship.service")
    return json.dumps(
        {
            "files": files,
            "off": [unit for unit in every if unit not in report + ship],
            # A report that arrives, and a stream that takes lines.
            "prove": report[:1] + ship,
            "on": report[1:] + ship,
        }
    )
