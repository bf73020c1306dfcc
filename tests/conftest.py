"""Files of tests that share a fleet run one after the other, so that the fleet is made once."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, Scheduling

# A file, and the file whose worker runs it as well.
RUNS_WITH = {
    "tests/e2e/test_attacks.py": "tests/e2e/test_fleet.py",
    "tests/e2e/test_bad_releases.py": "tests/e2e/test_releases.py",
    "tests/e2e/test_client_watch.py": "tests/e2e/test_releases.py",
    "tests/e2e/test_commands.py": "tests/e2e/test_fleet.py",
}


class _Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return RUNS_WITH.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Return the scheduler of `--dist=loadfile`, and None for any other, which pytest-xdist makes itself."""
    return _Scheduling(config, log) if config.getoption("dist") == "loadfile" else None
