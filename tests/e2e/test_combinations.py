"""Gateways, process managers, local proxies and balancers together: each boots, and a release loses no request.

`make test-matrix` runs it and writes docs/combinations.md; it takes half an hour.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.load import Load
from harness.stack import Stack, on
from tests.combinations import Combination, pick_for_machines
from tests.e2e.attacks import CHUNKED, exchange, statuses

pytestmark = [pytest.mark.long, pytest.mark.matrix]


@pytest.fixture(scope="module")
def stack(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create a stack that is not up yet; each test sets its application and balancer."""
    return make_module_stack("matrix")


@pytest.mark.parametrize("combination", pick_for_machines(), ids=str)
def test_it_boots_and_a_release_loses_no_request(
    stack: Stack, combination: Combination, record_property: Callable[[str, object], None]
) -> None:
    stack.app.update(combination.app)
    stack.settings["balancer"] = combination.balancer
    stack.release_version(str(combination))
    with Load(stack.url) as load:
        stack.release_version(f"{combination} once more")
        load.wait_for(50)
    outcome = load.outcome
    record_property(str(combination), f"{outcome.sent} | {outcome.responses} | {outcome.p99_ms:.0f}")
    assert outcome.failed_fresh == [], outcome
    assert outcome.failed_kept == [], outcome
    assert len(outcome.versions) == 2
    servers = stack.servers().values()
    # Who answers one request at a time is not asked: Apache may prefer a server then (docs/balancer.md).
    assert set(outcome.servers) == set(servers)
    assert {version for _, version in stack.responding_servers()} == {f"{combination} once more"}
    response = exchange(stack.settings["lxd"]["port"], CHUNKED.sent)
    assert statuses(response) == (CHUNKED.nginx if combination.proxy == "nginx" else CHUNKED.apache)
    assert CHUNKED.body in response
    # What each of them reads finds nothing to warn of.
    for machine in servers:
        units = on(machine, "sh", "-c", "systemctl list-units --plain --no-legend 'app*' | cut -d' ' -f1").split()
        assert on(machine, "systemd-analyze", "verify", *units) == ""
        if combination.local_proxy == "yes":
            assert "[warn]" not in on(machine, "nginx", "-t")
    reads = {"nginx": ("nginx", "-t"), "apache": ("apache2ctl", "-t")}[combination.proxy]
    assert "warn" not in on(stack.balancer(), *reads)
