"""The stand-in of an Application Load Balancer does what AWS says that one does; small servers are its targets."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, RemoteDisconnected
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from harness.stack import eventually, on
from platforms.lxd import machine
from platforms.lxd.client import Client as LxdClient
from tests.aws.balancing import LOOK_S
from tests.aws.load_balancing import interfaces, public_address
from tests.aws.machines import Ec2OnLxd
from tests.aws.server import image, private_key
from tests.aws.session import Running, running
from tests.aws.subnets import free_block

pytestmark = [pytest.mark.aws, pytest.mark.long]
REGION = "eu-central-1"
# Of the target group: seconds, checks; and of the load balancer.
DELAY_S, INTERVAL_S, THRESHOLD, IDLE_S = 4, 5, 3, 8
SERVER = """\
import http.server, json, os, time, urllib.parse
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, check = "HTTP/1.1", []
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        time.sleep(float(dict(urllib.parse.parse_qsl(query)).get("s", 0)))
        if path == "/health":
            Handler.check = self.headers.items()
        asked = {"name": os.uname().nodename, "headers": self.headers.items(), "check": Handler.check}
        asked["peer"] = self.client_address[0]
        ill = path == "/health" and os.path.exists("/run/ill")
        body = json.dumps(asked).encode()
        self.send_response(500 if ill else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
UNIT = "[Service]\nExecStart=/usr/bin/python3 /srv/server.py\n"
USER_DATA = "#cloud-config\n" + json.dumps(
    {
        "write_files": [
            {"path": "/srv/server.py", "content": SERVER},
            {"path": "/etc/systemd/system/server.service", "content": UNIT},
        ],
        "runcmd": [["systemctl", "start", "server"]],
    }
)


@dataclass
class Site:
    """A load balancer with what it needs."""

    running: Running
    provider: Ec2OnLxd
    made: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list[tuple[str, str, dict[str, Any]]])

    def create(self, type_: str, **inputs: Any) -> str:
        id_, state = self.provider.create(type_, inputs)
        self.made.append((type_, id_, state))
        return id_

    @property
    def elb(self) -> Any:
        return self.running.account.aws.elbv2

    def id(self, word: str, number: int = 0) -> str:
        """Return the id of what was created of a type, by the end of its name."""
        return [id_ for type_, id_, _ in self.made if type_.endswith(f":{word}")][number]

    @property
    def address(self) -> str:
        return public_address(self.id("LoadBalancer"))

    @property
    def servers(self) -> list[str]:
        return [id_ for type_, id_, _ in self.made if type_.endswith(":Instance")]

    def health(self) -> dict[str, tuple[str, str | None]]:
        found = self.elb.describe_target_health(TargetGroupArn=self.id("TargetGroup"))["TargetHealthDescriptions"]
        return {
            each["Target"]["Id"]: (each["TargetHealth"]["State"], each["TargetHealth"].get("Reason")) for each in found
        }

    def states(self) -> list[str]:
        found = self.health()
        return [found.get(each, ("unused", None))[0] for each in self.servers]

    def register(self, *servers: str) -> None:
        targets = [{"Id": each, "Port": 8000} for each in servers]
        self.elb.register_targets(TargetGroupArn=self.id("TargetGroup"), Targets=targets)

    def deregister(self, *servers: str) -> None:
        targets = [{"Id": each} for each in servers]
        self.elb.deregister_targets(TargetGroupArn=self.id("TargetGroup"), Targets=targets)

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(self.address, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()

    def answer(self, path: str = "/", **headers: str) -> dict[str, Any]:
        response, body = self.get(path, headers)
        assert response.status == 200, body
        return json.loads(body)

    def who(self, requests: int = 20) -> set[str]:
        return {self.answer()["name"] for _ in range(requests)}


@pytest.fixture(scope="module")
def site() -> Generator[Site]:
    with running(REGION, f"e2e-{os.getpid()}-alb") as region:
        yield build(region)


def build(region: Running) -> Site:
    """Create two servers and a load balancer in front, all rules and both listeners."""
    site, account, block = Site(region, Ec2OnLxd(region.region)), region.account, free_block()
    vpc = site.create("aws:ec2/vpc:Vpc", cidrBlock=str(block))
    cidrs = [str(each) for each, _ in zip(block.subnets(new_prefix=20), range(3), strict=False)]
    zones = [f"{REGION}{letter}" for letter in "aba"]
    nets = [
        site.create("aws:ec2/subnet:Subnet", vpcId=vpc, cidrBlock=cidr, availabilityZone=zone)
        for cidr, zone in zip(cidrs, zones, strict=True)
    ]
    group = site.create("aws:ec2/securityGroup:SecurityGroup", vpcId=vpc, description="d")
    public = asyncssh.import_private_key(private_key()).export_public_key().decode()
    key = site.create("aws:ec2/keyPair:KeyPair", keyName="k", publicKey=public)
    packed = base64.b64encode(gzip.compress(USER_DATA.encode())).decode()
    ami = image(account)
    for _ in range(2):
        site.create(
            "aws:ec2/instance:Instance", ami=ami, instanceType="t3.micro", keyName=key, subnetId=nets[2],
            vpcSecurityGroupIds=[group], userDataBase64=packed,
        )  # fmt: skip
    balancer = site.create(
        "aws:lb/loadBalancer:LoadBalancer", loadBalancerType="application", internal=False, subnets=nets[:2],
        securityGroups=[group], dropInvalidHeaderFields=True, idleTimeout=IDLE_S,
    )  # fmt: skip
    targets = site.create(
        "aws:lb/targetGroup:TargetGroup", targetType="instance", vpcId=vpc, port=8000, protocol="HTTP",
        loadBalancingAlgorithmType="least_outstanding_requests", deregistrationDelay=DELAY_S,
        healthCheck={
            "path": "/health", "protocol": "HTTP", "port": "traffic-port", "matcher": "200-299", "interval": INTERVAL_S,
            "timeout": 2, "healthyThreshold": THRESHOLD, "unhealthyThreshold": 2,
        },
        stickiness={"type": "lb_cookie", "enabled": False, "cookieDuration": 60},
    )  # fmt: skip
    forward = [{"type": "forward", "targetGroupArn": targets}]
    nobody = {"contentType": "text/plain", "messageBody": "nobody\n", "statusCode": "404"}
    certificate = site.create("aws:acm/certificate:Certificate", domainName="shop.example.org", validationMethod="DNS")
    site.create(
        "aws:lb/listener:Listener", loadBalancerArn=balancer, port=443, protocol="HTTPS", certificateArn=certificate,
        sslPolicy="ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09", defaultActions=forward,
    )  # fmt: skip
    http = site.create(
        "aws:lb/listener:Listener", loadBalancerArn=balancer, port=80, protocol="HTTP",
        defaultActions=[{"type": "fixed-response", "fixedResponse": nobody}],
    )  # fmt: skip
    rules: list[tuple[int, list[Any], list[Any]]] = [
        (20, [{"pathPattern": {"values": ["/", "/a*", "/?.txt"]}}], forward),
        (10, [{"hostHeader": {"values": ["*.Example.org"]}}, {"pathPattern": {"values": ["/a/*"]}}],
         [{"type": "redirect", "redirect": {"protocol": "HTTPS", "port": "443", "statusCode": "HTTP_301"}}]),
    ]  # fmt: skip
    for priority, conditions, actions in rules:
        site.create(
            "aws:lb/listenerRule:ListenerRule",
            listenerArn=http, priority=priority, conditions=conditions, actions=actions,
        )  # fmt: skip
    return site


@pytest.fixture
def serving(site: Site) -> Site:
    """Return the site with both servers healthy."""
    site.register(*(each for each, state in zip(site.servers, site.states(), strict=True) if state != "healthy"))
    eventually(lambda: site.states() == ["healthy", "healthy"], message="both servers are healthy")
    return site


def test_the_first_passed_check_makes_a_target_healthy_whatever_the_threshold(site: Site) -> None:
    eventually(lambda: site.get("/nobody")[0].status == 404, message="the listener is there")
    assert site.get("/")[0].status == 503
    start_s = time.monotonic()
    site.register(*site.servers)
    assert site.states() == ["initial", "initial"]
    eventually(lambda: site.states() == ["healthy", "healthy"], message="both are healthy")
    assert time.monotonic() - start_s < THRESHOLD * INTERVAL_S
    assert site.who() == set(site.servers)


@pytest.mark.parametrize(
    ("host", "path", "status", "location"),
    [
        ("x.example.org", "/", 200, None),
        ("x.example.org", "/abc?x=1", 200, None),
        ("x.example.org", "/b.txt", 200, None),
        ("x.example.org", "/bc.txt", 404, None),
        ("x.example.org", "/A", 404, None),
        ("X.EXAMPLE.org:80", "/a/b?x=1&y", 301, "https://X.EXAMPLE.org:443/a/b?x=1&y"),
        ("example.org", "/a/b", 200, None),
    ],
)
def test_the_rule_of_the_lowest_priority_that_matches_counts(
    serving: Site, host: str, path: str, status: int, location: str | None
) -> None:
    response, body = serving.get(path, {"Host": host})
    assert (response.status, response.headers.get("Location")) == (status, location)
    if status == 404:
        assert (body, response.headers["Content-Type"]) == (b"nobody\n", "text/plain")


def test_a_target_is_told_who_the_client_is_and_gets_no_invalid_header(serving: Site) -> None:
    given = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "gopher", "X_Under": "1", "Host": "a:80"}
    response = serving.answer(**given)
    seen = {key.lower(): value for key, value in response["headers"]}
    own = interfaces(serving.running.account.aws, serving.id("LoadBalancer"))[0]["PrivateIpAddress"]
    assert response["peer"] == own
    with socket.create_connection((serving.address, 80), timeout=5) as connection:
        client = connection.getsockname()[0]
    assert seen["x-forwarded-for"] == f"192.0.2.1, {client}"
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"], seen["host"]) == ("http", "80", "a:80")
    assert "x_under" not in seen


