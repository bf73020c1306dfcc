"""When a server gets no requests, and when it gets them again: decided from probes, with a clock that is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
import server_health
from hypothesis import given
from hypothesis import strategies as st
from server_health import Outcome, Probe, Server, excluded_servers

ONE, TWO, THREE = "10.0.0.1", "10.0.0.2", "10.0.0.3"
TICK_S = 0.25


def quiet() -> bool:
    """Return False: clients got no response from the server."""
    return False


def lived(
    answer_at: Callable[[float], Outcome | None],
    until: float,
    *,
    resent: Callable[[float], bool] = lambda _: False,
    responds_to_others: Callable[[], bool] = quiet,
) -> tuple[Server, list[tuple[float, bool]]]:
    """Return a server that is asked each second until then, and when it became unhealthy and healthy.

    answer_at: how a probe that is begun then ends: at once, or after 2 s where it is SILENT.
    """
    server, changes = Server(0, 0), list[tuple[float, bool]]()
    ended: list[tuple[float, Probe]] = []
    ticks = 0
    while (now := ticks * TICK_S) <= until:
        if ticks % 4 == 0 and (response := answer_at(now)):
            after = 2.0 if response is Outcome.SILENT else 0.0
            ended.append((now + after, Probe(now, response, response.name, resent(now))))
        for each in [each for each in ended if each[0] <= now]:
            ended.remove(each)
            server.record(each[1])
        was = server.is_healthy
        server.judge(now, "/healthz", server_health.OUT_S, responds_to_others)
        if server.is_healthy != was:
            changes.append((now, server.is_healthy))
        ticks += 1
    return server, changes


def between(begin: float, end: float, how: Outcome) -> Callable[[float], Outcome]:
    """Return a function of the time that gives `how` in that time, else GOOD."""
    return lambda now: how if begin <= now < end else Outcome.GOOD


def test_a_server_that_says_nothing_is_unhealthy_in_time_and_healthy_after_two_good_answers() -> None:
    _, changes = lived(between(10, 20, Outcome.SILENT), 40)
    assert changes == [(12.5, False), (21.0, True)]


@pytest.mark.parametrize(
    ("end", "how", "changes"),
    [
        pytest.param(12, Outcome.BAD, [], id="two bad answers are not enough"),
        pytest.param(60, Outcome.BUSY, [], id="one that sheds load is not unhealthy"),
        pytest.param(60, Outcome.SILENT, [], id="a silent one that answers clients is busy"),
        pytest.param(60, Outcome.BAD, [(12.5, False)], id="one whose health path says no is unhealthy"),
    ],
)
def test_a_server_that_answers_clients_is_unhealthy_for_bad_answers_alone(
    end: float, how: Outcome, changes: list[tuple[float, bool]]
) -> None:
    assert lived(between(10, end, how), 55, responds_to_others=lambda: True)[1] == changes


def test_who_hangs_after_it_was_busy_is_unhealthy_within_five_seconds() -> None:
    busy_until = 30.0
    asked: list[float] = []

    def responds_to_others() -> bool:
        asked.append(1)
        # Asked at 12.5, 14.25, ... s.
        return 10.75 + 1.75 * len(asked) < busy_until

    _, changes = lived(between(10, 99, Outcome.SILENT), 50, responds_to_others=responds_to_others)
    ((when, is_healthy),) = changes
    assert (is_healthy, busy_until <= when <= busy_until + 5) == (False, True)


def test_a_lossy_path_is_no_busy_application() -> None:
    server, changes = lived(lambda _: Outcome.GOOD, 40, resent=lambda now: 10 <= now < 20 and int(now) % 3 == 0)
    assert changes == [(18.0, False), (22.0, True)]
    assert server.is_healthy
    server, _ = lived(lambda _: Outcome.GOOD, 15, resent=lambda now: now >= 10)
    assert server.why.startswith("packets are lost on the way to it (2 of 10 probes")


def test_two_packets_that_were_lost_in_ten_probes_change_nothing() -> None:
    assert lived(lambda _: Outcome.GOOD, 100, resent=lambda now: int(now) % 10 in (0, 4))[1] == []


def test_who_comes_and_goes_must_stay_well_for_longer_each_time_and_it_is_forgotten() -> None:
    # Well for two seconds more than it must be, then silent again.
    server = Server(0, 0)
    waits: list[float] = []
    now, silent_until = 0.0, 5.0
    back_at = 0.0
    while len(waits) < 7:
        if now >= silent_until:
            server.record(Probe(now, Outcome.GOOD))
        was = server.is_healthy
        server.judge(now, "/", 4.0, quiet)
        if server.is_healthy and not was:
            waits.append(now - silent_until + 1)
            back_at = now
            silent_until = now + 5
            server.alive_at = now
        now += 1.0
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    server.judge(back_at + 10, "/", 99, quiet)
    assert server.patience_s(back_at + 400) == 1


def test_who_is_unhealthy_gets_no_requests_while_another_is_well() -> None:
    servers = {ONE: Server(99.5, 0), TWO: Server(99.5, 0, is_healthy=False), THREE: Server(99.5, 0)}
    assert excluded_servers([ONE, TWO, THREE], servers, [], [], 100) == {TWO}


def test_nobody_is_taken_out_one_after_the_other_where_none_answers() -> None:
    servers = {ONE: Server(99.5, 0, is_healthy=False), TWO: Server(96.3, 0), THREE: Server(96.2, 0)}
    assert excluded_servers([ONE, TWO, THREE], servers, [], [], 100) == set()
    # Who is out already stays so.
    assert excluded_servers([ONE, TWO, THREE], servers, [], [ONE], 100) == {ONE}


@given(st.dictionaries(st.sampled_from([ONE, TWO, THREE]), st.tuples(st.booleans(), st.floats(0, 10)), min_size=1),
       st.sets(st.sampled_from([ONE, TWO, THREE])), st.sets(st.sampled_from([ONE, TWO, THREE])))  # fmt: skip
def test_whatever_is_known_somebody_is_asked(
    known: dict[str, tuple[bool, float]], drained: set[str], before: set[str]
) -> None:
    servers = {address: Server(100 - ago, 0, is_healthy=is_healthy) for address, (is_healthy, ago) in known.items()}
    out = excluded_servers(known, servers, drained, before, 100)
    assert out <= {address for address, (is_healthy, _) in known.items() if not is_healthy} - drained
    assert out < set(known) - drained or not set(known) - drained


@given(st.lists(st.sampled_from(Outcome), min_size=40, max_size=120))
def test_however_answers_come_only_a_time_without_good_ones_takes_a_server_out(responses: Iterable[Outcome]) -> None:
    listed = list(responses)
    _, changes = lived(lambda now: listed[int(now)] if int(now) < len(listed) else None, len(listed) - 1)
    for when, is_healthy in changes:
        if is_healthy:
            assert listed[int(when) - 3 : int(when) + 1].count(Outcome.GOOD) >= 2
        else:
            alive = (Outcome.GOOD, Outcome.BUSY)
            assert not any(each in alive for each in listed[math.ceil(when - 3.4) : int(when) + 1])


def test_many_servers_are_asked_less_often() -> None:
    assert [server_health.interval_s(number) for number in (1, 200, 1000)] == [1, 1, 5]
