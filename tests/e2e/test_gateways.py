"""The gateways that speak HTTP, on machines: releases under load, what clients may pretend, and a change of gateway."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateways import GATEWAYS
from harness.evidence import failures_logged
from harness.load import Load, LoadOutcome
from harness.stack import Stack, on, proxy_complaints
from tests.combinations import OVER_HTTP

pytestmark = pytest.mark.long

# As many requests at a time as the load sends.
MORE = {"gunicorn sync": {"processes": 8}, "tornado": {"threads": 8}}
KINDS = {name: given | MORE.get(name, {}) for name, given in OVER_HTTP.items()}
USUAL = "gunicorn gthread"


@pytest.fixture(scope="module")
def fleet(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create two servers. A test may give them any gateway; it leaves both serving one release."""
    stack = make_module_stack("gateways", gateway=KINDS[USUAL], fleet={"servers": 2})
    stack.up()
    return stack


def run_by(stack: Stack, gateway: dict[str, Any]) -> None:
    """Give the servers this gateway, unless they have it."""
    if stack.app["gateway"] != gateway:
        stack.app["gateway"] = gateway
        stack.up()


def ask(stack: Stack, target: str, headers: dict[str, str]) -> tuple[int, dict[str, Any], str]:
    """Return status, JSON and request id of the response to a request that is sent exactly as given."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.settings["lxd"]["port"], timeout=30)
    connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    text, status = response.read(), response.status
    connection.close()
    return status, json.loads(text) if status == 200 else {}, response.headers["X-Request-ID"] or ""


def assert_the_balancer_alone_is_believed(seen: dict[str, Any], request_id: str) -> None:
    """Check what the application saw of a forged request by a client on this machine for Shop.example.org:8080."""
    assert (seen["HTTP_X_FORWARDED_FOR"], seen["HTTP_X_REAL_IP"]) == ("127.0.0.1", "127.0.0.1")
    assert (seen["HTTP_X_FORWARDED_PROTO"], seen["wsgi.url_scheme"]) == ("http", "http")
    assert seen["HTTP_HOST"] == seen["HTTP_X_FORWARDED_HOST"] == "Shop.example.org:8080"
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"], seen["HTTP_X_FORWARDED_PORT"]) == (
        "Shop.example.org", "8080", "8080",
    )  # fmt: skip
    assert "HTTP_PROXY" not in seen
    assert seen["HTTP_X_REQUEST_ID"] == request_id != 'bad"id'


@pytest.mark.parametrize(
    "gateway",
    [pytest.param(given, id=name, marks=[] if name == USUAL else pytest.mark.long) for name, given in KINDS.items()],
)
def test_a_release_loses_no_request(
    fleet: Stack, gateway: dict[str, Any], table: Callable[[LoadOutcome], None]
) -> None:
    run_by(fleet, gateway)
    machines = fleet.servers()
    with Load(fleet.url) as load:
        fleet.release_version(f"{gateway} once more")
        load.wait_for(50)
    table(load.outcome)
    assert load.outcome.failed_fresh == [], load.outcome
    assert load.outcome.failed_kept == [], load.outcome
    assert failures_logged(fleet) == []
    assert len(load.outcome.versions) == 2
    assert fleet.servers() == machines
    assert fleet.responding_servers() == {(machine, f"{gateway} once more") for machine in machines.values()}


def test_a_client_can_neither_pretend_nor_walk_around_the_rules_of_the_site(fleet: Stack) -> None:
    spoofed = {
        "Host": "Shop.example.org:8080",
        "X-Forwarded-For": "6.6.6.6",
        "X_Forwarded_For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "X_Forwarded_Proto": "https",
        "X-Forwarded-Host": "evil.example.org",
        "X-Forwarded-Port": "1",
        "X-Forwarded-SSL": "on",
        "X-Real-IP": "6.6.6.6",
        "X_Real_IP": "6.6.6.6",
        "Proxy": "http://evil",
        "Connection": "keep-alive, X-Forwarded-For",
        "X-Request-ID": 'bad"id',
    }
    status, seen, request_id = ask(fleet, "/private/..//headers?a=%2F", spoofed)
    # The application is asked for the path that Nginx chose its rules by.
    assert status == 200
    assert_the_balancer_alone_is_believed(seen, request_id)
    big = {"Host": "a", "Cookie": "c" * 14_000}
    assert ask(fleet, "/headers?" + "q" * 14_000, big)[1]["HTTP_COOKIE"] == "c" * 14_000
    # Neither a line break in the path nor a percent sign becomes anything else on the way.
    assert ask(fleet, "/%0d%0aX-Evil:%201/%2525?", {"Host": "a"})[0] == 200
    status = fleet.fleet("status", "--json")
    assert status.returncode == 0, status.stderr
    servers = json.loads(status.stdout)["servers"]
    assert [(each["state"], each["workers_busy"], each["listen_queue"]) for each in servers] == [("serving", 0, 0)] * 2


def test_what_was_rendered_is_well_to_those_who_read_it(fleet: Stack) -> None:
    server = next(iter(fleet.servers().values()))
    assert proxy_complaints(fleet.balancer()) == ""
    for unit in ("app@blue.service", "app-proof.service", "app.socket"):
        assert on(server, "systemd-analyze", "verify", unit) == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(*(KINDS.get(kind, {"kind": kind}) for kind in pair), id=" to ".join(pair), marks=pytest.mark.long)
        for pair in zip(GATEWAYS, [*list(GATEWAYS)[1:], next(iter(GATEWAYS))], strict=True)
    ],
)
def test_another_gateway_comes_with_new_servers_and_loses_no_request_on_fresh_connections(
    fleet: Stack, before: dict[str, Any], after: dict[str, Any], table: Callable[[LoadOutcome], None]
) -> None:
    run_by(fleet, before)
    old, release = set(fleet.servers().values()), fleet.get()["release"]
    with Load(fleet.url) as load:
        run_by(fleet, after)
        load.wait_for(50)
    table(load.outcome)
    new = set(fleet.servers().values())
    assert load.outcome.failed_fresh == [], load.outcome
    assert old.isdisjoint(new)
    assert {server for server, _ in fleet.responding_servers()} == new
    # No way back without the servers: what was made for the other gateway is refused, and nothing is harmed.
    serves = fleet.get()["release"]
    back = fleet.fleet("rollback", release, "--yes")
    assert back.returncode != 0
    report = " ".join((back.stdout + back.stderr).split())
    assert f"{release} is made for the gateway {before['kind']}, and this server runs {after['kind']}" in report, report
    assert {fleet.get()["release"] for _ in range(20)} == {serves}
