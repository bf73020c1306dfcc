"""A release that is healthy and fails clients: the balancer's access log takes it back, and lets a good one pass."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Generator

import pytest

from harness.evidence import assert_nothing_was_lost, responding_releases
from harness.load import Load, LoadOutcome
from harness.stack import Stack, on

APP = "def app(environ: Environ, start_response: StartResponse) -> list[bytes]:\n"
# Every second request, but for what servers are asked for by the project itself.
FAILS_CLIENTS = (
    APP + '    if environ["PATH_INFO"] != "/healthz" and os.urandom(1)[0] % 2:\n        raise RuntimeError\n'
)
TRAFFIC = "/usr/local/lib/wsgi-fleet/traffic.py"


@pytest.fixture(scope="module", params=["nginx", pytest.param("apache", marks=pytest.mark.long)])
def fleet(request: pytest.FixtureRequest, make_module_stack: Callable[..., Stack]) -> Generator[Stack]:
    """Yield three servers whose health path is one that no client asks for, and whose canary bakes for 4 s."""
    if request.param == "nginx":
        stack: Stack = request.getfixturevalue("release_fleet")
        before = stack.app["rollout"]
        stack.app["rollout"] = {"bake_s": 4}
        yield stack
        stack.app["rollout"] = before
        # Its code is restored by now: a release that fails clients must not be the one of the next file.
        stack.up()
        return
    stack = make_module_stack("watch-apache", health_path="/healthz", rollout={"bake_s": 4})
    stack.proxy = request.param
    stack.up()
    yield stack
    stack.destroy()


def numbers(output: str, release: str) -> list[tuple[int, int]]:
    """Return 5xx and requests of a release, each time that a rollout said what clients saw of it."""
    found = re.findall(rf"clients of release {release}: (\d+) of (\d+) requests got 5xx", output)
    return [(int(errors), int(requests)) for errors, requests in found]


@pytest.mark.long
def test_a_healthy_release_under_load_passes_and_says_how_many_requests_it_was_judged_by(
    fleet: Stack, table: Callable[[LoadOutcome], None]
) -> None:
    with Load(fleet.url) as load:
        output = fleet.release_version("good")
    table(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    release = fleet.get()["release"]
    first, last = numbers(output, release)[0], numbers(output, release)[-1]
    assert first[0] == last[0] == 0
    assert 50 <= first[1] < last[1], output
    assert "; of the release before in the same time: 0 of " in output


def test_a_release_that_fails_clients_goes_back_and_without_the_setting_it_serves(
    fleet: Stack, good: Callable[[str, str], None]
) -> None:
    serves = fleet.get()["release"]
    good(APP, FAILS_CLIENTS)
    with Load(fleet.url) as load:
        output = fleet.up(fails=True)
        load.wait_for(50)
    message = re.search(
        r"probe: clients of release \w+: (\d+) of (\d+) requests got 5xx .*; of the release before in the same time: "
        r"0 of .*; 5xx are more than rollout\.max_error_percent \(10\) percentage points above those of the one before "
        r"\(probe-1: \1 of \2 requests got 5xx",
        output,
    )
    assert message, output
    assert int(message[1]) > int(message[2]) / 4
    assert f"release {serves} still serves" in output
    assert {fleet.get()["release"] for _ in range(30)} == {serves}
    # The first server alone served it, for some seconds.
    failed = len(load.outcome.failed_fresh) + len(load.outcome.failed_kept)
    assert 0 < failed < load.outcome.sent / 4, load.outcome

    fleet.app["rollout"] = {"bake_s": 1, "max_error_percent": None}
    with Load(fleet.url):
        output = fleet.up()
    assert "clients of release" not in output
    # The command asks the health path alone.
    live = fleet.fleet("releases").stdout.splitlines()[1]
    assert "done" in live
    assert serves not in live
    fleet.app["rollout"] = {"bake_s": 4}


@pytest.mark.long
def test_top_shows_requests_of_each_server_through_time_until_q_is_pressed(fleet: Stack) -> None:
    with Load(fleet.url) as load:
        load.wait_for(1000)
        lines = fleet.fleet("top", "--minutes", "1").stdout.splitlines()
        rows = {line.split()[0]: line.split()[1:] for line in lines[-4:]}
        assert list(rows) == ["probe-1", "probe-2", "probe-3", "all"]
        assert all(float(row[0]) > 5 and "█" in "".join(row) for row in rows.values()), rows
        main, other = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "commands", "top"], cwd=fleet.folder, stdin=other, stdout=other, stderr=other,
            env=fleet.environment() | {"FLEET_STACK": fleet.name, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        )  # fmt: skip
        os.close(other)
        shown = b""
        # Drawn twice: it refreshes by itself.
        while shown.count(b"probe-3") < 2:
            shown += os.read(main, 65_536)
        os.write(main, b"q")
        with contextlib.suppress(OSError):
            while os.read(main, 65_536):
                pass
        assert process.wait(timeout=60) == 0
        os.close(main)


@pytest.mark.long
def test_a_balancer_that_cannot_be_asked_fails_no_release(fleet: Stack) -> None:
    on(fleet.balancer(), "mv", TRAFFIC, f"{TRAFFIC}.away")
    try:
        with Load(fleet.url):
            output = fleet.release_version("unseen")
    finally:
        on(fleet.balancer(), "mv", f"{TRAFFIC}.away", TRAFFIC)
    assert "what clients see is not known, and the release goes on without it: balancer, clients: " in output
    assert responding_releases(fleet) == {"unseen"}
