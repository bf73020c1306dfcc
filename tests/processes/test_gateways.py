"""Each gateway for real, on loopback: it reads what was rendered, serves, stops without loss, keeps to limits."""

from __future__ import annotations

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import app_status
import pytest
import slot

from gateways import GATEWAYS
from harness.stack import eventually
from tests.combinations import GATEWAY_SETTINGS, OVER_HTTP
from tests.processes.gateway_process import APP, Process, app, started

KINDS = dict.fromkeys(each["kind"] for each in OVER_HTTP.values())
LAZY = {
    f"{kind}, lazy": {"kind": kind, "lazy_apps": True} for kind in KINDS if "lazy_apps" not in GATEWAYS[kind].unused
}
# Tells what a fork left of a worker: `ran` of a thread, `forks` that Python was told of, a random number.
FORKED = """
import json, os, random, threading

forks = []
os.register_at_fork(after_in_child=lambda: forks.append(os.getpid()))

def app(environ, start_response):
    ran = threading.Event()
    threading.Thread(target=ran.set).start()
    start_response("200 OK", [("Content-Type", "application/json")])
    seen = {"pid": os.getpid(), "ran": ran.wait(5), "forks": forks.count(os.getpid()), "random": random.random()}
    return [json.dumps(seen).encode()]
"""
# Starts a process in each way that Python knows, and asks it to end while it waits.
SPAWNS = """
import json, multiprocessing, os, time

def tell(queue):
    queue.put(os.environ["WEB_CONCURRENCY"])
    time.sleep(60)

def app(environ, start_response):
    seen = {}
    for way in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(way)
        queue = context.SimpleQueue()
        process = context.Process(target=tell, args=(queue,))
        process.start()
        concurrency = queue.get()
        process.terminate()
        process.join(20)
        # The event loop of gevent may reap the process first. Then its exit code is lost.
        is_gone = not os.path.exists(f"/proc/{process.pid}")
        seen[way] = [concurrency, "reaped" if is_gone and process.exitcode is None else process.exitcode]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]
"""
# uWSGI is what end-to-end tests run.
every = pytest.mark.parametrize("gateway", OVER_HTTP.values(), ids=OVER_HTTP)


@every
def test_each_worker_serves_both_sockets_as_the_balancer_means_it(gateway: dict[str, Any], tmp_path: Path) -> None:
    with started(app(**gateway, processes=2), tmp_path) as running:
        running.wait_ready()
        assert imports(running) == (2 if "gevent" in gateway.values() else 1)
        real = {"X-Real-IP": "192.0.2.7", "X-Forwarded-Proto": "https", "Host": "shop.example.org:8443"}
        real |= {"X-Forwarded-Host": "shop.example.org:8443", "X-Forwarded-Port": "8443"}
        # Lines as long as the balancer lets through.
        path, cookie = "/" + "p" * 16_300, "c" * 16_300
        seen = running.ask(f"{path}%20b?c=d", real | {"Cookie": cookie})
        assert (seen["status"], seen["PATH_INFO"], seen["QUERY_STRING"]) == (200, f"{path} b", "c=d")
        assert (seen["REMOTE_ADDR"], seen["HTTP_HOST"]) == ("192.0.2.7", "shop.example.org:8443")
        assert (seen["HTTP_COOKIE"], seen["scheme"]) == (cookie, "https")
        assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("shop.example.org", "8443")
        assert running.ask("/", {"X-Forwarded-Proto": "gopher"})["scheme"] == "http"
        assert running.ask("/", private=True)["status"] == 200
        connection = running.connect()
        connection.request("POST", "/", b"x" * 3_000_000, {"Connection": "close"})
        assert json.loads(connection.getresponse().read())["body"] == 3_000_000
        connection.close()
        deadline = time.monotonic() + 40
        # Many at once: an idle process may take all that come one after the other.
        with ThreadPoolExecutor(16) as clients:
            pids: set[int] = set()
            while len(pids) < 2:
                assert time.monotonic() < deadline, running.log
                pids |= {response["pid"] for response in clients.map(running.ask, ["/"] * 64)}
        assert running.stop() == 0


