"""The companion of a gateway's worker: when it takes the worker for one that cannot accept."""

from __future__ import annotations

import os
import signal

import pytest
from gateway_companion import NOT_ACCEPTING_LOOKS, Companion, Worker
from gateway_requests import Requests


@pytest.mark.parametrize(("serves", "ended"), [(True, False), (False, True)])
def test_a_worker_that_serves_between_the_looks_is_not_ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, serves: bool, ended: bool
) -> None:
    requests, reports = Requests(1), os.pipe()
    companion = Companion(Worker(1, 0, reports[0], signal.SIGTERM, 0), requests)
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
