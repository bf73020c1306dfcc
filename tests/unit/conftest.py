"""What all unit tests share."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import hypothesis
import pytest

from tests.unit.lxd_daemon import Daemon, serving

# What libraries make at their import stays. With Python's own thresholds a fifth of the time went into looking at it.
gc.set_threshold(100_000, 50, 100)
# No test fails for being slow: machines differ, and a busy one is not wrong.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def _tracebacks_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore tracebacks, which a failed provider turns off in its process. Without them the SDK waits for ever."""
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """Create a stand-in for LXD, which Client() finds."""
    with serving() as made:
        monkeypatch.setenv("LXD_DIR", str(made.folder))
        yield made
