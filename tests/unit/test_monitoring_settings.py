"""Metrics in the settings and in the resources: who may read them, what installs them, and what a bad value says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import balancer_member
import pytest

from components import configuration
from harness.mock_engine import Build, Secret
from harness.mock_lxd import GROUP, IMAGE, MACHINE, STEP
from harness.program import plan
from rendering.monitoring import OFF
from tests.unit.balancer_build import names_that_tell
from tests.unit.stack_blocks import problems_of, production

ON: Mapping[str, Any] = {"enabled": True}
INGRESS, COMMAND = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "command:remote:Command"
OBJECT = "aws:s3/bucketObjectv2:BucketObjectv2"
NEEDS = "missing; name the security group of your Prometheus (sg-...), or its IPv4 network, such as 10.20.0.0/24"


def local(**monitoring: Any) -> Build:
    return plan("local", monitoring=monitoring)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"monitoring": {"enabled": 3}}, "monitoring.enabled: 3: should be true or false"),
        (
            {"monitoring": {"enabled": True, "scrape_from": "10.0.0.0/24"}},
            "is for platform aws; platform lxd has a machine",
        ),
        ({"monitoring": {"scrape_from": "0.0.0.0/4"}}, "opens the metrics to (nearly) everyone"),
        (
            {"monitoring": {"scrape_from": "sg-1"}},
            "write one such as 198.51.100.0/24, or the id of a",
        ),
        ({"monitoring": {"scrape_from": "10.0.0.1/24"}}, "is an address in a network; write the network, 10.0.0.0/24"),
        ({"monitoring": ON, "lxd": {"port": 9090}}, "lxd.monitoring_port: 9090: is lxd.port as well"),
        (
            {"monitoring": ON, "lxd": {"tls_port": 9090}, "balancer": {"tls": {"self_signed": True}}},
            "lxd.monitoring_port: 9090: is lxd.tls_port as well",
        ),
        (production() | {"monitoring": ON}, f"monitoring.scrape_from: {NEEDS}"),
    ],
)
def test_a_bad_value_is_refused_with_its_path_and_a_remedy(blocks: dict[str, Any], message: str) -> None:
    (line,) = problems_of(blocks)
    assert line.startswith(("monitoring.", "lxd."))
    assert message in line


def test_a_webhook_is_a_secret_and_is_refused_on_aws() -> None:
    blocks = {"monitoring": {"webhook_url": "https://a.test/hunter2"}}
    (line,) = problems_of(blocks, [])
    assert line.startswith("monitoring.webhook_url: (secret): is stored in plain text")
    path = [("monitoring", "webhook_url")]
    assert problems_of(blocks, path) == []
    # Alertmanager does not start with most of them, and logs them.
    bad = (
        "hunter2",
        *(f"https://{text}/hunter2" for text in ("a%zz", "a{b}", "a|", "a%41", "u^:p@a", "[::1", "a/%zz", "")),
    )
    for url in bad:
        (line,) = problems_of({"monitoring": {"webhook_url": url}}, path)
        assert "should be a URL" in line, url
        assert "hunter2" not in line
    for url in ("http://u:p%20@a_b:8080?x=%7B{}", "https://[::1]:443/", "https://a.test#x"):
        assert problems_of({"monitoring": {"webhook_url": url}}, path) == []
    (line,) = problems_of(production() | blocks, path)
    assert line.startswith("monitoring.webhook_url: (secret): is for the Alertmanager of platform lxd")


def test_without_monitoring_nothing_is_open_and_machines_lose_what_they_had() -> None:
    built = local()
    assert [each.name for each in built.of(STEP) if "metrics" in each.name or "monitoring" in each.name] == []
    ports = {rule["port"] for group in built.of(GROUP) for rule in group.inputs["rules"]}
    assert ports == {80, 8000}
    for name in ("hello-1-booted", "balancer-booted"):
        stdin = built.one(STEP, name).inputs["stdin"]
        assert json.loads(stdin.value if isinstance(stdin, Secret) else stdin)["off"] == list(OFF)


def test_monitoring_replaces_no_machine_and_changes_no_image() -> None:
    without, built = local(), local(enabled=True)
    machines = {each.name: each.inputs for each in built.of(MACHINE)}
    assert {name: machines[name] for name in machines if name != "monitoring"} == {
        each.name: each.inputs for each in without.of(MACHINE)
    }
    assert built.one(IMAGE, "image").inputs == without.one(IMAGE, "image").inputs


def test_on_lxd_only_the_machine_with_prometheus_may_read_metrics() -> None:
    built = local(enabled=True)
    rules = {each.name: each.inputs["rules"] for each in built.of(GROUP)}
    assert rules["monitoring"] == []
    monitoring = "10.0.0.2-10.0.0.254"
    assert [rule for rule in rules["app-hello"] if rule["port"] != 8000] == [{"port": 9100, "addresses": monitoring}]
    assert [rule for rule in rules["balancer"] if rule["port"] > 443] == [
        {"port": 9100, "addresses": monitoring},
        {"port": 9113, "addresses": monitoring},
    ]
    assert built.exports["monitoring_url"] == "http://127.0.0.1:9090"


def test_the_machine_with_prometheus_scrapes_every_machine_of_the_stack() -> None:
    built = local(enabled=True)
    step = built.one(STEP, "monitoring-prometheus")
    text = json.loads(step.inputs["stdin"])["files"]["/etc/wsgi-fleet/prometheus/prometheus.yml"][1]
    roles = {each.name for each in built.of(MACHINE)} - {"monitoring"}
    assert all(f'"instance": "{role}"' in text or f'instance: "{role}"' in text for role in roles)


def test_the_url_of_the_webhook_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def encrypted_paths(_: object) -> set[tuple[str, str]]:
        return {("monitoring", "webhook_url")}

    monkeypatch.setattr(configuration, "_encrypted_paths", encrypted_paths)
    built = local(enabled=True, webhook_url="https://a.test/hunter2")
    secret = built.one(STEP, "monitoring-prometheus")
    assert isinstance(secret.inputs["stdin"], Secret)
    assert names_that_tell(built, ["hunter2"]) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sg-0a1b2c3d4e5f60718", {"referencedSecurityGroupId": "sg-0a1b2c3d4e5f60718"}),
        ("10.20.0.0/24", {"cidrIpv4": "10.20.0.0/24"}),
    ],
)
def test_on_aws_one_source_alone_may_read_metrics(source: str, expected: Mapping[str, str]) -> None:
    built = plan("prod", monitoring={"enabled": True, "scrape_from": source})
    rules = [each.inputs for each in built.of(INGRESS) if each.inputs["fromPort"] in (9100, 9113)]
    assert sorted(rule["fromPort"] for rule in rules) == [9100, 9100, 9113]
    for rule in rules:
        found = {key: rule.get(key) for key in ("referencedSecurityGroupId", "cidrIpv4") if rule.get(key)}
        assert found == expected
    names = {each.name for each in built.of(COMMAND)}
    assert {"hello-1-metrics", "balancer-metrics"} <= names
    assert "monitoring-prometheus" not in names


def test_a_group_of_aws_boots_with_its_exporter() -> None:
    hello = production()["apps"]["hello"]
    fleet = {key: value for key, value in hello["fleet"].items() if key != "servers"}
    fleet |= {"capacity": {"min": 1, "max": 2}}
    built = plan(
        "prod",
        apps={"hello": hello | {"fleet": fleet}},
        monitoring={"enabled": True, "scrape_from": "10.20.0.0/24"},
    )
    boot = next(each for each in built.of(OBJECT) if each.name == "hello-boot")
    content = boot.inputs["content"]
    specs = json.loads(content.value if isinstance(content, Secret) else content)
    assert [spec.get("packages") for spec in specs] == [None, None, ["prometheus-node-exporter"]]


def test_a_balancer_that_heals_itself_gets_its_exporter_again_after_its_site() -> None:
    balancer = production()["balancer"] | {"self_healing": True}
    built = plan("prod", balancer=balancer, monitoring={"enabled": True, "scrape_from": "10.20.0.0/24"})
    keys = [each.inputs["key"] for each in built.of(OBJECT) if each.name == "balancer-metrics-kept"]
    assert [key.rpartition("/")[2] for key in keys] == ["metrics.json"]
    assert balancer_member.AFTER[-1] == "metrics"
