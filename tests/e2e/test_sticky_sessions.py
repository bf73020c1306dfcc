"""With sticky sessions a client reaches the server that it reached before, as long as that one serves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from harness.stack import Stack
from tests.e2e.test_applications import Site

pytestmark = pytest.mark.long


class Visitor(Site):
    """A client that keeps its cookies. given: cookies that it got, in order."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.given: list[str] = []

    def server(self, times: int = 5) -> str:
        """Ask several times. Return the server that answered all of these requests."""
        servers: set[str] = set()
        for _ in range(times):
            status, headers, body = self.ask("/")
            assert status == 200, body
            servers.add(json.loads(body)["server"])
            self.given += headers.get_all("Set-Cookie") or []
        (server,) = servers
        return server


@pytest.mark.parametrize("proxy", ["nginx", "apache"])
def test_a_client_keeps_its_server_through_a_release_and_another_takes_it_when_that_one_is_drained(
    proxy: str, make_stack: Callable[..., Stack]
) -> None:
    stack = make_stack(f"sticky-{proxy}", sticky_sessions=True, fleet={"servers": 3})
    stack.proxy = proxy
    stack.up()
    visitors = [Visitor(stack.url) for _ in range(30)]
    before = [visitor.server() for visitor in visitors]
    assert min(Counter(before)[machine] for machine in stack.servers().values()) > 2
    for visitor in visitors:
        (cookie,) = visitor.given
        assert cookie.startswith("wsgi_fleet_probe=")
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
        assert "10." not in cookie
    stack.release_version("second")
    assert [visitor.server() for visitor in visitors] == before
    name, machine = next(iter(stack.servers().items()))
    assert stack.fleet("drain", name).returncode == 0
    after = [visitor.server() for visitor in visitors]
    assert [(old, new) for old, new in zip(before, after, strict=True) if old not in {machine, new}] == []
    assert machine not in after
    assert stack.fleet("admit", name).returncode == 0
