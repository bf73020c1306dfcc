"""The benchmark of what a user waits for: seconds become goals, costs of further servers, and a part of a page."""

from __future__ import annotations

import http.server
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import growth, pages, profile, results, run, times
from benchmarks.growth import Growth
from harness.stack import Stack
from tests.unit.bench_pages import Pages, plots_in


def result(first_s: float = 11, p99: float = 1.4, mib: float = 480, more: float = 0) -> dict[str, Any]:
    """Return the result of three runs. more: seconds that grow with the square of the servers."""
    phases = {
        profile.FIRST_UP: {"engine": [1.0, 2, 3], "(first response)": [first_s, first_s - 1, first_s + 1]},
        profile.NO_CHANGE: {"engine": [1.0, 1, 1], "end": [0.2, 0.3, 0.4]},
        profile.RELEASE: {"release": [4.0, 5, 6]},
        profile.ROLLBACK: {"whole command": [0.9, 0.9, 0.9]},
    }
    sizes = {str(servers): 2 + 0.1 * servers + more * servers**2 for servers in (3, 10, 30)}
    previews = [
        {"applications": count, "servers": servers, "resources": 4 * servers, "seconds": servers / 125, "mib": mib}
        for count, servers in ((1, 10), (1, 100), (1, 1000), (20, 50))
    ]
    return {
        "when": "2026-11-30T10:00:00+00:00", "commit": "abc", "cores": 2, "kernel": "6.1", "runs": 3, "skipped": "",
        "other_work": [0.01, 0.02, 0.5], "phases": phases,
        "measured": {times.SCALE_OUT: [4.0, 4, 4], times.P99: [p99] * 3},
        "machines": dict.fromkeys(("first `up`", "`up` that changes nothing", "release"), sizes),
        "previews": previews,
        "rollouts": [{"servers": servers, "seconds": servers / 30} for servers in (10, 100, 1000)],
    }  # fmt: skip


def missed(made: dict[str, Any]) -> dict[str, str]:
    return {each.text: each.measured for each in times.goals(made) if not each.is_met}


def test_a_goal_is_met_by_the_median_and_a_missed_one_names_the_reason() -> None:
    assert missed(result()) == {}
    made = result(first_s=12.5, p99=1.75, mib=650)
    assert missed(made) == {
        "from nothing to the first response: 12 s": "12.50 s (11.50 to 13.50)",
        "p99 during a release, against before: 1.5 times": "1.75 times (1.75 to 1.75)",
        "memory of that preview: 500 MiB": "650 MiB",
    }
    line = "| p99 during a release, against before: 1.5 times | 1.75 times (1.75 to 1.75) | **no**: staging takes"
    assert line in times.blocks(made)["goals"]


def test_a_command_takes_the_sum_of_its_phases_and_none_that_is_within_others() -> None:
    assert profile.wholes(result()["phases"][profile.FIRST_UP]) == [1, 2, 3]
    assert profile.wholes(result()["phases"][profile.NO_CHANGE]) == [1.2, 1.3, 1.4]


def test_a_further_server_costs_the_difference_of_two_sizes() -> None:
    found = Growth("release", "`make bench`", {3: 5.0, 10: 6.4, 30: 9.4})
    assert [round(each, 3) for each in found.further_s()] == [0.2, 0.15]
    assert found.ratio() == pytest.approx(0.75)


def test_a_cost_that_grows_with_the_square_is_no_even_one() -> None:
    for sizes in (growth.SIZES, (10, 100, 1000)):
        square = Growth("", "", {size: 1 + 0.005 * size**2 for size in sizes})
        assert (square.ratio() or 0) > growth.BOUND
        assert Growth("", "", {size: 1 + 0.2 * size for size in sizes}).ratio() == pytest.approx(1)
    assert "**no**: more than 2" in times.blocks(result(more=0.01))["machines"]
    assert "**no**" not in times.blocks(result())["machines"]


def test_differences_within_the_noise_are_no_growth() -> None:
    assert Growth("", "", {3: 2.0, 10: 2.0, 30: 2.1}).ratio() == pytest.approx(0.35)
    assert Growth("", "", {3: 2.0, 10: 1.9, 30: 2.0}).ratio() == pytest.approx(0.35)


def test_sizes_that_memory_does_not_allow_are_left_out_with_a_word() -> None:
    assert growth.fitting((3, 10, 30), 23_000) == ([3, 10, 30], "")
    sentence = "Not measured with 30 servers: 4000 MiB of memory were available."
    assert growth.fitting((3, 10, 30), 4_000) == ([3, 10], sentence)
    made = result() | {"skipped": sentence}
    assert times.blocks(made)["machines"].endswith(f"\n\n{sentence}\n")


