"""The requests that a gateway's worker works on as its companion reads them, and the sockets that it looks at."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any
from unittest.mock import Mock

import pytest
from gateway_requests import RUNNING, Requests
from gateway_sockets import waiting_s


@pytest.mark.parametrize("lead", ["", "a"])
def test_a_name_is_cut_to_what_an_entry_can_contain_also_within_a_character(lead: str) -> None:
    requests, name = Requests(1), f"GET '/{lead}{'é' * 90}\udc80'"
    requests.begin(7, 8, 60.0, name)
    ((state, fd, thread, *_, text),) = requests.in_flight()
    assert (state, fd, thread) == (RUNNING, 7, 8)
    assert len(text) > 80
    assert name.startswith(text.rstrip("\N{REPLACEMENT CHARACTER}"))


def test_a_request_that_is_just_entered_did_not_begin_at_0() -> None:
    """Enter requests in another process as fast as it can, and read them here, as a companion does."""
    requests, began = Requests(1), time.monotonic()
    if not (writer := os.fork()):
        while True:
            requests.end(requests.begin(0, 0, 60.0, "GET '/'"))
    try:
        seen = [start for _ in range(100_000) for *_, start, _, _ in requests.in_flight()]
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert len(seen) > 1000
    assert min(seen) >= began


def test_when_a_request_last_began_is_known_after_it_has_ended() -> None:
    requests = Requests(2)
    assert requests.last_begin() == 0
    first = requests.begin(0, 0, 60.0, "GET '/'")
    before = time.monotonic()
    requests.end(requests.begin(0, 0, 60.0, "GET '/'"))
    assert requests.last_begin() >= before
    requests.end(first)
    assert requests.last_begin() >= before


class Greenlets:
    """A replacement of the package greenlet. traced: events that a trace function received which was set earlier."""

    def __init__(self) -> None:
        self.now, self.traced = Mock(spec_set=["wsgi_fleet_request"], wsgi_fleet_request=0), list[str]()
        self.trace: Any = self.note

    def note(self, event: str, _greenlets: tuple[Any, Any]) -> None:
        self.traced.append(event)

    def gettrace(self) -> Any:
        return self.trace

    def settrace(self, trace: Any) -> None:
        self.trace = trace

    def getcurrent(self) -> Any:
        return self.now

    def switch(self, target: Any) -> None:
        before, self.now = self.now, target
        self.trace("switch", (before, target))


def test_of_greenlets_the_request_is_known_whose_code_runs() -> None:
    requests, greenlets, hub = Requests(2), Greenlets(), object()
    requests.watch_greenlets(greenlets)
    first, second = greenlets.now, Mock(spec_set=["wsgi_fleet_request"], wsgi_fleet_request=0)
    assert requests.current_connection() == -1
    entry = requests.begin(7, 0, 60.0, "GET '/a'")
    assert requests.current_connection() == 7
    greenlets.switch(second)
    assert requests.current_connection() == -1
    requests.begin(8, 0, 60.0, "GET '/b'")
    for target, fd in ((hub, -1), (first, 7), (second, 8), (hub, -1), (first, 7)):
        greenlets.switch(target)
        assert requests.current_connection() == fd
    # The greenlet of a connection goes on after a request.
    requests.end(entry)
    assert requests.current_connection() == -1
    assert greenlets.traced == ["switch"] * 6


def test_without_greenlets_no_request_is_taken_for_the_one_that_runs() -> None:
    requests = Requests(1)
    requests.begin(7, 0, 60.0, "GET '/'")
    assert requests.current_connection() == -1


@pytest.mark.parametrize("timeout_s", [None, 10.0])
def test_a_socket_that_is_looked_at_stays_blocking_whatever_time_out_the_application_set(
    timeout_s: float | None,
) -> None:
    connection, other = socket.socketpair()
    with connection, other:
        socket.setdefaulttimeout(timeout_s)
        try:
            assert waiting_s(connection.fileno()) == 0
        finally:
            socket.setdefaulttimeout(None)
        assert os.get_blocking(connection.fileno())
