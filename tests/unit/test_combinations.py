"""What can be combined: the refused have a reason, and what is booted stands for all that is not."""

from __future__ import annotations

import itertools

from components.balancer import upstreams
from gateways import GATEWAYS
from rendering.app_server import ProcessLayout, app_server_user_data
from rendering.balancer import balancer_user_data
from rendering.gateway_files import gateway_files
from tests.combinations import EVERY, GATEWAY_SETTINGS, PROXIES, VALID, Combination, pick_for_machines
from tests.unit.site_text import site_text


def pairs(combinations: list[Combination]) -> set[tuple[str, str]]:
    return {pair for each in combinations for pair in itertools.combinations(each, 2)}


def test_a_combination_that_cannot_work_is_refused_with_both_settings() -> None:
    refused = [each for each in EVERY if each.refusal]
    assert {(each.manager, each.local_proxy) for each in refused} == {("supervisord", "no")}
    assert len(refused) == len(GATEWAY_SETTINGS) * len(PROXIES)
    for each in refused:
        assert 'process_manager: "supervisord"' in each.refusal
        assert "local_proxy" in each.refusal


def test_what_is_booted_holds_every_two_values_that_a_valid_one_holds() -> None:
    assert set(pick_for_machines()) <= set(VALID)
    assert pairs(pick_for_machines()) == pairs(VALID)
    assert len(pick_for_machines()) <= len(VALID) / 2 + 1


def files(combination: Combination) -> set[tuple[str, str]]:
    """Return all that machines and releases get of a combination: what it is for, and its text."""
    given = combination.settings()
    app = given.apps["probe"]
    boots = app_server_user_data([], kind=GATEWAYS[app.gateway.kind], processes=ProcessLayout.of(app))
    site = site_text(given.balancer, upstreams(given.apps, {"probe": ["10.0.0.1", "10.0.0.2"]}))
    return {
        ("app server", boots),
        ("balancer", balancer_user_data(proxy=given.balancer.proxy.kind)),
        ("site", site),
        *gateway_files(app).items(),
    }


def test_what_is_not_booted_gets_no_file_that_no_booted_one_gets() -> None:
    known = {file for each in pick_for_machines() for file in files(each)}
    assert [(str(each), name) for each in VALID for name, text in files(each) if (name, text) not in known] == []
