"""Releases that are ill or interrupted, under load: what they may answer, and where the fleet ends."""

from __future__ import annotations

import os
import signal
import tarfile
from collections.abc import Callable

import pytest

from harness.evidence import assert_nothing_was_lost, has_reached, responding_releases
from harness.load import Load, LoadOutcome
from harness.stack import Stack, eventually

APP = "def app(environ: Environ, start_response: StartResponse) -> list[bytes]:\n"
# Healthy wherever it is proven and on the first servers; ill where it serves on the third.
ILL_ON_THE_THIRD = (
    APP
    + "    import uwsgi\n"
    + '    if "-3-" in os.environ["WSGI_FLEET_SERVER"] and b"proof" not in uwsgi.opt["http-socket"]:\n'
    + "        raise RuntimeError('ill')\n"
)


@pytest.fixture(scope="module")
def fleet(release_fleet: Stack) -> Stack:
    """Return release_fleet in the place of the fleet that other files share."""
    return release_fleet


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ILL_ON_THE_THIRD, "probe-3, switch: GET /healthz was not 200"),
        pytest.param(
            "task",
            "probe-1, release task: `echo to no avail; exit 3` failed with exit code 3",
            marks=pytest.mark.long,
        ),
        pytest.param(
            APP + "    import uwsgi\n" + '    assert b"proof" in uwsgi.opt["http-socket"]\n',
            "probe-1, switch:",
            marks=pytest.mark.long,
        ),
        pytest.param('kept = bytearray(3 << 30)\nVERSION = "', "stage:", marks=pytest.mark.long),
    ],
    ids=["ill on the third server", "a failing release task", "ill where it serves", "eats all memory"],
)
def test_a_bad_release_is_taken_back_from_the_whole_fleet(
    fleet: Stack, good: Callable[[str, str], None], table: Callable[[LoadOutcome], None], change: str, message: str
) -> None:
    serves = fleet.get()["release"]
    with Load(fleet.url) as load:
        if change == "task":
            fleet.app["rollout"] = {"release_task": "echo to no avail; exit 3"}
        elif change.startswith(APP):
            good(APP, change)
        else:
            good('VERSION = "', change)
        try:
            output = fleet.up(fails=True)
        finally:
            fleet.app["rollout"] = {"start_timeout_s": 20}
        load.wait_for(50)
    table(load.outcome)
    assert message in output
    assert f"release {serves} still serves" in output
    bundle = next(fleet.folder / word.rstrip(".") for word in output.split() if word.endswith(".tar.gz."))
    with tarfile.open(bundle) as archive:
        assert any(name.endswith("/probe-3/journal.txt") for name in archive.getnames())
    responses = [fleet.get()["release"] for _ in range(30)]
    assert set(responses) == {serves}
    if change.startswith(APP):
        # Found at the gate only: it has answered some, for a second on one server, beside the slot that is healthy.
        outcome = load.outcome
        assert len(outcome.failed_fresh) + len(outcome.failed_kept) < outcome.sent / 100, outcome
    else:
        # Stopped before any switch: it has answered nobody.
        assert_nothing_was_lost(fleet, load.outcome)


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "phase"),
    [
        pytest.param(signal.SIGKILL, "switched", id="kill -9 when one server has switched"),
        *(
            pytest.param(how, phase, marks=pytest.mark.long, id=f"{name} when it has {phase}")
            for how, name in ((signal.SIGINT, "Ctrl-C"), (signal.SIGKILL, "kill -9"))
            for phase in ("published", "staged", "switched")
            if (how, phase) != (signal.SIGKILL, "switched")
        ),
    ],
)
def test_an_interrupted_release_loses_no_request_and_the_next_up_finishes_it(
    fleet: Stack, table: Callable[[LoadOutcome], None], how: int, phase: str
) -> None:
    version = f"{phase} {how:d}"
    journals = set((fleet.folder / ".state").rglob("journal/*.jsonl"))
    with Load(fleet.url) as load:
        fleet.set_version(version)
        process = fleet.start_up()
        eventually(lambda: has_reached(fleet, journals, phase), message=f"the rollout has {phase}")
        os.killpg(process.pid, how)
        process.communicate(timeout=120)
        if how == signal.SIGKILL:
            fleet.pulumi("cancel", "--yes", "-s", fleet.name)
        fleet.up()
        load.wait_for(50)
    table(load.outcome)
    assert_nothing_was_lost(fleet, load.outcome)
    assert responding_releases(fleet) == {version}