@every
def test_workers_tell_what_they_work_on_and_leave_nothing_when_they_end(
    gateway: dict[str, Any], tmp_path: Path
) -> None:
    def count() -> dict[str, int] | None:
        return app_status.count_requests(tmp_path)

    with started(app(**gateway, processes=2), tmp_path) as running:
        running.wait_ready()
        threads = app(**gateway).gateway.concurrency
        idle = {"workers_busy": 0, "workers_idle": 2, "threads": 2 * threads, "threads_busy": 0, "listen_queue": 0}
        assert count() == idle
        with ThreadPoolExecutor(1) as client:
            slow = client.submit(running.ask, "/sleep/1")
            eventually(lambda: count() != idle, timeout_s=20, message=running.log)
            assert count() == idle | {"workers_busy": 1, "workers_idle": 1, "threads_busy": 1}
            assert slow.result()["status"] == 200
        # A request ends a moment after its response.
        eventually(lambda: count() == idle, timeout_s=5, message=str(count()))
        assert running.stop() == 0
        eventually(lambda: not list(tmp_path.glob("worker-*")), timeout_s=5, message="the files have gone")


def test_files_of_uwsgi_workers_go_when_they_end_although_a_child_of_the_application_stays(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(f"import subprocess\nsubprocess.Popen(['sleep', '60'])\n{APP}")
    with started(app("uwsgi", processes=2), tmp_path) as running:
        running.wait_ready()
        eventually(lambda: len(list(tmp_path.glob("worker-*"))) == 2, timeout_s=5, message=running.log)
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: not list(tmp_path.glob("worker-*")), timeout_s=10, message="the files have gone")
        # Here the children of the main process do not show that the workers have ended (machine/app_server/slot.py).
        assert running.process.poll() is None
        assert not slot.has_no_children(str(running.process.pid))


@pytest.mark.parametrize("gateway", KINDS)
def test_a_factory_makes_the_application(gateway: str, tmp_path: Path) -> None:
    factory = "\ndef make(name, *, scheme):\n    assert (name, scheme) == ('shop', 2)\n    return app\n"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(APP + factory)
    made = app(gateway).model_copy(update={"module": 'app:make("shop", scheme=2)'})
    with started(made, tmp_path) as running:
        running.wait_ready()
        assert running.ask()["status"] == 200


@pytest.mark.parametrize("gateway", (GATEWAY_SETTINGS | LAZY).values(), ids=(GATEWAY_SETTINGS | LAZY).keys())
def test_an_application_that_does_not_import_ends_it_before_it_is_ready(
    gateway: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text("import nothing_of_that_name\n")
    with started(app(**gateway, processes=2), tmp_path) as running:
        assert running.process.wait(30) != 0
        assert "No module named 'nothing_of_that_name'" in running.log
        assert not running.says_ready()


# With values that would break a gateway, or change what it serves.
READ_BY_GATEWAYS = {
    "UWSGI_STATIC_MAP": "/x=/etc",
    "UWSGI_PROCESSES": "none",
    "GUNICORN_CMD_ARGS": "--bind 127.0.0.1:1",
    "FORWARDED_ALLOW_IPS": "*",
    "PORT": "http",
    "SENDFILE": "perhaps",
    "WEB_CONCURRENCY": "auto",
}
TELLS_ITS_ENVIRONMENT = """
import json, os

def app(environ, start_response):
    start_response("200 OK", [])
    return [json.dumps({"path": environ["PATH_INFO"], "environment": dict(os.environ)}).encode()]
"""


@pytest.mark.parametrize("gateway", (GATEWAY_SETTINGS | LAZY).values(), ids=(GATEWAY_SETTINGS | LAZY).keys())
def test_variables_that_a_gateway_would_read_reach_the_application_and_not_the_gateway(
    gateway: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in READ_BY_GATEWAYS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(TELLS_ITS_ENVIRONMENT)
    with started(app(**gateway, processes=1), tmp_path) as running:
        running.wait_ready()
        seen = running.ask("/x/hostname", private=True)
        assert seen["path"] == "/x/hostname"
        assert seen["environment"].items() >= READ_BY_GATEWAYS.items()
        assert "WSGI_FLEET_PROCESSES" not in seen["environment"]


@pytest.mark.parametrize("gateway", (GATEWAY_SETTINGS | LAZY).values(), ids=(GATEWAY_SETTINGS | LAZY).keys())
def test_a_thread_that_an_import_has_started_before_the_fork_is_logged_by_its_name(
    gateway: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    thread = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), name='beat', daemon=True).start()\n"
    )
    (tmp_path / "code" / "app.py").write_text(thread + APP)
    made = app(**gateway, processes=1)
    with started(made, tmp_path) as running:
        running.wait_ready()
        is_forked = not (made.gateway.lazy_apps or made.gateway.runs_greenlets)
        assert running.log.count("warning: threads of the import end in workers: beat\n") == is_forked


