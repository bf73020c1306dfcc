"""The companion of a gateway's worker: when it takes the worker for one that cannot accept, or that has grown."""

from __future__ import annotations

import os
import signal

import gateway_companion
import pytest
from gateway_companion import GROWN_AFTER_S, NOT_ACCEPTING_LOOKS, Companion, Worker
from gateway_requests import Requests


@pytest.mark.parametrize(("serves", "ended"), [(True, False), (False, True)])
def test_a_worker_that_serves_between_the_looks_is_not_ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, serves: bool, ended: bool
) -> None:
    requests, reports = Requests(1), os.pipe()
    companion = Companion(Worker(1, 0, reports[0], signal.SIGTERM, 0, 0), requests)
    sent: list[int] = []
    monkeypatch.setattr(companion, "signal_worker", sent.append)
    requests.end(requests.begin(0, 0, 60.0, "GET '/'"))
    for _ in range(NOT_ACCEPTING_LOOKS + 1):
        if serves:
            requests.end(requests.begin(0, 0, 60.0, "GET '/'"))
        companion.end_if_not_accepting(60)
    assert (signal.SIGKILL in sent, "accepts no connection" in capfd.readouterr().err) == (ended, ended)
    for each in reports:
        os.close(each)


@pytest.mark.parametrize(
    ("age_s", "has_begun", "ended"),
    [(GROWN_AFTER_S, True, True), (GROWN_AFTER_S - 1, True, False), (GROWN_AFTER_S, False, False)],
    ids=["after a minute", "that needs so much from its start on", "that has had no request"],
)
def test_a_worker_above_its_memory_ends_after_a_minute_and_a_request(
    monkeypatch: pytest.MonkeyPatch, *, age_s: float, has_begun: bool, ended: bool
) -> None:
    requests, reports = Requests(1), os.pipe()
    companion = Companion(Worker(1, 0, reports[0], signal.SIGHUP, 64, 30), requests)
    sent: list[int] = []
    monkeypatch.setattr(companion, "signal_worker", sent.append)
    monkeypatch.setattr(gateway_companion, "resident_mib", {1: 200}.__getitem__)
    companion.start -= age_s
    if has_begun:
        requests.end(requests.begin(0, 0, 60.0, "GET '/'"))
    for _ in range(2):
        companion.end_if_not_accepting(0)
        companion.end_if_grown()
    assert sent == [signal.SIGHUP] * ended
    # A stream may go on for an hour, in which the worker accepts nothing.
    companion.kill_at -= 31 * ended
    companion.end_if_grown()
    assert sent == [signal.SIGHUP, signal.SIGKILL] * ended
    for each in reports:
        os.close(each)
