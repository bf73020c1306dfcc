"""What machines of platform aws send to CloudWatch by themselves, what they may, and what is brought to them for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from harness.mock_engine import Build
from rendering.app_server import app_server_user_data
from rendering.balancer import balancer_user_data
from rendering.monitoring import JOURNALS
from rendering.templates import ROOT
from settings.watch import Alarms, Logs
from tests.unit.test_aws import INSTANCE, STEP, built, given
from tests.unit.test_aws_alarms import TOPIC
from tests.unit.test_aws_identity import KEY, POLICY, READS, ROLE, statements
from tests.unit.test_layout import imported

GROUP = "aws:cloudwatch/logGroup:LogGroup"
ROLES = ("hello-1", "hello-2", "hello-3", "balancer")
REPORTS = {
    "Effect": "Allow",
    "Action": "cloudwatch:PutMetricData",
    "Resource": "*",
    "Condition": {"StringEquals": {"cloudwatch:namespace": "wsgi-fleet/prod"}},
}


def ships(group: str) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": f"arn:aws:logs:::log-group:{group}:*",
    }


@pytest.fixture(scope="module")
def plain() -> Build:
    return built()


@pytest.fixture(scope="module")
def watched() -> Build:
    return built(alarms=Alarms(sns_topic_arn=TOPIC), logs=Logs(retention_days=30))


def brought(made: Build, role: str) -> dict[str, Any]:
    """Return the input of a machine's watch step, parsed from JSON."""
    step = made.one(STEP, f"{role}-monitoring")
    assert step.inputs["create"].startswith("sudo -- timeout --kill-after=10 360 python3 -c ")
    return json.loads(step.inputs["stdin"])


def names(wanted: dict[str, Any]) -> set[str]:
    return {Path(path).name for path in wanted["files"]}


def test_each_tier_may_report_and_ship_its_own_logs_and_nothing_more(watched: Build) -> None:
    policies = {each.name: statements(each) for each in watched.of(POLICY)}
    assert policies == {
        "app-hello": [*READS, REPORTS, ships("hello-log")],
        "balancer": [REPORTS, ships("balancer-log")],
    }


def test_a_balancer_has_a_role_only_for_what_it_is_to_do(plain: Build) -> None:
    assert [each.name for each in plain.of(ROLE)] == ["app-hello"]
    only_logs = built(logs=Logs())
    assert statements(only_logs.one(POLICY, "balancer")) == [ships("balancer-log")]
    only_alarms = built(alarms=Alarms(sns_topic_arn=TOPIC))
    assert statements(only_alarms.one(POLICY, "balancer")) == [REPORTS]
    assert only_alarms.of(GROUP) == []
    assert only_alarms.one(INSTANCE, "balancer").inputs["iamInstanceProfile"] == "balancer-0d0d0d0"


def test_logs_have_a_place_for_each_tier_that_keeps_them_so_long(watched: Build) -> None:
    kept = {each.name: each.inputs for each in watched.of(GROUP)}
    assert {name: each["retentionInDays"] for name, each in kept.items()} == {"hello-log": 30, "balancer-log": 30}
    assert not any("kmsKeyId" in each for each in kept.values())
    assert watched.exports["logs"] == {"hello": "hello-log-0e0e0e0", "balancer": "balancer-log-0e0e0e0"}


def test_a_key_of_ones_own_encrypts_logs() -> None:
    assert {each.inputs["kmsKeyId"] for each in built(logs=Logs(kms_key_arn=KEY)).of(GROUP)} == {KEY}


def test_nothing_is_brought_and_what_was_is_taken_away_where_nothing_is_asked_for(plain: Build) -> None:
    every = ["wsgi-fleet-metrics.timer", "wsgi-fleet-metrics.service", "wsgi-fleet-logs.service"]
    for role in ROLES:
        assert brought(plain, role) == {"boot_s": 600, "files": {}, "off": every, "prove": [], "on": []}
    assert plain.of(GROUP) == []
    assert plain.exports["logs"] == {}


def test_a_machine_gets_what_it_reports_and_ships_by(watched: Build) -> None:
    reports = {"metrics.json", "cloudwatch_metrics.py", "wsgi-fleet-metrics.service", "wsgi-fleet-metrics.timer"}
    shipped = {"logs.json", "cloudwatch_logs.py", "log_source.py", "system.py", "wsgi-fleet-logs.service"}
    for role in ROLES:
        wanted = brought(watched, role)
        assert names(wanted) - {"fetch.py"} == reports | shipped | {"aws_service.py"}
        # From its boot an app server has it.
        assert ("fetch.py" in names(wanted)) == (role == "balancer")
        assert wanted["off"] == []
        assert wanted["prove"] == ["wsgi-fleet-metrics.service", "wsgi-fleet-logs.service"]
        assert wanted["on"] == ["wsgi-fleet-metrics.timer", "wsgi-fleet-logs.service"]
        config = {name: json.loads(wanted["files"][f"/etc/wsgi-fleet/{name}.json"][1]) for name in ("metrics", "logs")}
        is_balancer = role == "balancer"
        assert config["metrics"] == {"namespace": "wsgi-fleet/prod", "balancer": is_balancer}
        source = {"file": "/var/log/wsgi-fleet/access.log"} if is_balancer else {"units": list(JOURNALS)}
        assert config["logs"] == {"group": f"{'balancer' if is_balancer else 'hello'}-log-0e0e0e0", **source}


@pytest.mark.parametrize(
    ("role", "document", "for_others"),
    [
        ("hello-1", app_server_user_data([]), {"site_state", "balancer_status"}),
        # A step before it brings how it is with servers and traffic.
        ("balancer", balancer_user_data(), {"balancer_status"}),
    ],
)
def test_what_is_brought_needs_only_what_lies_on_its_machine(
    watched: Build, role: str, document: str, for_others: set[str]
) -> None:
    """Check the imports of each script. for_others: what is imported on the other tier alone."""
    paths = [Path(path) for path in brought(watched, role)["files"] if path.endswith(".py")]
    there = {path.stem for path in paths}
    there |= {Path(each["path"]).stem for each in yaml.safe_load(document)["write_files"]}
    ours = {path.stem: path for path in (ROOT / "machine").rglob("*.py")}
    for path in paths:
        used = imported(ours[path.stem]) & ours.keys()
        assert used - there == (for_others if path.name == "cloudwatch_metrics.py" else set()), path


def test_boot_documents_do_not_grow_by_it() -> None:
    for document in (app_server_user_data([]), balancer_user_data()):
        assert "wsgi-fleet-metrics" not in document
        assert "aws_service" not in document


@pytest.mark.parametrize(
    ("logs", "told"),
    [
        ({"retention_days": 31}, "retention_days"),
        ({"retention_days": 0}, "retention_days"),
        ({"kms_key_arn": "alias/logs"}, "should match pattern"),
        ({"kms_key_arn": f"{KEY}\n"}, "should match pattern"),
        ({"days": 30}, "Extra inputs"),
    ],
)
def test_logs_that_cannot_be_kept_so_are_refused(logs: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Logs.model_validate(logs)


def test_a_key_of_another_region_is_refused() -> None:
    told = r"logs.kms_key_arn: is in eu-west-1; take one in region \(eu-central-1\)"
    with pytest.raises(ValidationError, match=told):
        given(logs=Logs(kms_key_arn=KEY.replace("central", "west")))
