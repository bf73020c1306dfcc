"""The benchmark of served requests: what wrk prints becomes figures, goals and a page."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serve import clients, contestants, page, plots
from benchmarks.serve.figures import Figures
from benchmarks.serve.works import BY_NAME, WORKS, load_name
from benchmarks.serve.wrk import Sample, command
from tests.unit.bench_pages import Pages, plots_in
from tests.unit.nginx_reader import directives, find

PRINTED = """\
Running 1s test @ http://10.0.0.1/flask
  1 threads and 64 connections
{"requests":3000,"duration_us":1500000,"bytes":3145728,"p50_us":9352,"p99_us":24593,"max_us":33170,\
"connect":1,"read":2,"write":3,"status":4,"timeout":5}
"""


def sample(rps: float, p99_ms: float = 8, errors: int = 0) -> dict[str, float]:
    return Sample(rps, 1, 4, p99_ms, 16, errors, 0).values()


def result(**rps: float) -> dict[str, Any]:
    """Return the result of two rounds. rps: requests/s of contestants, 1000 where none are named."""
    made = {
        name: {
            work.name: [sample(rps.get(name.replace("-", "_"), 1000) * by) for by in (0.9, 1.1)]
            for work in WORKS
            if name in work.of
        }
        for name in contestants.BY_NAME
    }
    return {
        "when": "2026-11-30T10:00:00+00:00", "commit": "abc", "cores": 2, "kernel": "6.1", "rounds": 2, "seconds": 3,
        "machine": {"cpus": 2, "memory_mib": 1024}, "idle_mib": {"server": 88.4, "balancer": 24.0},
        "requests_at_a_time": 32, "samples": made,
    }  # fmt: skip


def test_what_wrk_prints_becomes_rates_and_everything_lost_is_counted() -> None:
    assert Sample.parse(PRINTED) == Sample(2000, 2, 9.352, 24.593, 33.17, errors=10, timeouts=5)
    assert Sample.of(Sample.parse(PRINTED).values()) == Sample.parse(PRINTED)


@pytest.mark.parametrize("printed", ["", "unable to connect to 10.0.0.1:80", '{"requests":1}'])
def test_output_without_a_result_is_an_error_that_shows_it(printed: str) -> None:
    with pytest.raises(ValueError, match=f"wrk printed no result: {re.escape(printed)}"):
        Sample.parse(printed)


def test_clients_pause_so_that_together_they_ask_for_the_rate() -> None:
    load = command(BY_NAME[load_name(0.5)], ("http://10.0.0.1", "default.bench"), 3, 1600, "/opt")
    assert load[:3] == ["env", "UPLOAD=0", "PAUSE_MS=40.000"]
    fresh = command(BY_NAME["fresh"], ("http://10.0.0.1", "default.bench"), 3, 0, "/opt")
    assert fresh[2] == "PAUSE_MS=0.000"
    assert fresh[-5:] == ["--header", "Host: default.bench", "--header", "Connection: close", "http://10.0.0.1/flask"]


class Answers(socketserver.ThreadingTCPServer):
    """Answers every second connection, and leaves the others without an answer."""

    request_queue_size, daemon_threads, connections = 64, True, 0

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        self.connections += 1
        answers = self.connections % 2 == 0
        while request.recv(4096):
            if answers:
                request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def test_every_client_of_a_crowd_that_gets_no_answer_is_counted() -> None:
    with Answers(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        crowd = clients.Crowd(f"http://127.0.0.1:{server.server_address[1]}/flask", "a.bench", 0.2, fresh=False)
        found = crowd.run(10, timeout_s=0.3)
        server.shutdown()
    sample = Sample.parse(json.dumps(found))
    assert (found["timeout"], sample.timeouts, sample.errors) == (5, 5, 0)
    assert found["requests"] > 10


def test_a_crowd_counts_refused_connections_as_errors() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        found = clients.Crowd(f"http://127.0.0.1:{nobody.getsockname()[1]}/", "a.bench", 0.05, fresh=True).run(2, 0.1)
    assert (found["requests"], found["timeout"]) == (0, 0)
    assert found["connect"] >= 2


def test_a_cell_shows_median_and_spread_and_marks_what_was_lost() -> None:
    made = result(default=2000)
    assert Figures(made).cell("default", "hello") == "2,000 ±10%"
    made["samples"]["default"]["hello"][0]["errors"] = 7
    assert Figures(made).cell("default", "hello") == "2,000 ±10% **(7 lost)**"
    assert Figures(made).cell("nginx", "wait") == ""


def test_goals_are_met_or_missed_by_ratios_within_a_round() -> None:
    met = {each.text: each.is_met for each in Figures(result(default=3000)).goals()}
    assert met["hello: 3 times Gunicorn's default"]
    assert met["an idle server: 90 MiB"]
    missed = {each.text: (each.measured, each.is_met) for each in Figures(result(default=2900, granian=5800)).goals()}
    assert missed["hello: 3 times Gunicorn's default"] == ("2.9 times (2.9 to 2.9)", False)
    assert missed["hello: no gateway that keeps PEP 3333 is faster (Granian)"] == ("0.50 times (0.50 to 0.50)", False)


def test_a_ratio_is_shown_with_its_range_over_the_rounds() -> None:
    made = result(default=3000)
    made["samples"]["gunicorn-sync"]["hello"] = [sample(400), sample(3300)]
    (goal,) = [each for each in Figures(made).goals() if "Gunicorn" in each.text]
    assert (goal.measured, goal.is_met) == ("3.9 times (1.0 to 6.8)", True)


def test_latency_counts_up_to_seven_tenths_of_the_most_that_clients_reached_and_not_asked_for() -> None:
    made = result()
    for load, reached in ((0.1, 0.1), (0.3, 0.3), (0.5, 0.45), (0.7, 0.6), (0.9, 0.71)):
        # The last one is slow because it is above.
        p99_ms = 90.0 if reached > 0.7 else 10 + 20 * reached
        made["samples"]["default"][load_name(load)] = [sample(1000 * reached * by, p99_ms) for by in (0.9, 1.1)]
    found = Figures(made)
    assert found.reached(0.9) == pytest.approx(0.71)
    (goal,) = [each for each in found.goals() if each.text.startswith("p99")]
    assert (goal.measured, goal.is_met) == ("1.8 times", True)
    assert "| 90% | 71% | 710 ±10% | 4 / 90 |" in page.blocks(made)["load"]


def test_a_request_without_an_answer_misses_the_goal_of_2000_clients() -> None:
    made = result()
    made["samples"]["default"]["many"][1]["timeouts"] = 1
    (goal,) = [each for each in Figures(made).goals() if each.text.startswith("2,000 clients")]
    assert (goal.measured, goal.is_met) == ("1", False)


def test_the_pages_have_a_place_for_each_part_that_a_run_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Pages(tmp_path, monkeypatch)
    page.PART.write(result(default=3000))
    text = copies.page.read_text()
    assert "| **wsgi-fleet, the default**: uWSGI | 3,000 ±10% |" in text
    assert '3,000 of a Flask "hello"' in copies.readme.read_text()
    page.PART.write(result(default=3000))
    assert copies.page.read_text() == text
    assert copies.plots() == plots_in(text.partition("## Time to serving")[0])
    copies.page.write_text(text.replace("bench-serve`: goals", "bench-serve`: wishes"))
    with pytest.raises(ValueError, match=r"have places for .*wishes"):
        page.PART.write(result())


def test_a_plot_is_the_same_text_for_the_same_numbers_and_runs_no_script() -> None:
    first, second = (plots.draw(Figures(result(default=3000))) for _ in range(2))
    assert first == second
    assert [name for name, plot in first.items() if "<script" in plot] == []
    assert "wsgi-fleet, the default: uWSGI" in first["hello"]


def test_each_contestant_has_a_site_that_leads_to_it_with_the_connections_it_keeps(tmp_path: Path) -> None:
    block = directives(contestants.site("10.0.0.9"), tmp_path)
    kept = {
        each["args"][0]: [inner["args"] for inner in find(each["block"], "keepalive")]
        for each in find(block, "upstream")
    }
    assert kept["beanstalk"] == [["256"]]
    assert kept["gunicorn-sync"] == []
    names = {each["args"][0] for each in find(block, "server_name")}
    assert names == {
        f"{each.name}.bench" for each in contestants.CONTESTANTS if not each.is_product and not each.direct
    }


def test_every_cell_names_contestants_that_there_are_and_each_is_measured_by_hello_first() -> None:
    assert {name for work in WORKS for name in work.of} == set(contestants.BY_NAME)
    # Shares of the most are taken of it.
    assert WORKS[0].name == "hello"
    assert set(WORKS[0].of) == set(contestants.BY_NAME)
