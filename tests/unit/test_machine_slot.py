"""A slot on an app server: when it counts as healthy, and what a person is told when it is not."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import slot
import slot_layout
from common import AppServerError

from tests.unit.app_server import AppServer, lay_out, manifest_text


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppServer:
    """Create a server on which nothing runs."""
    return lay_out(tmp_path, monkeypatch)


TRACEBACK = "Traceback (most recent call last)\n  File x\nKeyError: 1\n"


def test_what_a_person_reads_of_a_journal_begins_at_the_last_traceback(host: AppServer) -> None:
    host.journal = f"starting\n{TRACEBACK}\nagain\n{TRACEBACK.replace('1', '2')}unit failed\n"
    lines = ["Traceback (most recent call last)", "  File x", "KeyError: 2", "unit failed"]
    assert slot.last_lines("blue", 7.9) == "\n".join(f"    {line}" for line in lines)
    assert host.others == [
        "journalctl --sync",
        "journalctl --no-pager -o cat -r -n 200 --since @7 -u app@blue",
    ]


def test_a_journal_without_a_traceback_is_its_last_lines(host: AppServer) -> None:
    host.journal = "".join(f"line {number}\n\n" for number in range(40))
    assert slot.last_lines("blue", 7.0).splitlines() == [f"    line {number}" for number in range(15, 40)]


def test_a_long_traceback_keeps_its_first_line_by_which_it_is_recognized(host: AppServer) -> None:
    host.journal = f"{TRACEBACK.splitlines()[0]}\n" + "".join(f"  line {number}\n" for number in range(40))
    lines = [TRACEBACK.splitlines()[0], *(f"  line {number}" for number in range(16, 40))]
    assert slot.last_lines("blue", 7.0) == "\n".join(f"    {line}" for line in lines)


def test_a_journal_leaves_out_what_the_gateway_logs_of_our_own_requests(host: AppServer) -> None:
    of_uwsgi = "[pid: 1|app: 0|req: 1/1] 0.0.0.0 () {26 vars} GET /healthz => generated 13 bytes (HTTP/1.1 500)"
    host.journal = f'database gone\n{of_uwsgi}\n"GET /healthz HTTP/1.1" 500\nGET /healthzz HTTP/1.1\n'
    assert slot.last_lines("blue", 7.0, "/healthz").splitlines() == ["    database gone", "    GET /healthzz HTTP/1.1"]
    assert len(slot.last_lines("blue", 7.0).splitlines()) == 4


MANIFEST: dict[str, Any] = json.loads(manifest_text())


def test_good_answers_count_from_the_last_bad_one(host: AppServer) -> None:
    host.answers = [200, 200, 503, 200, ConnectionRefusedError(), 200, 200, 200, 404]
    slot.start_and_gate("green", MANIFEST)
    assert host.answers == [404]
    assert host.states["app@green"] == "active"


def test_a_slot_that_answers_clients_has_only_so_many_errors(host: AppServer) -> None:
    host.answers, host.journal = [200, 500, 500, 503, 500, 500, 500, 200, 200, 200], "broken\n"
    with pytest.raises(AppServerError, match=r"GET /healthz was not 200 in 3 tries but 500 .*\n    broken"):
        slot.start_and_gate("green", MANIFEST)
    assert host.answers == [200, 200, 200]
    assert host.states["app@green"] == "inactive"


@pytest.mark.parametrize("name", ["proof", "green"])
@pytest.mark.parametrize("status", [301, 400, 404])
def test_a_slot_that_answers_otherwise_on_purpose_is_refused_after_five_tries(
    host: AppServer, name: str, status: int
) -> None:
    host.answers = [503, *[status] * 4, OSError("reset"), *[status] * 5, *[200] * 3]
    with pytest.raises(AppServerError, match=f"^GET /healthz was not 200 in 5 tries but {status} app-{name} /healthz;"):
        slot.start_and_gate(name, MANIFEST)
    assert host.answers == [200] * 3


@pytest.mark.parametrize(("name", "limit"), [("green", 5), ("proof", 30)])
def test_a_slot_that_answers_clients_gets_healthy_soon_and_a_proof_has_its_start_time_out(
    host: AppServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, limit: int
) -> None:
    # The start took 90 s of the clock of the wall.
    clock, wall = itertools.count(0, 0.25), itertools.chain([0], itertools.repeat(90))
    monkeypatch.setattr(slot, "time", Mock(time=lambda: next(wall), monotonic=lambda: next(clock)))
    host.answers = [503] * 199
    with pytest.raises(AppServerError, match=f"was not 200 in {limit} s but 503"):
        slot.start_and_gate(name, MANIFEST)
    assert len(host.asked) <= limit * 4
    waited = re.findall(rf"GET /healthz still responds with .* after (\d+) s of {limit} s", capsys.readouterr().out)
    # The first line comes after 10 s.
    assert bool(waited) == (limit > 10)
    assert all(int(each) <= limit for each in waited)


@pytest.mark.parametrize(("start", "drain_s"), [(1, 5), (0, 75)], ids=["never started", "asked by clients"])
def test_a_slot_that_fails_when_clients_ask_it_finishes_their_requests(
    host: AppServer, monkeypatch: pytest.MonkeyPatch, start: int, drain_s: int
) -> None:
    host.starts, host.answers = [start], [500] * slot.ERRORS
    host.place("r1")
    host.serves("r1", "green")
    stopped: list[tuple[str, float]] = []

    def stop(name: str, drain_s: float) -> None:
        stopped.append((name, drain_s))

    monkeypatch.setattr(slot, "stop", stop)
    with pytest.raises(AppServerError):
        slot.start_and_gate("green", MANIFEST)
    assert stopped == [("green", drain_s)]


@pytest.mark.parametrize(
    ("starts", "responses", "message"),
    [
        ([1], [], "wsgi:app did not start"),
        ([None], [], "wsgi:app was not imported in 0 s"),
        ([0], [500] * 99, "GET /healthz was not 200 in 0 s but nothing"),
    ],
)
def test_a_unit_that_does_not_get_healthy_is_stopped_and_its_journal_told(
    host: AppServer, starts: list[int | None], responses: list[int | Exception], message: str
) -> None:
    host.starts, host.answers, host.journal = starts, responses, "broken\n"
    with pytest.raises(AppServerError) as error:
        slot.start_and_gate("green", MANIFEST | {"start_timeout_s": 0})
    assert str(error.value) == f"{message}; its last lines:\n    broken"
    assert host.states["app@green"] == "inactive"


def test_a_unit_that_ends_after_it_has_responded_well_did_not_start(host: AppServer) -> None:
    host.starts, host.restarts, host.journal = [0], iter([0, 1]), "broken\n"
    with pytest.raises(AppServerError, match="wsgi:app did not start; its last lines:\n    broken"):
        slot.start_and_gate("green", MANIFEST)
    assert host.states["app@green"] == "inactive"


Parent = subprocess.Popen[bytes]


@pytest.fixture
def parent() -> Iterator[Parent]:
    """Start a process with a child."""
    command = ["sh", "-c", "sleep 60 & echo; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as made:
        assert made.stdout
        made.stdout.readline()
        yield made
        os.killpg(made.pid, signal.SIGKILL)


def stop_slot(host: AppServer, monkeypatch: pytest.MonkeyPatch, pid: int, is_over: Callable[[], bool]) -> list[str]:
    """Stop slot blue, whose main process has a pid. It ends when it is killed, or by itself. Return who was killed."""
    killed: list[str] = []

    def run(*command: str, timeout_s: float = 60, user: str | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.CompletedProcess(command, 0, "", "")
        match command:
            case ("systemctl", "show", "-P", "MainPID", *_):
                done.stdout = f"{pid}\n"
            case ("systemctl", "show", "-P", "ActiveState", *_):
                done.stdout = "inactive" if killed or is_over() else "deactivating"
            case ("systemctl", "kill", *_):
                killed.append(command[-1])
            case _:
                return host.run(*command, timeout_s=timeout_s, user=user)
        return done

    for module in (slot, slot_layout):
        monkeypatch.setattr(module, "run", run)
    slot.stop("blue", 3)
    return killed


def test_a_slot_whose_workers_have_ended_is_not_waited_for(
    host: AppServer,
    monkeypatch: pytest.MonkeyPatch,
    parent: subprocess.Popen[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with subprocess.Popen(["sleep", "60"]) as main:
        assert stop_slot(host, monkeypatch, main.pid, lambda: False) == ["app@blue"]
        main.kill()
    # The application has started a child that stays, and the file of the only worker goes.
    file = slot_layout.private_socket("blue").parent / "worker-1-2-3"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    threading.Timer(0.3, file.unlink).start()
    assert stop_slot(host, monkeypatch, parent.pid, lambda: False) == ["app@blue"]
    assert not file.exists()
    assert "did not drain" not in capsys.readouterr().out


def test_a_slot_whose_workers_are_unknown_has_the_whole_time_while_its_main_process_has_children(
    host: AppServer,
    monkeypatch: pytest.MonkeyPatch,
    parent: subprocess.Popen[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    end_s = time.monotonic() + 0.5
    assert stop_slot(host, monkeypatch, parent.pid, lambda: time.monotonic() > end_s) == []
    assert stop_slot(host, monkeypatch, parent.pid, lambda: False) == ["app@blue"]
    assert "app@blue did not drain in 3 s; killing what is left" in capsys.readouterr().out


def test_a_wait_for_a_health_path_says_what_it_answers_since_when_and_for_how_long(
    host: AppServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slot, "FIRST_LOGGED_S", (0,))
    host.starts, host.answers = [0], [503, 503, *[200] * 9]
    slot.start_and_gate("proof", MANIFEST)
    line = "GET /healthz still responds with status 503 app-proof /healthz after 0 s of 30 s"
    assert capsys.readouterr().out.splitlines() == [line]
    monkeypatch.setattr(slot, "SILENCE_S", 0)
    monkeypatch.setattr(slot, "get", Mock(side_effect=lambda *_: threading.Event().wait(0.05) or (200, "")))  # pyright: ignore
    host.starts = [0]
    slot.start_and_gate("proof", MANIFEST)
    assert capsys.readouterr().out.splitlines()[0] == "GET /healthz does not respond after 0 s of 30 s"


def test_a_response_is_told_with_its_status_and_its_words_in_quotes() -> None:
    lines = [slot_layout.format_response(*each) for each in [(500, '"down"'), (500, ""), (302, "to /x"), (0, "reset")]]
    assert lines == ['500: "down"', "500", "302 to /x", "reset"]


@pytest.mark.parametrize(
    ("state", "restarts", "responses", "message"),
    [
        ("failed", 0, [], "app@blue ended"),
        ("active", 1, [], "app@blue ended"),
        ("active", 0, [200, 503], "GET /healthz was 503 app-blue /healthz"),
        ("active", 0, [OSError("reset")], "GET /healthz was reset"),
    ],
)
def test_a_slot_that_ends_restarts_or_answers_badly_while_it_is_watched_is_told(
    host: AppServer, state: str, restarts: int, responses: list[int | Exception], message: str
) -> None:
    host.states["app@blue"], host.answers, host.journal = state, responses, "broken\n"
    host.restarts = iter([0, *[restarts] * 9])
    with pytest.raises(AppServerError) as error:
        slot.bake_slot("blue", MANIFEST, 60)
    assert str(error.value) == f"{message} while it served; its last lines:\n    broken"


def test_a_slot_that_stays_well_for_the_whole_time_is_well(host: AppServer) -> None:
    host.states["app@blue"] = "active"
    slot.bake_slot("blue", MANIFEST, 0.05)


class Handler(socketserver.StreamRequestHandler):
    """Answers by the path, and 400 where it is not asked for shop.example.org by HTTPS."""

    def handle(self) -> None:
        path = self.rfile.readline().split()[1]
        headers = {line.strip() for line in iter(self.rfile.readline, b"\r\n")}
        head = b"302 Found\r\nLocation: /login" if path == b"/moved" else b"503 Busy"
        if not headers >= {b"Host: shop.example.org", b"X-Forwarded-Proto: https"}:
            head = b"400 Bad Request"
        body = b"<!doctype html>\n" if path == b"/page" else b"  no database\nmore\n"
        self.wfile.write(b"HTTP/1.1 " + head + b"\r\nConnection: close\r\n\r\n" + body)


HEADERS = {"Host": "shop.example.org", "X-Forwarded-Proto": "https"}
ASKED = {"health_path": "/healthz", "health_headers": HEADERS}


@pytest.mark.parametrize(
    ("manifest", "response"),
    [
        (ASKED, (503, '"no database"')),
        (ASKED | {"health_path": "/page"}, (503, "")),
        (ASKED | {"health_path": "/moved"}, (302, "to /login, and a redirect is not healthy")),
        (ASKED | {"health_headers": {"Host": "localhost"}}, (400, '"no database" (Host: localhost)')),
    ],
)
def test_an_answer_is_its_status_and_its_first_line_or_where_it_leads(
    manifest: dict[str, Any], response: tuple[int, str], tmp_path: Path
) -> None:
    with socketserver.UnixStreamServer(str(tmp_path / "s"), Handler) as made:
        thread = threading.Thread(target=made.handle_request)
        thread.start()
        assert slot.get(tmp_path / "s", manifest, 20) == response
        thread.join()