def test_a_check_names_the_target_by_its_address(serving: Site) -> None:
    response = serving.answer()
    seen = {key.lower(): value for key, value in response["check"]}
    found = serving.running.account.aws.ec2.describe_instances(InstanceIds=[response["name"]])["Reservations"][0]
    assert seen["host"] == f"{found['Instances'][0]['PrivateIpAddress']}:8000"
    assert seen["user-agent"] == "ELB-HealthChecker/2.0"


def test_https_has_a_certificate_for_the_names_of_acms(serving: Site) -> None:
    context = ssl.create_default_context(cadata=serving.running.region.authority)
    with (
        socket.create_connection((serving.address, 443), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="shop.example.org") as tls,
    ):
        tls.sendall(b"GET / HTTP/1.0\r\nHost: shop.example.org\r\n\r\n")
        text = b"".join(iter(lambda: tls.recv(65536), b"")).decode()
    seen = dict(json.loads(text.partition("\r\n\r\n")[2])["headers"])
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"]) == ("https", "443")


def test_who_fails_checks_gets_nothing_until_all_do(serving: Site) -> None:
    first, second = serving.servers
    on(first, "touch", "/run/ill")
    eventually(lambda: serving.health()[first] == ("unhealthy", "Target.ResponseCodeMismatch"), message="it is ill")
    assert serving.who() == {second}
    on(second, "touch", "/run/ill")
    eventually(lambda: serving.states() == ["unhealthy", "unhealthy"], message="both are ill")
    assert serving.who() == {first, second}
    for each in serving.servers:
        on(each, "rm", "/run/ill")


