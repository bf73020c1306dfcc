"""Fixtures: one fleet that most tests share and leave well, and stacks of their own for what would break it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from harness.load import LoadOutcome
from harness.stack import ENVIRONMENT, SECRET, SETTINGS, Stack
from platforms.lxd import label
from platforms.lxd.cleanup import owners, remove_leftovers
from policies import page
from tests.combinations import EVERY
from tests.e2e.steady import Seen

# Seconds for one test with its fixtures: on a new machine the first one builds the machines' image.
LONGEST_S = 900

TABLE = """\
# What releases lose

Made by `make test-load`: 16 clients ask the balancer, each 50 ms after its last answer, half of them on a fresh
connection for each request, GET and POST with a body, quick and of 0.2 to 5 s, while each case happens. Every request
is counted, and the POSTs also where they are executed. The machine is small and busy with the release itself; p99 is of
quick requests.

Some are to fail: "the load does see what is lost" is the control of the load itself; a release that is ill only where
it serves answers 500 until its gate has seen three of them; a process that is killed takes along what it had. A move to
Debian 13 replaces the balancer as well: while its port moves, requests are cut or refused for some milliseconds.

| case | sent | answered | failed, fresh | failed, kept-alive | p99 in ms |
| --- | ---: | ---: | ---: | ---: | ---: |
"""

RELIABILITY = """\
# What faults cost

Made by `make test-faults`: on three servers of two processes with four threads each, one fault after the other happens
beside a steady load of 20 to 60 requests a second on fresh connections (a third of them quick GETs, a third GETs of
0.2 s, a third POSTs). Each request of the load is counted. What the fault itself asks (a view that crashes its process)
is not in the table, but in the test. The first row is the control: the load does see what fails. While the database is
away, no server can answer; the row shows when that ended. The row of 500 clients counts their own requests. They ask
for ten times what the fleet can do, so most fail; the test requires 80 % of the responses that an idle fleet gives.

Rows of a killed `pulumi` use two servers and 50 random moments in all; "by itself" means by the next `pulumi up`. The
random generator has a fixed seed; set `FAULTS_SEED` for other moments. During the first `up` and during `destroy` no
server can answer, so those rows count only the requests sent after them.

| fleet | fault | sent | failed GET | failed POST | slowest in s | last failure after s | came back by itself |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |
"""

COMBINATIONS = """\
# What can be combined

Made by `make test-matrix`. A combination with figures was booted on machines, two app servers and the balancer, and got
a release under load (16 clients, as in [releases](releases.md)): every request was answered. A row without figures is
valid. Each of its machines was booted in another combination, because app servers do not depend on the proxy. The
refused ones cannot work: supervisord closes the socket that both slots of a server would share
([gateways](gateways.md)).
Each server has three processes, of `gunicorn sync` one request each: there clients wait for one another.

| gateway | process manager | local proxy | balancer | sent | answered | p99 in ms |
| --- | --- | --- | --- | ---: | ---: | ---: |
"""

APPLICATIONS = """\
# Applications that were tried

Made by `make test-apps`. The applications are packages of other authors. Each is installed from the package index and
served with a stack file. The test sends the requests that clients of the application send
(`tests/e2e/test_applications.py`). Then it releases under a load of 20 requests a second, of which none may fail, and
sends them again. Each folder contains the requirements, the block of the stack file, and the application's own
settings. "Seconds to serving" is the first `pulumi up`: machines, packages, first health check. "Why" is the comments
of the stack file.

| application | what it is | settings besides `module`, `health_path` | why | seconds to serving | requests under load |
| --- | --- | --- | --- | ---: | ---: |
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    # They wait a lot and take the longest: with several workers the others then fill the gaps and the end.
    items.sort(key=lambda item: not item.path.is_relative_to(here))
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(LONGEST_S))
            if "table" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.load)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", metavar="FILE", help="write what the load of each test saw, as a Markdown table")
    parser.addoption("--reliability", metavar="FILE", help="write what each fault cost, as a Markdown table")
    parser.addoption("--applications", metavar="FILE", help="write which applications were tried, as a Markdown table")
    parser.addoption("--security", metavar="FILE", help="write how machines are closed into the tables of that page")
    parser.addoption("--combinations", metavar="FILE", help="write which combinations were booted, as a Markdown table")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    passed: list[pytest.TestReport] = terminalreporter.stats.get("passed", [])
    lines = [(str(name), str(value)) for report in passed for name, value in report.user_properties]
    page_file: str | None = config.getoption("--security", default=None)
    if page_file and exitstatus == 0:
        rows = {name: Counter(value for known, value in lines if known == name) for name in page.HEADS}
        # Those of attacks are told by each, and counted.
        tables = {
            name: page.table(name, [[*json.loads(row), *([str(times)] if name == "attacks" else [])]
                                    for row, times in sorted(each.items())])
            for name, each in rows.items() if each
        }  # fmt: skip
        page.write(tables, Path(page_file))
    file: str | None = config.getoption("--combinations", default=None)
    if file:
        seen = dict(lines)
        rows = [
            f"| {' | '.join(each)} | {'refused | | ' if each.refusal else seen.get(str(each), 'not booted | | ')} |"
            for each in EVERY
        ]
        Path(file).write_text(COMBINATIONS + "\n".join(rows) + "\n")


@pytest.fixture(scope="session")
def _rows(request: pytest.FixtureRequest) -> Generator[list[str]]:
    rows: list[str] = []
    yield rows
    file: str | None = request.config.getoption("--table", default=None)
    if file and rows:
        _write_rows(Path(file), TABLE, rows, 1)


