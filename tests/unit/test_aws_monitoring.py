"""Alarms on machines of platform aws, and what they get to report metrics and ship logs by themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.mock_engine import Build
from rendering.app_server import app_server_user_data
from rendering.balancer import balancer_user_data
from rendering.paths import APP_UNITS
from rendering.templates import ROOT
from settings.cloudwatch import Alarms, Logs
from tests.unit.aws_fleet import INSTANCE, ROLES, STEP, TOPIC, built
from tests.unit.test_layout import list_imports

ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"


def build_with_alarms(**changes: int) -> Build:
    return built(alarms=Alarms(sns_topic_arn=TOPIC, **changes), logs=Logs(retention_days=30))


def limits(made: Build) -> dict[str, tuple[Any, ...]]:
    """Return alarm -> (namespace, metric, statistic, threshold, minutes, what silence means) of two machines."""
    keys = ("namespace", "metricName", "statistic", "threshold", "evaluationPeriods", "treatMissingData")
    mine = {each.name: each.inputs for each in made.of(ALARM) if not each.name.startswith(("hello-2", "hello-3"))}
    return {name: tuple(inputs[key] for key in keys) for name, inputs in mine.items()}


def test_every_machine_is_watched_for_what_is_bad_and_for_how_long() -> None:
    ours = "wsgi-fleet/prod"
    each = {
        "host": ("AWS/EC2", "StatusCheckFailed_System", "Maximum", 1, 2, "missing"),
        "system": ("AWS/EC2", "StatusCheckFailed_Instance", "Maximum", 1, 3, "missing"),
        "cpu": ("AWS/EC2", "CPUUtilization", "Average", 90, 15, "missing"),
        # A machine that reports nothing is no machine that is healthy.
        "disk": (ours, "DiskUsedPercent", "Maximum", 85, 5, "breaching"),
    }
    more = {
        "errors": (ours, "Errors5xxPercent", "Average", 5, 5, "breaching"),
        "servers": (ours, "UnhealthyServers", "Maximum", 1, 3, "breaching"),
    }
    assert limits(build_with_alarms()) == {
        **{f"hello-1-{name}": limit for name, limit in each.items()},
        **{f"balancer-{name}": limit for name, limit in (each | more).items()},
    }
    assert len(build_with_alarms().of(ALARM)) == 4 * len(each) + len(more)
    assert built().of(ALARM) == []
    moved = limits(build_with_alarms(errors_5xx_percent=50, disk_percent=60))
    assert (moved["balancer-errors"][3], moved["balancer-disk"][3], moved["hello-1-disk"][3]) == (50, 60, 60)


def test_a_topic_is_told_when_an_alarm_goes_off_and_when_it_is_over() -> None:
    made = build_with_alarms()
    for alarm in made.of(ALARM):
        role, _, what = alarm.name.rpartition("-")
        # A failed host and nothing else moves the machine, and a failed system alone restarts it.
        action = {"host": "recover", "system": "reboot"}.get(what)
        actions = [f"arn:aws:automate:eu-central-1:ec2:{action}"] if action else []
        assert (alarm.inputs["alarmActions"], alarm.inputs["okActions"]) == ([*actions, TOPIC], [TOPIC])
        assert alarm.inputs["alarmDescription"].startswith(f"{role} of stack prod: ")
        assert alarm.inputs["dimensions"] == {"InstanceId": f"{role}-id"}
        assert (alarm.inputs["comparisonOperator"], alarm.inputs["period"]) == ("GreaterThanOrEqualToThreshold", 60)
        assert alarm.parent == made.one(INSTANCE, role).urn
        # What a machine reports itself has a value before it has an alarm.
        waits = alarm.depends_on(made.one(STEP, f"{role}-monitoring"))
        assert waits == (what in ("disk", "errors", "servers")), alarm.name


def read_monitoring_input(made: Build, role: str) -> dict[str, Any]:
    """Return the input of a machine's watch step, parsed from JSON."""
    step = made.one(STEP, f"{role}-monitoring")
    assert step.inputs["create"].startswith("sudo -- timeout --kill-after=10 360 python3 -c ")
    return json.loads(step.inputs["stdin"])


@pytest.mark.parametrize("role", ROLES)
def test_a_machine_gets_what_it_reports_and_ships_by_and_loses_it_where_nothing_is_asked_for(role: str) -> None:
    every = ["wsgi-fleet-metrics.timer", "wsgi-fleet-metrics.service", "wsgi-fleet-logs.service"]
    assert read_monitoring_input(built(), role) == {"boot_s": 600, "files": {}, "off": every, "prove": [], "on": []}
    expected, is_balancer = read_monitoring_input(build_with_alarms(), role), role == "balancer"
    files = {Path(path).name: content for path, (_, content) in expected.pop("files").items()}
    # From its boot an app server has fetch.py.
    scripts = ["cloudwatch_metrics.py", "cloudwatch_logs.py", "log_source.py", "system.py", "aws_service.py"]
    scripts += ["fetch.py"] if is_balancer else []
    assert files.keys() == {*every, "metrics.json", "logs.json", *scripts}
    assert expected == {"boot_s": 600, "off": [], "prove": every[1:], "on": [every[0], every[2]]}
    assert json.loads(files["metrics.json"]) == {"namespace": "wsgi-fleet/prod", "balancer": is_balancer}
    source = {"file": "/var/log/wsgi-fleet/access.log"} if is_balancer else {"units": list(APP_UNITS)}
    group = "balancer-log-0e0e0e0" if is_balancer else "hello-log-0e0e0e0"
    assert json.loads(files["logs.json"]) == {"group": group, **source}


@pytest.mark.parametrize(
    ("role", "document", "for_others"),
    [
        ("hello-1", app_server_user_data([]), {"site_state", "balancer_status"}),
        # A step before it brings how it is with servers and traffic.
        ("balancer", balancer_user_data(), {"balancer_status"}),
    ],
)
def test_what_is_brought_needs_only_what_lies_on_its_machine(role: str, document: str, for_others: set[str]) -> None:
    """Check the imports of each script. for_others: what is imported on the other tier alone."""
    paths = [Path(path) for path in read_monitoring_input(build_with_alarms(), role)["files"] if path.endswith(".py")]
    booted = {Path(each["path"]).stem for each in yaml.safe_load(document)["write_files"]}
    # Boot documents do not grow by it.
    assert not booted & {"aws_service", "cloudwatch_metrics", "cloudwatch_logs", "wsgi-fleet-metrics"}
    there = booted | {path.stem for path in paths}
    ours = {path.stem: path for path in (ROOT / "machine").rglob("*.py")}
    for path in paths:
        used = list_imports(ours[path.stem].read_text()) & ours.keys()
        assert used - there == (for_others if path.name == "cloudwatch_metrics.py" else set()), path