def test_a_server_that_refuses_costs_502_until_it_is_found(serving: Site) -> None:
    first, second = serving.servers
    on(first, "systemctl", "stop", "server")
    assert {serving.get("/")[0].status for _ in range(10)} == {200, 502}
    eventually(lambda: serving.health()[first] == ("unhealthy", "Target.FailedHealthChecks"), message="it is found")
    assert serving.who() == {second}
    on(first, "systemctl", "start", "server")


def test_a_deregistered_target_keeps_its_requests_for_the_delay_and_gets_no_more(serving: Site) -> None:
    first, second = serving.servers
    with ThreadPoolExecutor() as pool:
        asked: list[Future[tuple[HTTPResponse, bytes]]] = []
        for seconds in (3, 3, 15, 15):
            # Each goes to the target that has fewer.
            asked.append(pool.submit(serving.get, f"/?s={seconds}"))
            time.sleep(0.3)
        start_s = time.monotonic()
        serving.deregister(first)
        assert serving.states() == ["draining", "healthy"]
        time.sleep(LOOK_S * 2)
        assert serving.who(10) == {second}
        assert {json.loads(each.result()[1])["name"] for each in asked[:2]} == {first, second}
        # One is cut, one is silent for longer than the load balancer waits.
        cut = [each for each in asked[2:] if isinstance(each.exception(), RemoteDisconnected)]
        (other,) = {*asked[2:]} - {*cut}
        assert other.result()[0].status == 504
    assert IDLE_S - 2 < time.monotonic() - start_s < IDLE_S + 3
    assert serving.states() == ["unused", "healthy"]


