"""`pulumi up -s prod` with balancer.kind: alb, by the real engine; see tests/aws/ for what stands in for AWS.

Tests share one fleet of two servers and leave it well; the last one destroys it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Generator
from typing import Any

import pytest

from harness.evidence import assert_nothing_was_lost
from harness.load import Load, LoadOutcome
from harness.stack import eventually, lxc
from tests.aws.load_balancing import machine_name, public_address
from tests.aws.session import Running, running
from tests.aws.stack import AwsStack
from tests.e2e.test_aws import REGION, fleet_output

pytestmark = [pytest.mark.aws, pytest.mark.long]
HOST = "shop.example.com"


class AlbStack(AwsStack):
    """A stack behind a load balancer, whose name no DNS knows."""

    @property
    def elb(self) -> Any:
        return self.running.account.aws.elbv2

    @property
    def arn(self) -> str:
        return self.elb.describe_load_balancers()["LoadBalancers"][0]["LoadBalancerArn"]

    def balancer(self) -> str:
        return machine_name(self.arn)

    def load(self) -> Load:
        trust = self.running.region.authority
        return Load(self.url, trust=trust, address=public_address(self.arn))

    def get(self, path: str = "/") -> Any:
        """Return the response to a request by HTTPS, whose certificate is checked."""
        response, body = self.ask(path, ssl.create_default_context(cadata=self.running.region.authority))
        assert response.status == 200, f"{response.status} {body!r}"
        return json.loads(body)

    def ask(self, path: str, tls: ssl.SSLContext | None = None) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(HOST, timeout=30)
        with contextlib.closing(connection):
            connection.sock = socket.create_connection((public_address(self.arn), 443 if tls else 80), timeout=30)
            if tls:
                connection.sock = tls.wrap_socket(connection.sock, server_hostname=HOST)
            connection.request("GET", path)
            response = connection.getresponse()
            return response, response.read()

    def health(self) -> dict[str, str]:
        """Return instance -> state in the target group, as AWS says it."""
        (group,) = self.elb.describe_target_groups()["TargetGroups"]
        found = self.elb.describe_target_health(TargetGroupArn=group["TargetGroupArn"])["TargetHealthDescriptions"]
        return {each["Target"]["Id"]: each["TargetHealth"]["State"] for each in found}


@pytest.fixture(scope="module")
def region() -> Generator[Running]:
    with running(REGION, f"e2e-{os.getpid()}-alb") as region:
        yield region


@pytest.fixture(scope="module")
def fleet(region: Running, tmp_path_factory: pytest.TempPathFactory) -> Generator[AlbStack]:
    """Create two servers and the load balancer, with a certificate that ACM is asked for."""
    stack = AlbStack.prepare(tmp_path_factory.mktemp("alb"), region, servers=2)
    zone = region.account.aws.route53.create_hosted_zone(Name="example.com", CallerReference="alb")["HostedZone"]["Id"]
    stack.settings["balancer"] = {
        "kind": "alb", "hostnames": [HOST], "alb": {"request_certificate": True, "access_logs": {}}
    }  # fmt: skip
    del stack.settings["aws"]["admin_cidrs"]
    stack.settings["aws"] |= {
        "transport": "instance_connect_endpoint",
        "route53_zone_id": zone.rpartition("/")[2],
        "alarms": {"sns_topic_arn": f"arn:aws:sns:{REGION}:123456789012:fleet"},
    }
    stack.app["fleet"] |= {"local_proxy": True}
    stack.app["gateway"] = {"processes": 2, "request_timeout_s": 10}
    stack.app["rollout"] = {"drain_timeout_s": 10}
    with stack.serving():
        yield stack


def test_clients_find_every_server_by_https_at_the_name(fleet: AlbStack) -> None:
    assert fleet.url == f"https://{HOST}"
    assert {server for server, _ in fleet.responding_servers()} == set(fleet.servers().values())
    response, _ = fleet.ask("/a?b=1")
    assert (response.status, response.headers["Location"]) == (301, f"https://{HOST}:443/a?b=1")
    seen = fleet.get("/headers")
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("https", HOST)
    records = fleet.running.account.aws.route53.list_resource_record_sets(
        HostedZoneId=fleet.settings["aws"]["route53_zone_id"]
    )["ResourceRecordSets"]
    (alias,) = [
        each["AliasTarget"]["DNSName"] for each in records if each["Name"] == f"{HOST}." and each["Type"] == "A"
    ]
    assert alias.rstrip(".") == fleet.elb.describe_load_balancers()["LoadBalancers"][0]["DNSName"]


def test_a_second_up_and_a_refresh_find_nothing_to_do(fleet: AlbStack) -> None:
    fleet.up("--expect-no-changes")
    fleet.pulumi("refresh", "--yes", "--skip-preview", "-s", fleet.name, "--expect-no-changes")


def test_a_release_loses_no_request(fleet: AlbStack) -> None:
    with fleet.load() as load:
        fleet.release_version("two")
        load.wait_for(50)
    print(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert set(load.outcome.versions) == {"1", "two"}
    assert fleet.responding_servers() == {(machine, "two") for machine in fleet.servers().values()}


def test_a_drained_server_gets_nothing_and_one_that_is_admitted_its_share(fleet: AlbStack) -> None:
    name, machine = list(fleet.servers().items())[-1]
    with fleet.load() as load:
        fleet_output(fleet, "drain", name)
        before = load.outcome.servers[machine]
        load.wait_for(100)
        assert load.outcome.servers[machine] == before
        fleet_output(fleet, "admit", name)
        eventually(lambda: load.outcome.servers[machine] > before, message=f"{name} gets requests again")
    print(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)


def test_the_maintenance_page_comes_and_goes(fleet: AlbStack) -> None:
    fleet_output(fleet, "maintenance", "on")
    tls = ssl.create_default_context(cadata=fleet.running.region.authority)
    eventually(lambda: fleet.ask("/", tls)[0].status == 503, timeout_s=10, message="the page")
    fleet_output(fleet, "maintenance", "off")
    eventually(lambda: fleet.ask("/", tls)[0].status == 200, timeout_s=10, message="the application")


def test_a_killed_server_costs_requests_until_its_checks_fail(fleet: AlbStack) -> None:
    """Count what is lost: it is the control of the load as well."""
    name, machine = list(fleet.servers().items())[-1]
    with fleet.load() as load:
        lxc("stop", "--force", machine)
        start_s = time.monotonic()
        eventually(lambda: fleet.health()[machine] == "unhealthy", message=f"{name} is unhealthy")
        found_s = time.monotonic() - start_s
    # With those that began before it was found and ended later.
    print(f"found after {found_s:.1f} s; {load.outcome}")
    assert losses(load.outcome) > 0
    with fleet.load() as load:
        load.wait_for(100)
    assert losses(load.outcome) == 0, load.outcome
    assert json.loads(fleet.fleet("status", "--json").stdout)["healthy"] is False
    lxc("start", machine)
    eventually(lambda: fleet.health()[machine] == "healthy", message=f"{name} is healthy")
    assert machine in {server for server, _ in fleet.responding_servers()}


def losses(outcome: LoadOutcome) -> int:
    return len(outcome.failed_fresh) + len(outcome.failed_kept)


def test_a_server_goes_after_its_requests_and_none_is_lost(fleet: AlbStack) -> None:
    with fleet.load() as load:
        fleet.app["fleet"]["servers"] = 1
        fleet.up()
        load.wait_for(50)
    print(load.outcome)
    # POSTs of a server that is gone cannot be counted.
    assert losses(load.outcome) == 0, load.outcome
    assert {server for server, _ in fleet.responding_servers()} == set(fleet.servers().values())


def test_destroy_leaves_nothing(fleet: AlbStack) -> None:
    aws = fleet.destroy_protected()
    assert aws.elbv2.describe_load_balancers()["LoadBalancers"] == []
    assert aws.elbv2.describe_target_groups()["TargetGroups"] == []
    assert aws.acm.list_certificates()["CertificateSummaryList"] == []
    assert aws.s3.list_buckets()["Buckets"] == []
    assert aws.cloudwatch.describe_alarms()["MetricAlarms"] == []
    (zone,) = aws.route53.list_hosted_zones()["HostedZones"]
    kinds = {
        each["Type"] for each in aws.route53.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]
    }
    assert kinds == {"NS", "SOA"}
