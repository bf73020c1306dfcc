"""With sticky sessions a client reaches the server that it reached before, as long as that one serves."""

from __future__ import annotations

import http.cookiejar
import json
import urllib.request
from collections import Counter
from collections.abc import Callable

import pytest

from harness.stack import Stack

pytestmark = pytest.mark.long


class Visitor:
    """A client that keeps its cookies. servers: those that answered it, in order. given: cookies that it got."""

    def __init__(self, stack: Stack) -> None:
        self.url, self.servers, self.given = stack.url, list[str](), list[str]()
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)

    def ask(self, times: int = 5) -> str:
        """Ask several times. Return the server that answered all of these requests."""
        for _ in range(times):
            with self._opener.open(self.url, timeout=30) as response:
                self.servers.append(json.load(response)["server"])
                self.given += response.headers.get_all("Set-Cookie") or []
        (server,) = set(self.servers[-times:])
        return server


@pytest.mark.parametrize("proxy", ["nginx", "apache"])
def test_a_client_keeps_its_server_through_a_release_and_another_takes_it_when_that_one_is_drained(
    proxy: str, make_stack: Callable[..., Stack]
) -> None:
    stack = make_stack(f"sticky-{proxy}", sticky_sessions=True, fleet={"servers": 3})
    stack.proxy = proxy
    stack.up()
    visitors = [Visitor(stack) for _ in range(30)]
    before = [visitor.ask() for visitor in visitors]
    assert min(Counter(before)[machine] for machine in stack.servers().values()) > 2
    for visitor in visitors:
        (cookie,) = visitor.given
        assert cookie.startswith("wsgi_fleet_probe=")
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
        assert "10." not in cookie
    stack.release_version("second")
    assert [visitor.ask() for visitor in visitors] == before
    name, machine = next(iter(stack.servers().items()))
    assert stack.fleet("drain", name).returncode == 0
    after = [visitor.ask() for visitor in visitors]
    assert [(old, new) for old, new in zip(before, after, strict=True) if old not in {machine, new}] == []
    assert machine not in after
    assert stack.fleet("admit", name).returncode == 0