def test_changes_of_targets_and_rules_lose_no_request(serving: Site) -> None:
    first = serving.servers[0]
    with Clients(serving.address) as clients:
        for _ in range(2):
            serving.deregister(first)
            time.sleep(2)
            serving.register(first)
            time.sleep(2)
            rule = serving.elb.create_rule(
                ListenerArn=serving.id("Listener", 1),
                Priority=5,
                Conditions=[{"Field": "path-pattern", "PathPatternConfig": {"Values": ["/new"]}}],
                Actions=[{"Type": "forward", "TargetGroupArn": serving.id("TargetGroup")}],
            )["Rules"][0]["RuleArn"]
            eventually(lambda: serving.get("/new")[0].status == 200, timeout_s=10, message="the rule counts")
            serving.elb.delete_rule(RuleArn=rule)
            eventually(lambda: serving.get("/new")[0].status == 404, timeout_s=10, message="it does no more")
    assert clients.failed == []
    assert clients.responses > 500
    assert serving.states() == ["healthy", "healthy"]


def test_a_cookie_keeps_a_client_at_its_server_as_long_as_that_is_there(serving: Site) -> None:
    def stick(to: str) -> None:
        attribute = {"Key": "stickiness.enabled", "Value": to}
        serving.elb.modify_target_group_attributes(TargetGroupArn=serving.id("TargetGroup"), Attributes=[attribute])

    stick("true")
    response, body = eventually(
        lambda: next((each for each in [serving.get("/")] if "Set-Cookie" in each[0].headers), None), message="a cookie"
    )
    cookie = SimpleCookie(response.headers["Set-Cookie"])["AWSALB"]
    assert (cookie["max-age"], cookie["path"]) == ("60", "/")
    own, sent = json.loads(body)["name"], {"Cookie": f"AWSALB={cookie.value}"}
    assert {serving.answer(**sent)["name"] for _ in range(10)} == {own}
    serving.deregister(own)
    time.sleep(LOOK_S * 2)
    assert {serving.answer(**sent)["name"] for _ in range(10)} == set(serving.servers) - {own}
    stick("false")


def test_nothing_is_left_of_what_is_deleted(site: Site) -> None:
    for type_, id_, state in reversed(site.made):
        site.provider.delete(type_, id_, state)
    assert machine.machines_of(LxdClient(), site.running.region.owner) == []
    assert list(Path(site.running.region.balancers).iterdir()) == []
    assert site.running.account.aws.ec2.describe_network_interfaces()["NetworkInterfaces"] == []


class Clients:
    """Clients that keep their connections and ask without pause, GET and POST in turn."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self.failed: list[str] = []
        self.responses = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> Clients:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()

    def _run(self) -> None:
        connection = HTTPConnection(self._address, timeout=30)
        while not self._stop.wait(0.02):
            try:
                for method in ("GET", "POST"):
                    connection.request(method, "/")
                    response = connection.getresponse()
                    response.read()
                    if response.status != 200:
                        self.failed.append(f"{method} {response.status}")
                    self.responses += 1
            except (OSError, HTTPException) as error:
                self.failed.append(f"{type(error).__name__} {error}")
                connection.close()
        connection.close()
