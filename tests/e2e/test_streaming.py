"""Server-sent events and WebSockets pass the balancer as they come, outlive other requests, and end in a release."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import time
from collections.abc import Callable, Generator

import aiohttp
import pytest

from harness.stack import Stack, proxy_complaints
from tests.e2e.attacks import exchange, request, statuses
from tests.e2e.test_static import ask

pytestmark = pytest.mark.long

LIMIT_S, DRAIN_S = 3, 5


# Proxy and gateway.
@pytest.fixture(scope="module", params=["nginx gunicorn", pytest.param("apache gevent", marks=pytest.mark.long)])
def shop(request: pytest.FixtureRequest, make_module_stack: Callable[..., Stack]) -> Stack:
    """Create a server whose requests may take 3 seconds, and on some paths ten minutes."""
    proxy, kind = request.param.split()
    stack = make_module_stack(
        f"streaming-{proxy}",
        source="tests/e2e/streaming_app",
        module="app:app",
        gateway={"kind": kind, "processes": 2, "request_timeout_s": LIMIT_S},
        streaming={"paths": ["/events/", "/socket"], "timeout_s": 600, "websockets": True},
        rollout={"bake_s": 0, "drain_timeout_s": DRAIN_S},
        fleet={"servers": 1},
    )
    stack.proxy = proxy
    stack.up()
    return stack


@contextlib.contextmanager
def events(stack: Stack, number: int) -> Generator[http.client.HTTPResponse]:
    """Ask for so many events. Yield the response once it has begun."""
    port = stack.settings["lxd"]["port"]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", f"/events/?{number}", headers={"Accept-Encoding": "gzip"})
        with connection.getresponse() as response:
            yield response


def test_events_arrive_one_by_one_and_longer_than_another_request_may_take(shop: Stack) -> None:
    start_s = time.monotonic()
    with events(shop, LIMIT_S + 3) as response:
        arrived = [(line, time.monotonic() - start_s) for line in response if line != b"\n"]
    assert [line for line, _ in arrived] == [b"data: 1 %d\n" % number for number in range(LIMIT_S + 3)]
    assert [number for number, (_, after_s) in enumerate(arrived) if not number - 0.1 < after_s < number + 0.9] == []
    assert ask(shop, f"/slow?{LIMIT_S + 5}")[0] == (504 if shop.app["gateway"]["kind"] == "gunicorn" else 500)
    assert proxy_complaints(shop.balancer()) == ""


def test_a_websocket_echoes_and_outlives_another_request(shop: Stack) -> None:
    async def talk() -> list[str]:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{shop.url}/socket") as socket:
            heard: list[str] = []
            for word in ("a", "b"):
                await socket.send_str(word)
                heard.append(await socket.receive_str(timeout=10))
                await asyncio.sleep(LIMIT_S + 1)
            return heard

    assert asyncio.run(talk()) == ["1 a", "1 b"]
    upgrade = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {'a' * 22}==",
    )
    # Elsewhere it is a request like others.
    assert statuses(exchange(shop.settings["lxd"]["port"], request("GET / HTTP/1.1", *upgrade))) == (200,)


def test_a_long_header_of_a_response_arrives(shop: Stack) -> None:
    assert b"X-Long: " + b"a" * 20_000 in exchange(shop.settings["lxd"]["port"], request("GET /header?20000 HTTP/1.1"))


def test_a_body_whose_length_is_not_told_is_411_where_nginx_passes_it_on_as_it_comes(shop: Stack) -> None:
    sent = request("POST /events/ HTTP/1.1", "Transfer-Encoding: chunked", body="1\r\na\r\n0\r\n\r\n")
    assert statuses(exchange(shop.settings["lxd"]["port"], sent)) == ((411,) if shop.proxy == "nginx" else (200,))


def test_a_release_cuts_what_still_streams_after_the_time_to_drain(shop: Stack) -> None:
    file = shop.folder / "tests/e2e/streaming_app/app.py"
    file.write_text(re.sub(r'VERSION = ".*"', 'VERSION = "2"', file.read_text()))
    with events(shop, 600) as response:
        assert response.readline() == b"data: 1 0\n"
        shop.up()
        # Not taken for the end of the events: a client comes again.
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            response.read()
    assert ask(shop, "/")[2] == b"2"