@pytest.fixture
def table(request: pytest.FixtureRequest, _rows: list[str]) -> Callable[[LoadOutcome], None]:
    """Return a function of an outcome that adds a row for `--table`."""
    case = re.sub(r"[_\[\]]+", " ", request.node.name.removeprefix("test_")).strip()

    def keep(outcome: LoadOutcome) -> None:
        cells = (case, outcome.sent, outcome.responses, len(outcome.failed_fresh), len(outcome.failed_kept))
        _rows.append("| " + " | ".join(map(str, cells)) + f" | {outcome.p99_ms:.0f} |")

    return keep


@pytest.fixture(scope="session")
def reliability(request: pytest.FixtureRequest) -> Generator[Callable[[str, Seen, float, bool], None]]:
    """Yield a function that adds a row for `--reliability`; the rows are written to the file at the end."""
    rows: list[str] = []

    def keep(fault: str, seen: Seen, quiet_s: float, is_healthy: bool) -> None:
        cells = (fault, seen.sent, seen.of("GET"), seen.of("POST"), f"{seen.slowest_s:.1f}", f"{quiet_s:.1f}")
        rows.append("| " + " | ".join(map(str, cells)) + f" | {'yes' if is_healthy else 'no'} |")

    yield keep
    file: str | None = request.config.getoption("--reliability", default=None)
    if file and rows:
        _write_rows(Path(file), RELIABILITY, rows, 2)


@pytest.fixture(scope="session")
def applications(request: pytest.FixtureRequest) -> Generator[Callable[..., None]]:
    """Yield a function that adds a row for `--applications`; the rows are written to the file at the end."""
    rows: list[str] = []

    def keep(*cells: object) -> None:
        rows.append("| " + " | ".join(map(str, cells)) + " |")

    yield keep
    file: str | None = request.config.getoption("--applications", default=None)
    if file and rows:
        _write_rows(Path(file), APPLICATIONS, rows, 1)


def _write_rows(file: Path, head: str, rows: list[str], keys: int) -> None:
    """Write a table, and leave the rows of others that stand there. keys: the number of cells that name a row."""
    there = file.read_text().splitlines() if file.exists() else []
    known = {" | ".join(row.split(" | ")[:keys]): row for row in [*there[head.count("\n") :], *rows]}
    file.write_text(head + "\n".join(known.values()) + "\n")


@pytest.fixture
def security(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Return a function of a table and cells that adds a row for `--security`."""

    def keep(table: str, *cells: str) -> None:
        record_property(table, json.dumps(cells))

    return keep


def _runs(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists()


@pytest.fixture(scope="session", autouse=True)
def _leftovers_of_killed_runs_are_reaped() -> None:
    # The workers of one run start at the same time; the first does it, the others wait.
    with (Path(tempfile.gettempdir()) / f"wsgi-fleet-e2e-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for owner in owners():
            match = re.match(r"e2e-(\d+)-", owner)
            if match and not _runs(int(match[1])):
                remove_leftovers(owner)


def _stacks(tmp_path_factory: pytest.TempPathFactory) -> Generator[Callable[..., Stack]]:
    """Yield make(name, **app settings), which returns a stack that is not up yet. Remove all stacks at the end."""
    made: list[Stack] = []

    def make(name: str, **app: Any) -> Stack:
        made.append(Stack.make(name, tmp_path_factory.mktemp(name), **app))
        return made[-1]

    yield make
    for stack in made:
        stack.end_processes()
        remove_leftovers(label.owner(stack.name, stack.folder))
        shutil.rmtree(stack.folder.parent, ignore_errors=True)
        if sys.pycache_prefix:
            # Where Python keeps what it compiled of that folder.
            shutil.rmtree(f"{sys.pycache_prefix}{stack.folder.parent}", ignore_errors=True)


# The machines of a test end with it, and those that a module or the session shares with that: two workers with all
# their stacks at once are more than two cores, and more than the inotify instances of a machine that was not set up.
make_stack = pytest.fixture(_stacks, name="make_stack")
make_module_stack = pytest.fixture(_stacks, scope="module", name="make_module_stack")
make_session_stack = pytest.fixture(_stacks, scope="session", name="make_session_stack")


@pytest.fixture(scope="session")
def fleet(make_session_stack: Callable[..., Stack]) -> Stack:
    """Create three app servers and a balancer. A test may change them; it leaves three that serve one release."""
    stack = make_session_stack(
        "fleet",
        environment=ENVIRONMENT,
        settings_file={"variable": "SETTINGS_FILE", "values": SETTINGS},
        generated_secrets=["T_MADE"],
        required=["T_SECRET", "T_MADE", "TREE"],
    )
    stack.set_secret("T_SECRET", SECRET)
    stack.up()
    return stack


@pytest.fixture(scope="session")
def release_fleet(make_session_stack: Callable[..., Stack]) -> Stack:
    """Create three servers for releases, whose health path is one that no client asks for.

    A test leaves three that serve one release, and `rollout` as it is here.
    """
    stack = make_session_stack("releases", health_path="/healthz", rollout={"start_timeout_s": 20})
    stack.up()
    return stack


@pytest.fixture
def good(fleet: Stack) -> Generator[Callable[[str, str], None]]:
    """Yield a function that replaces old by new text in the application. Restore its code afterwards."""
    files = {name: fleet.folder / "tests" / "e2e" / "app" / name for name in ("probe.py", "requirements.txt")}
    before = {name: file.read_text() for name, file in files.items()}

    def edit(old: str, new: str) -> None:
        file = next(file for file in files.values() if old in file.read_text())
        file.write_text(file.read_text().replace(old, new, 1))

    yield edit
    for name, file in files.items():
        file.write_text(before[name])
