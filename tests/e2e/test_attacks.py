"""What held under attack holds at each change: no request reaches another, and none runs that was hidden in one."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from harness.evidence import executed_requests
from harness.stack import Stack
from settings.header import FORGEABLE
from tests.e2e.attacks import ATTACKS, Attack, exchange, request, statuses

# Believed by some application, framework or proxy; the last ones are what this balancer sets.
OURS = (
    "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix",
    "X-Remote-User",
)  # fmt: skip


@pytest.fixture(scope="module", params=["nginx", pytest.param("apache", marks=pytest.mark.long)])
def attacked(request: pytest.FixtureRequest, make_module_stack: Callable[..., Stack]) -> Stack:
    """Return a fleet behind a balancer that trusts no proxy: for Nginx the one that other files share."""
    if request.param == "nginx":
        return request.getfixturevalue("fleet")
    stack = make_module_stack("attacks-apache", fleet={"servers": 1}, rollout={"bake_s": 0})
    stack.proxy = "apache"
    stack.up()
    return stack


def port_of(stack: Stack) -> int:
    return stack.settings["lxd"]["port"]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_answered_as_it_should_be_and_the_next_request_is_served(
    attack: Attack, attacked: Stack, security: Callable[..., None]
) -> None:
    response = exchange(port_of(attacked), attack.sent)
    assert statuses(response) == (attack.nginx if attacked.proxy == "nginx" else attack.apache), response[:2000]
    assert attack.body in response or 411 in statuses(response)
    assert statuses(exchange(port_of(attacked), request())) == (200,)
    security("attacks", "requests that no honest client sends", attacked.proxy)


def test_no_smuggled_request_has_run(attacked: Stack) -> None:
    # Other files that share the fleet send POSTs of their own.
    assert "smuggled" not in executed_requests(attacked)


def seen_by_application(stack: Stack, *headers: str) -> dict[str, str]:
    """Return the headers that the application receives when a client sends these headers."""
    response = exchange(port_of(stack), request("GET /headers HTTP/1.0", *headers))
    return json.loads(response.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("name", [*FORGEABLE, *OURS, "Proxy"])
def test_a_client_cannot_pretend_a_header_nor_one_that_looks_like_it(
    name: str, attacked: Stack, security: Callable[..., None]
) -> None:
    plain = seen_by_application(attacked)
    forms = (name, name.lower(), name.upper(), name.replace("-", "_"), name.replace("-", "_", 1))
    for form in dict.fromkeys(forms):
        report = seen_by_application(attacked, f"{form}: 6.6.6.6", f"{form}: 6.6.6.7")
        assert {key for key, value in report.items() if "6.6.6" in value} == set(), form
        assert report.keys() == plain.keys(), form
    security("attacks", "headers that a client may not pretend, each in up to five spellings", attacked.proxy)


def test_an_application_without_websockets_is_asked_for_none(attacked: Stack) -> None:
    """Werkzeug answers 400 to an ordinary path when it receives this header."""
    sent = request("GET /headers HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    response = exchange(port_of(attacked), sent)
    assert b"HTTP_SEC_WEBSOCKET_VERSION" in response
    assert b"HTTP_UPGRADE" not in response


def test_a_long_header_of_a_response_arrives_where_the_proxy_takes_it(attacked: Stack) -> None:
    """Cookies and policies of frameworks get longer than 8 KiB. Apache's client of the uwsgi protocol takes no more."""
    response = exchange(port_of(attacked), request("GET /?header=20000 HTTP/1.1"))
    assert statuses(response) == ((200,) if attacked.proxy == "nginx" else (502,))
