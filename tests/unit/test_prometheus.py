"""What Prometheus and Alertmanager are configured with: promtool reads it, and each alert fires for its fault alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from metric_families import BUCKETS_S, FAMILIES

from harness.promtool import check, promtool
from rendering.dashboard import dashboard
from rendering.prometheus import ScrapedMachine, alert_rules, monitoring_user_data, prometheus_files, scrape_config

needs_promtool = pytest.mark.skipif(promtool() is None, reason="needs promtool, of Debian's package prometheus")
RULES: Sequence[Mapping[str, Any]] = yaml.safe_load(alert_rules())["groups"][0]["rules"]
MACHINES = [ScrapedMachine("hello-1", "10.0.0.1"), ScrapedMachine("balancer", "10.0.1.1", has_nginx=True)]
STEADY, HOUR = "x600", 60
# Of a histogram with one slow request a second: nothing below 5 s.
SLOW = {
    f'request_duration_seconds_bucket{{app="a",stack="s",le="{bound:g}"}}': "0+60" if bound >= 5 else "0+0"
    for bound in (*BUCKETS_S, float("inf"))
}
# Alert -> series while all is well, and series while it fires. "A+B": begins at A and grows by B in each minute.
CASES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "FleetMachineDown": (
        {'up{job="wsgi-fleet",instance="a-1",stack="s"}': "1+0", 'up{job="other",instance="b",stack="s"}': "0+0"},
        {'up{job="wsgi-fleet",instance="a-1",stack="s"}': "0+0"},
    ),
    "FleetMetricsMissing": (
        {
            'up{job="wsgi-fleet",instance="a-1",stack="s"}': "1+0",
            'collection_success{instance="a-1",stack="s",part="slots"}': "1+0",
        },
        {'up{job="wsgi-fleet",instance="a-1",stack="s"}': "1+0"},
    ),
    "FleetServerUnhealthy": (
        {
            'server_healthy{app="a",server="10.0.0.1",stack="s"}': "0+0",
            'server_drained{app="a",server="10.0.0.1",stack="s"}': "1+0",
        },
        {
            'server_healthy{app="a",server="10.0.0.1",stack="s"}': "0+0",
            'server_drained{app="a",server="10.0.0.1",stack="s"}': "0+0",
        },
    ),
    "FleetApplicationDown": (
        {'server_healthy{app="a",server="1",stack="s"}': "0+0", 'server_healthy{app="a",server="2",stack="s"}': "1+0"},
        {'server_healthy{app="a",server="1",stack="s"}': "0+0", 'server_healthy{app="a",server="2",stack="s"}': "0+0"},
    ),
    "FleetProxyDown": (
        {'proxy_active{instance="b",stack="s"}': "1+0"},
        {'proxy_active{instance="b",stack="s"}': "0+0"},
    ),
    "FleetErrors5xx": (
        {
            'requests_total{app="a",code="200",stack="s"}': "0+96",
            'requests_total{app="a",code="502",stack="s"}': "0+4",
            'requests_total{app="idle",code="502",stack="s"}': "0+0",
        },
        {
            'requests_total{app="a",code="200",stack="s"}': "0+94",
            'requests_total{app="a",code="502",stack="s"}': "0+6",
        },
    ),
    "FleetSlow": ({name: value.replace("0+0", "0+60") for name, value in SLOW.items()}, SLOW),
    "FleetWorkersBusy": (
        {
            'threads{app="a",slot="blue",instance="a-1",stack="s",state="busy"}': "9+0",
            'threads{app="a",slot="blue",instance="a-1",stack="s",state="idle"}': "1+0",
        },
        {
            'threads{app="a",slot="blue",instance="a-1",stack="s",state="busy"}': "10+0",
            'threads{app="a",slot="blue",instance="a-1",stack="s",state="idle"}': "0+0",
        },
    ),
    "FleetRequestsQueue": (
        {'accept_queue_connections{app="a",instance="a-1",stack="s"}': "10+0"},
        {'accept_queue_connections{app="a",instance="a-1",stack="s"}': "11+0"},
    ),
    "FleetRestarts": (
        {'restarts_total{app="a",unit="app@blue.service",instance="a-1",stack="s"}': "0+0"},
        {'restarts_total{app="a",unit="app@blue.service",instance="a-1",stack="s"}': "0+1"},
    ),
    "FleetReleaseDrifted": (
        # A release of a quarter of an hour.
        {'release_drift{app="a",instance="a-1",stack="s"}': "1+0x60 0+0"},
        {'release_drift{app="a",instance="a-1",stack="s"}': "1+0"},
    ),
    # promtool's clock begins at 0.
    "FleetHealthAgentSilent": (
        {
            'health_agent_timestamp_seconds{instance="b",stack="s"}': "0+60",
            'maintenance{instance="b",stack="s"}': "0+0",
        },
        {'health_agent_timestamp_seconds{instance="b",stack="s"}': "0+0"},
    ),
    "FleetCertificateExpires": (
        {'certificate_not_after_timestamp_seconds{instance="b",stack="s"}': f"{16 * 86400}+0"},
        {'certificate_not_after_timestamp_seconds{instance="b",stack="s"}': f"{13 * 86400}+0"},
    ),
    "FleetDiskFull": (
        {
            'node_filesystem_avail_bytes{job="wsgi-fleet",mountpoint="/",instance="a-1",stack="s"}': "11+0",
            'node_filesystem_size_bytes{job="wsgi-fleet",mountpoint="/",instance="a-1",stack="s"}': "100+0",
        },
        {
            'node_filesystem_avail_bytes{job="wsgi-fleet",mountpoint="/",instance="a-1",stack="s"}': "9+0",
            'node_filesystem_size_bytes{job="wsgi-fleet",mountpoint="/",instance="a-1",stack="s"}': "100+0",
        },
    ),
}  # fmt: skip
MORE: Sequence[tuple[str, Mapping[str, str], int]] = (
    ("FleetMetricsMissing", {'collection_success{instance="a-1",stack="s",part="slots"}': "0+0"}, 1),
    ("FleetHealthAgentSilent", {'health_agent_problem{instance="b",stack="s"}': "1+0"}, 1),
    # It has never written anything.
    ("FleetHealthAgentSilent", {'maintenance{instance="b",stack="s"}': "0+0"}, 1),
    ("FleetErrors5xx", {'requests_total{app="a",code="503",stack="s"}': "0+9", 'maintenance{stack="s"}': "1+0"}, 0),
    # The page was there until three minutes ago.
    (
        "FleetErrors5xx",
        {
            'requests_total{app="a",code="200",stack="s"}': "0+0x117 1+9",
            'requests_total{app="a",code="503",stack="s"}': "0+9x117 1053+0",
            'maintenance{stack="s"}': "1+0x117 0+0",
        },
        0,
    ),
    # A lone error while hardly anyone asks.
    ("FleetErrors5xx", {'requests_total{app="a",code="500",stack="s"}': "0+0x116 1+0"}, 0),
)


def full_name(series: str) -> str:
    return series if series.startswith(("up{", "node_")) else f"wsgi_fleet_{series}"


def run_alert(folder: Path, alert: str, series: Mapping[str, str]) -> str:
    """Return what promtool finds to fire after two hours of these series: labels and annotations, "" for nothing."""
    inputs = [{"series": full_name(name), "values": f"{values}{STEADY}"} for name, values in series.items()]
    (folder / "alerts.yml").write_text(alert_rules())
    none: Mapping[str, Any] = {"eval_time": f"{2 * HOUR}m", "alertname": alert, "exp_alerts": []}
    document = {
        "rule_files": ["alerts.yml"],
        "tests": [{"interval": "1m", "input_series": inputs, "alert_rule_test": [none]}],
    }
    (folder / "test.yml").write_text(yaml.safe_dump(document))
    try:
        check("test", "rules", str(folder / "test.yml"))
    except AssertionError as fault:
        # It expects none, so it shows every one.
        return str(fault).partition(f"alertname: {alert}")[2].partition("got:[")[2]
    return ""


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:wsgi_fleet|node|nginx)_\w+|\bup\b", expression))


def exported_names() -> set[str]:
    histograms = [family.name for family in FAMILIES if family.kind == "histogram"]
    of_histograms = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    return {family.name for family in FAMILIES} | of_histograms


@needs_promtool
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_fires_for_its_fault_and_not_while_all_is_well(tmp_path: Path, rule: Mapping[str, Any]) -> None:
    well, ill = CASES[rule["alert"]]
    assert run_alert(tmp_path, rule["alert"], well) == ""
    fires = run_alert(tmp_path, rule["alert"], ill)
    assert fires.count("Labels:") == 1
    assert f'severity="{rule["labels"]["severity"]}"' in fires
    # Go's templates write what they cannot fill in so.
    assert "<" not in fires
    assert "%!" not in fires


@needs_promtool
@pytest.mark.parametrize(("alert", "series", "firing"), MORE)
def test_an_alert_knows_its_other_causes_and_exceptions(
    tmp_path: Path, alert: str, series: Mapping[str, str], firing: int
) -> None:
    assert run_alert(tmp_path, alert, series).count("Labels:") == firing


@needs_promtool
def test_promtool_reads_the_whole_configuration_with_hostile_names(tmp_path: Path) -> None:
    hostile = "a\"b'\n- c: {{ d }}"
    files = json.loads(prometheus_files(hostile, [*MACHINES, ScrapedMachine(hostile, "10.0.0.9")], ""))["files"]
    for path, (_, text) in files.items():
        (tmp_path / Path(path).name).write_text(text)
    assert "SUCCESS" in check("check", "config", str(tmp_path / "prometheus.yml"))
    jobs = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
    assert jobs[0]["static_configs"][2] == {
        "targets": ["10.0.0.9:9100"], "labels": {"stack": hostile, "instance": hostile},
    }  # fmt: skip


def test_a_scrape_configuration_names_each_machine_and_nginx_of_the_balancer() -> None:
    document = yaml.safe_load(scrape_config("prod", MACHINES))
    found = {
        job["job_name"]: {each["labels"]["instance"]: each["targets"] for each in job["static_configs"]}
        for job in document["scrape_configs"]
    }
    assert found == {
        "wsgi-fleet": {"hello-1": ["10.0.0.1:9100"], "balancer": ["10.0.1.1:9100"]},
        "wsgi-fleet-nginx": {"balancer": ["10.0.1.1:9113"]},
    }
    assert len(yaml.safe_load(scrape_config("prod", MACHINES[:1]))["scrape_configs"]) == 1


@pytest.mark.parametrize("url", ["", 'https://hooks.example.org/?a="b"&c={{ d }}#\u2028'])
def test_alertmanager_posts_to_the_webhook_that_the_settings_name(url: str) -> None:
    files = json.loads(prometheus_files("s", MACHINES, url))["files"]
    mode, text = files["/etc/wsgi-fleet/prometheus/alertmanager.yml"]
    (receiver,) = yaml.safe_load(text)["receivers"]
    assert receiver.get("webhook_configs") == ([{"url": url}] if url else None)
    assert mode == "0600"


def test_alerts_use_only_metrics_that_are_exported_and_say_what_to_do() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "monitoring.md").read_text()
    for rule in RULES:
        used = {name for name in names_in(rule["expr"]) if name.startswith("wsgi_fleet")}
        assert used <= exported_names(), rule["alert"]
        assert f"| `{rule['alert']}` |" in page
    assert {*CASES} == {rule["alert"] for rule in RULES}


def test_the_dashboard_uses_only_metrics_that_are_exported_and_shows_most_of_them() -> None:
    panels = [panel for panel in dashboard()["panels"] if "targets" in panel]
    used = set[str]().union(*(names_in(target["expr"]) for panel in panels for target in panel["targets"]))
    assert {name for name in used if name.startswith("wsgi_fleet")} <= exported_names()
    shown = {family.name for family in FAMILIES if any(name.startswith(family.name) for name in used)}
    assert len(shown) >= 12


@needs_promtool
def test_promtool_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    plain = [text.replace("$__rate_interval", "5m").replace("$stack", "s").replace("$app", "a") for text in expressions]
    rules = [{"record": f"r{number}", "expr": text} for number, text in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in check("check", "rules", str(tmp_path / "rules.yml"))


def test_panels_of_the_dashboard_have_places_of_their_own() -> None:
    document = dashboard()
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len({*ids})
    places = [
        (x, y)
        for panel in document["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len({*places})
    assert max(x for x, _ in places) < 24
    json.dumps(document)


def test_the_machine_boots_without_prometheus_which_a_step_brings() -> None:
    assert "setup-monitoring" in monitoring_user_data()
    assert json.loads(prometheus_files("s", MACHINES, ""))["packages"] == ["prometheus", "prometheus-alertmanager"]
