"""The requests that a gateway's worker works on as its companion reads them, and the sockets that it looks at."""

from __future__ import annotations

import os
import signal
import socket
import time

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
