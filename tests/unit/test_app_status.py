"""How a server tells of its gateway: uWSGI's statistics and the kernel's tables as numbers."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import app_status
import host_status
import pytest
from gateway_requests import Requests

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def worker(status: str, *in_request: int) -> dict[str, Any]:
    return {"status": status, "cores": [{"in_request": each} for each in in_request]}


STATS: dict[str, Any] = {
    "listen_queue": 4,
    "workers": [worker("busy", 1, 0), worker("idle", 0, 0), worker("sig15", 0, 0), worker("cheap", 0, 0)],
}


def test_a_worker_is_busy_unless_it_is_idle_and_cheaped_ones_do_not_count() -> None:
    counted = {"workers_busy": 2, "workers_idle": 1, "threads": 6, "threads_busy": 1, "listen_queue": 4}
    assert app_status.count_workers(STATS) == counted


def test_statistics_come_from_the_slots_own_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_status, "RUN", tmp_path)
    (tmp_path / "app-green").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "app-green" / "stats.sock"))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(json.dumps(STATS).encode())
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        assert (app_status.gateway_status("green") or {})["workers_busy"] == 2
    assert app_status.gateway_status("blue") is None


def test_workers_of_other_gateways_are_counted_by_their_files(tmp_path: Path) -> None:
    assert app_status.count_requests(tmp_path) is None
    requests = Requests(6, str(tmp_path / f"worker-{os.getpid()}-2-6"))
    Requests(6, str(tmp_path / "worker-1-2-6"))
    requests.begin(7, 8, 60.0, "GET '/'")
    entry = requests.begin(9, 8, 60.0, "GET '/'")
    found = {"workers_busy": 1, "workers_idle": 1, "threads": 4, "threads_busy": 2, "listen_queue": 0}
    assert app_status.count_requests(tmp_path) == found
    requests.end(entry)
    assert app_status.count_requests(tmp_path) == found | {"threads_busy": 1}
    requests.remove_file()
    assert app_status.count_requests(tmp_path) == found | {
        "workers_busy": 0, "workers_idle": 1, "threads": 2, "threads_busy": 0,
    }  # fmt: skip


def test_files_that_no_worker_wrote_are_passed_over(tmp_path: Path) -> None:
    me = os.getpid()
    (tmp_path / f"worker-{me}-1-5").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / f"worker-{me}-2-5")
    (tmp_path / f"worker-{me}-3-5").mkdir()
    for name in ("worker-99999999-1-1", f"worker-{me}-1-0", f"worker-{me}-1", f"worker-{me}-1-1-1", "worker-../x-1-1"):
        (tmp_path / name.replace("/", "_")).write_bytes(b"\x01")
    assert app_status.count_requests(tmp_path) is None
    (tmp_path / f"worker-{me}-1-7").touch()
    assert (app_status.count_requests(tmp_path) or {})["threads_busy"] == 0


def test_a_gateway_whose_file_cannot_be_made_works_without(tmp_path: Path) -> None:
    requests = Requests(2, str(tmp_path / "absent" / "worker-1-2-2"))
    requests.begin(7, 8, 60.0, "GET '/'")
    assert len(requests.in_flight()) == 1
    requests.remove_file()


def test_the_accept_queue_is_what_the_kernel_counts_for_the_listening_port_if_it_listens(tmp_path: Path) -> None:
    listening = f"   1: {'0' * 32}:1F40 {'0' * 32}:0000 0A 00000000:0000001C 00:00000000 00000000     0 0 1\n"
    other = f"   0: {'0' * 32}:0016 {'0' * 32}:0000 0A 00000000:00000005 00:00000000 00000000     0 0 1\n"
    open_ = f"   2: {'0' * 32}:1F40 {'0' * 32}:C350 01 00000000:00000007 00:00000000 00000000     0 0 1\n"
    table = tmp_path / "tcp6"
    for lines, queue in ((other + listening + open_, 28), (other + open_, None)):
        table.write_text(HEAD + lines)
        assert app_status.accept_queue((), (tmp_path / "tcp", table)) == queue


def test_the_kernel_counts_what_waits_here() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=5) as server:
        port = server.getsockname()[1]
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        before, app_status.APP_PORT = app_status.APP_PORT, port
        try:
            assert app_status.accept_queue() == 3
        finally:
            app_status.APP_PORT = before
            for client in clients:
                client.close()


def test_units_that_were_started_again_are_told_with_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    units = {"app@blue": ("active", 8), "app@green": ("inactive", 0), "app-worker-m@1": ("activating", 12)}
    units |= {"app-worker-gone@1": ("inactive", 3), "app-worker-ended@1": ("failed", 3)}
    text = "\n".join(
        f"NRestarts={times}\nId={unit}.service\nActiveState={state}\n" for unit, (state, times) in units.items()
    )
    texts = [text, ""]

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        assert command == ("systemctl", "show", "-p", "Id,NRestarts,ActiveState", "app@*", "app-worker-*")
        return subprocess.CompletedProcess(command, 0, texts.pop(0), "")

    monkeypatch.setattr(app_status, "run", run)
    shown = app_status.show_units(*app_status.WITH_RESTARTS)
    assert app_status.count_restarts(shown) == {
        "app@blue.service": 8,
        "app-worker-m@1.service": 12,
    }
    # No unit is loaded.
    assert app_status.list_restarts() == {}


def test_a_disk_that_takes_nothing_more_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_status.write_error(str(tmp_path)) == ""

    def full(_file: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    assert host_status.write_error(str(tmp_path)) == "Disk quota exceeded"


def test_requests_that_ended_their_worker_are_found_among_what_was_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = ["worker 12 ended while it worked on GET '/abort'", "GET '/slow' took longer than 60 s: worker 7 ends"]
    logged = [ended[0], "Fatal Python error: Aborted", ended[1], "somebody said: worker 1 ended while it worked on me"]

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        assert command[0] == "journalctl"
        return subprocess.CompletedProcess(command, 0, "\n".join(logged), "")

    monkeypatch.setattr(app_status, "run", run)
    assert app_status.find_ended_requests() == ended
