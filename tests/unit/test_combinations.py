"""What can be combined: the refused have a reason, and what is booted stands for all that is not."""

from __future__ import annotations

import itertools

from tests.combinations import EVERY, GATEWAYS, PROXIES, VALID, Combination, booted


def pairs(combinations: list[Combination]) -> set[tuple[str, str]]:
    return {pair for each in combinations for pair in itertools.combinations(each, 2)}


def test_a_combination_that_cannot_work_is_refused_with_both_settings() -> None:
    refused = [each for each in EVERY if each.refusal]
    assert {(each.manager, each.balancing) for each in refused} == {("supervisord", "machine")}
    assert len(refused) == len(GATEWAYS) * len(PROXIES)
    for each in refused:
        assert "process_manager: supervisord" in each.refusal
        assert "balancing" in each.refusal


def test_what_is_booted_holds_every_two_values_that_a_valid_one_holds() -> None:
    assert set(booted()) <= set(VALID)
    assert pairs(booted()) == pairs(VALID)
    assert len(booted()) == len(VALID) / 2