@every
def test_a_stop_finishes_what_is_in_flight_and_leaves_the_rest_to_the_next(
    gateway: dict[str, Any], tmp_path: Path
) -> None:
    responses: list[int] = []

    def ask(running: Process) -> None:
        responses.append(running.ask("/sleep/2")["status"])

    with started(app(**gateway, processes=2), tmp_path) as running:
        running.wait_ready()
        clients = [threading.Thread(target=ask, args=(running,)) for _ in range(2)]
        for client in clients:
            client.start()
        while len(list((tmp_path / "code").glob("began-*"))) < 2:
            time.sleep(0.02)
        start_s = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        time.sleep(1.1)
        # It waits in the socket, which the next process inherits, unless it was still taken.
        late = running.connect()
        late.request("GET", "/", headers={"Connection": "close"})
        assert running.process.wait(30) == 0
        assert time.monotonic() - start_s < 15
        for client in clients:
            client.join()
        assert responses == [200, 200]
        with started(app(**gateway, processes=1), tmp_path / "next", public=running.public) as following:
            following.wait_ready()
            assert late.getresponse().status == 200
            late.close()


@pytest.mark.parametrize("gateway", [each for each in OVER_HTTP.values() if app(**each).gateway.runs_greenlets])
def test_greenlets_wait_together_in_one_process(gateway: dict[str, Any], tmp_path: Path) -> None:
    with started(app(**gateway, processes=1, greenlets=20), tmp_path) as running:
        running.wait_ready()
        start_s = time.monotonic()
        clients = [threading.Thread(target=running.ask, args=("/sleep/1",)) for _ in range(20)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert time.monotonic() - start_s < 12


def test_a_proof_runs_one_process_whatever_the_release_says(tmp_path: Path) -> None:
    for kind in KINDS:
        with started(app(kind, processes=3), tmp_path / kind, "1") as running:
            running.wait_ready()
            assert len({running.ask()["pid"] for _ in range(30)}) == 1


def imports(running: Process) -> int:
    return len((running.folder / "code" / "imports").read_text())


@pytest.mark.parametrize("gateway", LAZY.values(), ids=LAZY.keys())
def test_each_worker_imports_a_lazy_application(gateway: dict[str, Any], tmp_path: Path) -> None:
    with started(app(**gateway, processes=2), tmp_path) as running:
        running.wait_ready()
        assert imports(running) == 2


@pytest.mark.parametrize("gateway", GATEWAY_SETTINGS.values(), ids=GATEWAY_SETTINGS)
def test_a_worker_is_forked_as_python_forks(gateway: dict[str, Any], tmp_path: Path) -> None:
    """Check that each worker starts threads, was seeded anew, and that libraries heard of its fork once at most."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(FORKED)
    with started(app(**gateway, processes=2), tmp_path) as running, ThreadPoolExecutor(8) as clients:
        running.wait_ready()
        responses: list[dict[str, Any]] = []
        deadline = time.monotonic() + 40
        while len({each["pid"] for each in responses}) < 2:
            assert time.monotonic() < deadline, running.log
            responses += [each.result() for each in [clients.submit(running.ask, private=True) for _ in range(32)]]
    assert {(each["status"], each["ran"]) for each in responses} == {(200, True)}
    assert {each["forks"] for each in responses} == {0 if "gevent" in gateway.values() else 1}
    assert len({each["random"] for each in responses}) == len(responses)


@pytest.mark.parametrize("gateway", ["uwsgi", "gunicorn gthread", "gevent", "tornado"])
def test_processes_of_multiprocessing_run_the_application_alone_and_end_when_asked(
    gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(SPAWNS)
    with started(app(**GATEWAY_SETTINGS[gateway], processes=1), tmp_path) as running:
        running.wait_ready()
        seen = running.ask(private=True)
        ended = ["2", -signal.SIGTERM]
        if gateway == "gevent":
            seen = {way: ended if found == ["2", "reaped"] else found for way, found in seen.items()}
        assert seen == {"status": 200, "fork": ended, "spawn": ended, "forkserver": ended}, running.log
