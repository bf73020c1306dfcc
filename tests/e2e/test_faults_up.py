"""`pulumi up` and `destroy` are killed at 50 random moments; the next `up` brings what was wanted, and nobody notices.

A kill is of the engine and all that it started (a closed terminal), or of the engine alone (the kernel, for memory):
then what it started may go on. Some are killed again in the middle of mending that. FAULTS_SEED draws other moments.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import pytest

from harness.stack import UP, UP_S, Stack
from platforms.lxd import label
from platforms.lxd.cleanup import owners
from tests.e2e.steady import Seen, Steady
from tests.e2e.test_faults import Keep, ask

pytestmark = pytest.mark.long
SEED = int(os.environ.get("FAULTS_SEED", "20261128"))
# How often the one that would end it is killed as well.
AGAIN = 0.75
ASKED = 40
RATE = 20
DESTROY = ("destroy", "--yes", "--skip-preview", "-s")


class Killer:
    """Kills commands on a stack, so many times. took_s: how long one takes that is left alone."""

    def __init__(self, stack: Stack, case: str, times: int, *, took_s: float) -> None:
        self.stack, self.case, self.times, self.took_s = stack, case, times, took_s
        self.random = random.Random(f"{SEED} {case}")
        self.moments: list[str] = []
        self.seen = Seen()

    @property
    def is_done(self) -> bool:
        """Whether all kills were done."""
        return len(self.moments) >= self.times

    def kill(self, *command: str) -> None:
        """Kill the command at a moment, and perhaps those that would end it."""
        self.stack.write()
        is_first = True
        while is_first or (self.random.random() < AGAIN and not self.is_done):
            # What is left of one that was killed is sooner done.
            moment_s = self.random.uniform(0, self.took_s * (1 if is_first else 0.6))
            is_whole = self.random.random() < 0.7
            began = time.monotonic()
            if self.run(*command, until_s=moment_s, is_whole=is_whole):
                # It was quicker than the moment. What others began is no measure.
                self.took_s = time.monotonic() - began if is_first else self.took_s
                return
            self.moments.append(f"{moment_s:.2f} s{'' if is_whole else ' (the engine alone)'}")
            is_first = False

    def run(self, *command: str, until_s: float = UP_S, is_whole: bool = True) -> str:
        """Return what the command prints, "" where it was killed. Run `pulumi cancel` first if Pulumi asks for it."""
        with self.stack.start(*command, self.stack.name) as process:
            try:
                output, _ = process.communicate(timeout=until_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                if is_whole:
                    self.stack.end_processes()
                return ""
        if process.returncode and "`pulumi cancel`" in output:
            self.stack.pulumi("cancel", "--yes", "-s", self.stack.name)
            return self.run(*command, until_s=until_s, is_whole=is_whole)
        assert process.returncode == 0, self.explain(output)
        return output

    def explain(self, what: object) -> str:
        """Return the text for a failure, with all that is needed to reproduce it."""
        return f"FAULTS_SEED={SEED}, {self.case}, killed at {', '.join(self.moments)}: {what}"

    def assert_up_ends_it(self, version: str, servers: int) -> None:
        """Check that one `up` reaches the desired fleet, and that a further one finds nothing to do."""
        self.run(*UP)
        self.run("up", "--expect-no-changes", *UP[1:])
        self.stack.end_processes()
        instances = self.stack.instances()
        names = {each["config"][f"{label.PREFIX}role"]: each["name"] for each in instances}
        assert names.keys() == {"balancer", *(f"probe-{number + 1}" for number in range(servers))}, self.explain(names)
        assert len(instances) == len(names), self.explain([each["name"] for each in instances])
        expected = {(200, f"{name} 0 {version}\n".encode()) for role, name in names.items() if role != "balancer"}
        responses: list[tuple[int, bytes]] = []
        # Who has the fewest requests is asked: beside a load for a moment always the same.
        while len(responses) < ASKED or (set(responses) < expected and len(responses) < ASKED * 5):
            responses.append(ask(self.stack, "/"))
            time.sleep(0.02)
        self.seen.sent += len(responses)
        assert set(responses) == expected, self.explain(f"{Counter(responses)}\n{self.stack.fleet('status').stdout}")

    def assert_destroy_leaves_nothing(self) -> None:
        """Run `destroy`, and check that it leaves no instance, network, ACL or image of the stack."""
        self.run(*DESTROY)
        assert label.owner(self.stack.name, self.stack.folder) not in owners(), self.explain("something is left")

    def under_load(self, version: str, servers: int) -> None:
        """Kill an `up` and mend that while clients send requests, none of which may notice it."""
        with Steady(self.stack.url, RATE) as load:
            self.kill(*UP)
            self.assert_up_ends_it(version, servers)
        self.seen.sent += load.seen.sent
        self.seen.slowest_s = max(self.seen.slowest_s, load.seen.slowest_s)
        assert load.seen.failed == [], self.explain(load.seen)


@pytest.fixture(scope="module")
def stack(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create two servers, not up yet."""
    return make_module_stack(
        "killed", source="tests/e2e/faults_app", module="app:app", health_path="/healthz", fleet={"servers": 2}
    )


def row(killer: Killer, reliability: Keep) -> None:
    reliability(f"uWSGI, Nginx | kill 9 of {killer.case}", killer.seen, 0, True)


def test_the_first_up_is_killed(stack: Stack, reliability: Keep) -> None:
    killer = Killer(stack, "the first `pulumi up` of a stack", 10, took_s=30)
    while not killer.is_done:
        killer.kill(*UP)
        killer.assert_up_ends_it("1", 2)
        killer.assert_destroy_leaves_nothing()
    row(killer, reliability)


def test_a_release_is_killed(stack: Stack, reliability: Keep) -> None:
    killer = Killer(stack, "a `pulumi up` with a release", 18, took_s=9)
    stack.up()
    for number in itertools.count(2):
        if killer.is_done:
            break
        stack.app["environment"] = {"VERSION": str(number)}
        killer.under_load(str(number), 2)
    row(killer, reliability)


def test_a_change_of_servers_is_killed(stack: Stack, reliability: Keep) -> None:
    killer = Killer(stack, "a `pulumi up` with more, fewer or other servers", 14, took_s=14)
    stack.app["environment"] = {"VERSION": "servers"}
    stack.up()
    changes = itertools.cycle([(3, 512), (2, 512), (2, 768), (3, 768), (2, 768), (2, 512)])
    while not killer.is_done:
        servers, memory_mib = next(changes)
        stack.app["fleet"] = {"servers": servers, "size": {"memory_mib": memory_mib}}
        killer.under_load("servers", servers)
    row(killer, reliability)


def test_destroy_is_killed(stack: Stack, reliability: Keep) -> None:
    """Check that the next `up` creates what is missing, and that the last `destroy` leaves nothing."""
    killer = Killer(stack, "`pulumi destroy`", 8, took_s=6)
    stack.app["environment"], stack.app["fleet"] = {"VERSION": "1"}, {"servers": 2}
    stack.up()
    while not killer.is_done:
        killer.kill(*DESTROY)
        killer.assert_up_ends_it("1", 2)
    killer.assert_destroy_leaves_nothing()
    row(killer, reliability)