def test_growth_with_two_sizes_says_what_a_server_costs_and_nothing_of_its_growth() -> None:
    made = result()
    made["machines"] = {"release": {"3": 5.0, "10": 6.4}}
    assert "| release | 5.0 s | 6.4 s | 200 ms | | | `make bench` |" in times.blocks(made)["machines"]


def test_a_quick_run_says_nothing_of_goals_that_it_does_not_measure() -> None:
    made = result(mib=600)
    made["previews"] = made["previews"][:2]
    assert missed(made) == {}


def test_a_page_says_how_much_other_work_there_was() -> None:
    line = pages.describe(result(), "3 runs.")
    assert line.endswith("3 runs. Other work had 2% of the cores, and 50% at most, in 3 pauses of 2 s.\n")
    unknown = {name: value for name, value in result().items() if name != "other_work"}
    assert "other work the cores had was not measured" in pages.describe(unknown, "")


def test_the_reason_for_a_goal_of_time_is_other_work_where_that_had_the_cores() -> None:
    made = result(p99=1.75, mib=650) | {"other_work": [0.3]}
    reasons = {each.text.partition(":")[0]: each.missed for each in times.goals(made) if not each.is_met}
    assert reasons == {
        "p99 during a release, against before": "other work had the cores in this run",
        "memory of that preview": "Pulumi's SDK keeps each resource with its inputs",
    }


def test_the_readme_says_so_if_other_work_made_times_longer() -> None:
    assert "too long" not in times.blocks(result())["times"]
    busy = times.blocks(result() | {"other_work": [0.05, 0.3, 0.4]})["times"]
    assert busy.endswith("\nThese are too long: other work had 30% of the cores meanwhile.\n")


def test_other_work_is_what_cores_did_while_nothing_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(["cpu  100 0 50 800 50 0 0 0 0 0\n", "cpu  130 0 60 850 55 0 0 5 0 0\n"])
    monkeypatch.setattr(results, "PAUSE_S", 0)
    monkeypatch.setattr(Path, "read_text", lambda *_: next(ticks))  # pyright: ignore
    assert results.measure_other_work() == pytest.approx(0.45)


def test_the_pages_have_a_place_for_each_part_that_a_run_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Pages(tmp_path, monkeypatch)
    times.PART.write(result())
    text = copies.page.read_text()
    assert "| **up that changes nothing** | **1.30** | `make bench-profile` |" in text
    assert "| release | 2.3 s | 3.0 s | 5.0 s | 100 ms | 100 ms | 1.0 | yes | `make bench` |" in text
    assert "11.0 s from nothing to the first response" in copies.readme.read_text()
    times.PART.write(result())
    assert copies.page.read_text() == text
    assert copies.plots() == plots_in(text.partition("## Time to serving")[2])
    copies.page.write_text(text.replace("bench`: goals", "bench`: wishes"))
    with pytest.raises(ValueError, match=r"have places for .*wishes"):
        times.PART.write(result())


def test_a_plot_is_the_same_text_for_the_same_numbers_and_names_the_cost_of_a_server() -> None:
    first, second = (times.draw(result()) for _ in range(2))
    assert first == second
    assert [name for name, plot in first.items() if "<script" in plot] == []
    assert "release, each further server 100 ms" in first["growth"]
    assert "Unnamed series" not in first["growth"]


class Fleet:
    """Stands for a stack of one server, whose new one serves a while after its `up` began."""

    def __init__(self, url: str) -> None:
        self.url, self.app, self.serving = url, dict[str, Any](), ["probe-1-aa"]

    def servers(self) -> dict[str, str]:
        return {"probe-1": "probe-1-aa"}

    def up(self) -> None:
        time.sleep(0.3)
        self.serving.append("probe-2-bb")


def test_scaling_out_takes_until_the_new_server_responds_and_no_other() -> None:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"Hello from {fleet.serving[-1]}, release 0\n".encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        fleet = Fleet(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = run.scale_out(cast("Stack", fleet))
        server.shutdown()
    assert fleet.app == {"fleet": {"servers": 2}}
    assert found >= 0.3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"samples": {}, "when": "2026", "cores": 2, "kernel": "6"}'])
def test_a_file_that_holds_no_results_is_an_error_that_names_those_which_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    written = Pages(tmp_path, monkeypatch)
    before = written.page.read_text()
    file = tmp_path / "other.json"
    file.write_text(content)
    given = pages.make_parser("").parse_args(["--page", str(file)])
    with pytest.raises(SystemExit, match=r"other.json: is none of benchmarks/results/times-\*.json, by `make bench`"):
        times.PART.run(given, dict)
    assert (written.page.read_text(), written.plots()) == (before, set())
