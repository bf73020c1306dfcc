"""Gateways for real with applications that raise, crash, hang or are asked too much: one request hurts no other."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from settings.application import App
from tests.combinations import GATEWAY_SETTINGS
from tests.processes.gateway_process import Process, app, started

APP = """
import io, os, time

def log(what):
    with open("noted-closed", "a") as file:
        file.write(what + "\\n")

class Parts:
    def __init__(self, name, parts):
        self.name, self.parts = name, iter(parts)
    def __iter__(self):
        return self
    def __next__(self):
        part = next(self.parts)
        if part is None:
            raise RuntimeError("on purpose")
        return part
    def close(self):
        log(self.name)

class Packed(io.FileIO):
    def read(self, *size):
        return super().read(*size) * 2

class File:
    def __init__(self):
        self.file = open("large", "rb")
    def fileno(self):
        return self.file.fileno()
    def read(self, *size):
        raise RuntimeError("not by sendfile")
    def tell(self):
        return self.file.tell()
    def close(self):
        log("file")
        self.file.close()

def app(environ, start_response):
    what = environ["PATH_INFO"].strip("/")
    if what == "before":
        raise RuntimeError("on purpose")
    write = start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6"), ("X-Begun", "yes")])
    if what == "after":
        raise RuntimeError("on purpose")
    if what == "nothing":
        return None
    if what == "first":
        return Parts(what, [None])
    if what == "empty":
        return Parts(what, [])
    if what == "second":
        return Parts(what, [b"ab", None])
    if what == "long":
        write(b"abcd")
        return [b"ef", b"gh"]
    if what == "packed":
        with open("packed", "wb") as file:
            file.write(b"abc")
        return environ["wsgi.file_wrapper"](Packed("packed"))
    if what in ("place", "range"):
        file = open("large", "rb")
        file.seek(2_999_994)
        file = environ["wsgi.file_wrapper"](file)
        return file if what == "place" else iter(list(file))
    if what == "written":
        write(b"abc")
        raise RuntimeError("on purpose")
    if what == "bytes":
        return b"abcdef"
    if what == "list":
        return [b"abc", b"def"]
    if what == "generator":
        return stream()
    if what == "raising generator":
        return stream(RuntimeError("on purpose"))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](File())

def stream(error=None):
    if error:
        raise error
    yield b"abc"
    while not os.path.exists("noted-go-on"):
        time.sleep(0.01)
    yield b"def"
"""


@contextlib.contextmanager
def running_in(folder: Path, text: str, made: App, overridden: Mapping[str, str]) -> Generator[Process]:
    """Run a gateway with this text as its application."""
    (folder / "code").mkdir()
    (folder / "code" / "app.py").write_text(text)
    (folder / "code" / "large").write_bytes(b"x" * 2_999_994 + b"abcdef")
    with started(made, folder, overridden=overridden) as process:
        process.wait_ready()
        yield process


@pytest.fixture(scope="module", params=[False, True], ids=["imported once", "lazy"])
def shared_uwsgi(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    made = app("uwsgi", processes=1, lazy_apps=request.param)
    with running_in(tmp_path_factory.mktemp("uwsgi"), APP, made, {}) as process:
        yield process


@pytest.fixture
def uwsgi(shared_uwsgi: Process) -> Process:
    """Return a uWSGI that several tests share, without what the others left."""
    shared_uwsgi.clear()
    return shared_uwsgi


def ask(uwsgi: Process, path: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = uwsgi.connect(private=True)
    try:
        connection.request("GET", f"/{path.replace(' ', '%20')}")
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def closed_connections(uwsgi: Process) -> list[str]:
    file = uwsgi.folder / "code" / "noted-closed"
    return file.read_text().split() if file.exists() else []


def test_what_raises_before_anything_was_sent_is_answered_500(uwsgi: Process) -> None:
    for number, path in enumerate(("before", "after", "nothing", "first", "raising generator"), 1):
        status, body, headers = ask(uwsgi, path)
        assert (status, body) == (500, b"Internal Server Error\n"), path
        # Of the answer that was begun nothing is left, its length least of all.
        assert (headers["X-Begun"], headers["Content-Length"]) == (None, None), path
        assert uwsgi.log.count("Traceback (most recent call last)") == number, path
    assert uwsgi.log.count("RuntimeError: on purpose") == 4
    assert "TypeError: 'NoneType' object is not iterable" in uwsgi.log
    assert closed_connections(uwsgi) == ["first"]


def test_what_raises_later_ends_the_answer_where_it_was(uwsgi: Process) -> None:
    for path, sent in (("second", b"ab"), ("written", b"abc")):
        with pytest.raises(http.client.IncompleteRead) as cut:
            ask(uwsgi, path)
        assert cut.value.partial == sent
    assert closed_connections(uwsgi) == ["second"]
    assert uwsgi.log.count("RuntimeError: on purpose") == 2


def test_an_answer_that_does_not_raise_comes_as_it_was_given(uwsgi: Process) -> None:
    for path in ("bytes", "list"):
        status, body, headers = ask(uwsgi, path)
        assert (status, body, headers["X-Begun"]) == (200, b"abcdef", "yes")
    connection = uwsgi.connect(private=True)
    connection.request("GET", "/generator")
    response = connection.getresponse()
    # Not held back until the rest is there.
    assert response.read(3) == b"abc"
    (uwsgi.folder / "code" / "noted-go-on").touch()
    assert response.read() == b"def"
    connection.close()
    with pytest.raises(http.client.IncompleteRead):
        ask(uwsgi, "empty")
    assert closed_connections(uwsgi) == ["empty"]
    assert "Traceback" not in uwsgi.log


def test_a_body_ends_with_its_length_and_a_file_begins_where_it_stands(uwsgi: Process) -> None:
    for path in ("long", "place", "range", "packed"):
        with contextlib.closing(uwsgi.connect(private=True)) as connection:
            connection.request("GET", f"/{path}")
            # All that comes, whatever length the head says.
            text = b"".join(iter(lambda: connection.sock.recv(65536), b""))
        assert text.partition(b"\r\n\r\n")[2] == (b"abcabc" if path == "packed" else b"abcdef"), path


def test_a_file_goes_by_sendfile(uwsgi: Process) -> None:
    assert ask(uwsgi, "file")[:2] == (200, b"x" * 2_999_994 + b"abcdef")
    assert "not by sendfile" not in uwsgi.log
    assert closed_connections(uwsgi) == ["file"]


# What one request can do to its process. It writes down what began, and answers with its process id.
CRUEL = r"""
import ctypes, faulthandler, mmap, os, re, resource, signal, socket, sys, threading, time

LEAK = []

class Odd(BaseException):
    pass

RAISED = {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "base": Odd(), "generator": GeneratorExit()}

def app(environ, start_response):
    what = environ["PATH_INFO"].strip("/")
    if len(what) < 99:
        open(f"noted-{what.replace('/', '-')}-{time.time_ns()}", "w").close()
    if what == "abort":
        os.abort()
    if what == "segv":
        ctypes.string_at(0)
    if what == "quit":
        os._exit(0)
    if what == "blocked":
        time.sleep(0.1)
        fatal = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, []) & fatal
        body = b"main" if threading.get_native_id() == os.getpid() else str(sorted(blocked)).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    if what == "close":
        os.closerange(0, 1000)
    if what == "grow":
        LEAK.append(b"x" * (96 << 20))
    if what == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if what == "limit-files":
        number = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if what == "limit-address-space":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    if what in ("limit-memory", "limit-shared-memory"):
        sizes = dict(re.findall(r"(Vm\w+|Rss\w+):\s+(\d+) kB", open("/proc/self/status").read()))
        most = (int(sizes["VmData"]) << 10) + (48 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        if what == "limit-shared-memory":
            LEAK.append(mmap.mmap(-1, most))
            for _ in range(most >> 20):
                LEAK[-1].write(bytes(1 << 20))
        for size in (1 << 20, 1 << 16, 1 << 12, 512, 64) if what == "limit-memory" else ():
            try:
                while True:
                    LEAK.append(bytearray(size))
            except MemoryError:
                pass
    if what == "replace-files":
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3, 200):
            os.dup2(null, number) if os.path.exists(f"/proc/self/fd/{number}") else None
    if what in ("disconnect", "stop"):
        import uwsgi
        getattr(uwsgi, what)()
    if what.startswith("parent/"):
        os.kill(os.getppid(), int(what.partition("/")[2]))
    if what == "deaf":
        for name in os.listdir("/proc/self/fd"):
            try:
                each = socket.socket(fileno=int(name))
            except OSError:
                continue
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and each.family != socket.AF_UNIX:
                each.shutdown(socket.SHUT_RDWR)
                # The companion looks meanwhile; the next number may be of the same socket.
                time.sleep(0.25)
            each.detach()
    if what.startswith("fork") and os.fork() == 0:
        if what == "fork-sleep":
            time.sleep(3)
            os._exit(0)
        if what == "fork-exit":
            raise SystemExit(0)
    if what in RAISED:
        raise RAISED[what]
    if what.startswith("late/"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return later(RAISED[what.partition("/")[2]])
    if what == "twice":
        return Twice()
    if what.endswith("replaced"):
        length = [] if what.startswith("cut") else [("Content-Length", "99")]
        write = start_response("200 OK", [("X-First", "1"), *length])
        if what.startswith("cut"):
            write(b"begun ")
        try:
            raise RuntimeError("on purpose")
        except RuntimeError:
            start_response("503 Own", [("Content-Length", "8")], sys.exc_info())
        return [b"", b"own page"]
    if what.startswith("bodiless/"):
        start_response(what.partition("/")[2], [["Content-Length", "3"]])
        return [b"abc"]
    if what == "script-name":
        start_response("200 OK", [])
        return [repr(environ["SCRIPT_NAME"]).encode()]
    if what == "no-head":
        return [b"x"]
    if what in SPLIT:
        start_response(*SPLIT[what])
        return [b"x"]
    if what.startswith("cut"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return cut(what)
    if what.startswith("sleep/"):
        time.sleep(float(what.partition("/")[2]))
    if what == "dies-of-dump":
        faulthandler.unregister(signal.SIGRTMAX - 1)
        time.sleep(60)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    pid = str(os.getpid()).encode()
    return {"bytearray": bytearray(pid), "bytearrays": [bytearray(pid), memoryview(b"!")]}.get(what, [pid])

# What would give the client a header of its own making.
SPLIT = {
    "split-status": ("200 OK\r\nX-Split: 1", []),
    "split-name": ("200 OK", [("X-A: b\r\nX-Split", "1")]),
    "split-value": ("200 OK", [("X-A", "b\nX-Split: 1")]),
    "split-nul": ("200 OK", [("X-A", "b\0")]),
}

class Twice:
    def __iter__(self):
        raise ValueError("first")

    def close(self):
        raise ValueError("then")

def later(error):
    raise error
    yield b""

def cut(what):
    yield b"begun "
    if what == "cut":
        raise RuntimeError("on purpose")
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
"""
# What an application may send to its parent: by default each of them ends it, stops it or has it do something.
SIGNALS = [
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGTSTP),
    *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGURG, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO),
    *(signal.SIGPWR, signal.SIGXCPU),
]
THREADED = ("uwsgi", "gunicorn gthread", "tornado")
GREENLETS = ("gunicorn gevent", "gevent")
LINEAR = ("uwsgi", "gunicorn sync", "gunicorn gthread", "tornado")


def cruel(gateway: str, folder: Path, guard: str = "", **settings: Any) -> AbstractContextManager[Process]:
    """Run a gateway with one process, of four requests at a time where it can. Its companion looks often.

    guard: a line that sets constants of gateway_guard.
    """
    chosen: dict[str, Any] = {"processes": 1} | GATEWAY_SETTINGS[gateway] | settings
    overridden = {"gateway_companion": "LOOK_EVERY_MS, GROWN_AFTER_S = 100, 1.0", "gateway_guard": guard}
    return running_in(folder, CRUEL, app(**chosen), overridden)


@pytest.fixture(scope="module", params=GATEWAY_SETTINGS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with cruel(request.param, tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture
def running(shared: Process) -> Process:
    """Return a gateway of each kind that several tests share: each leaves it with a worker that is healthy."""
    shared.clear()
    return shared


@pytest.fixture(scope="module", params=LINEAR)
def shared_narrow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    guard = "WAIT_S, OVERLOAD_S, SHORT_S = 0.6, 1.6, 0.15"
    with cruel(request.param, tmp_path_factory.mktemp("narrow"), guard, threads=1) as made:
        yield made


@pytest.fixture
def narrow(shared_narrow: Process) -> Process:
    """Return a gateway that works on one request at a time and soon finds that requests wait for long."""
    shared_narrow.clear()
    return shared_narrow


def send(running: Process, path: str, method: str = "GET") -> socket.socket:
    """Send a request to the public socket as the balancer does, and return the connection."""
    connection = socket.create_connection(running.public.getsockname(), 30)
    if running.kind == "uwsgi":
        words = {"REQUEST_METHOD": method, "PATH_INFO": unquote(path), "REQUEST_URI": path, "QUERY_STRING": "",
                 "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_NAME": "localhost", "SERVER_PORT": "80"}  # fmt: skip
        packed = b"".join(
            struct.pack("<H", len(word)) + word for pair in words.items() for word in (each.encode() for each in pair)
        )
        connection.sendall(struct.pack("<BHB", 0, len(packed), 0) + packed)
    else:
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    return connection


def receive(connection: socket.socket) -> bytes:
    """Return all that comes until the end. Raise ConnectionResetError where that is a reset."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def get(running: Process, path: str = "/", method: str = "GET") -> tuple[int, bytes]:
    """Return status and body of the response; 0 and b"" where the connection ended without one."""
    try:
        head, _, body = receive(send(running, path, method)).partition(b"\r\n\r\n")
    except ConnectionResetError:
        return 0, b""
    if b"chunked" in head:
        body = b"".join(re.findall(rb"[0-9a-fA-F]+\r\n(.*?)\r\n", body, re.DOTALL))
    return int(head.split()[1]) if head else 0, body


def began(running: Process, what: str) -> int:
    return len(list((running.folder / "code").glob(f"noted-{what}-*")))


def wait_for(condition: Callable[[], object], running: Process) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, running.log
        time.sleep(0.02)


@pytest.mark.parametrize("what", ["abort", "segv", "quit"])
def test_the_request_that_ends_its_process_is_answered_502_and_the_next_one_200(running: Process, what: str) -> None:
    assert get(running, f"/{what}") == (502, b"502 Bad Gateway\n"), running.log
    assert get(running)[0] == 200
    assert f"ended while it worked on GET '/{what}'" in running.log
    assert began(running, what) == 1


@pytest.mark.parametrize("shared", [*THREADED, *GREENLETS], indirect=True)
@pytest.mark.parametrize("what", ["abort", "segv"])
def test_who_shared_the_process_is_reset_so_that_the_balancer_asks_another_server(running: Process, what: str) -> None:
    others = [send(running, "/sleep/20") for _ in range(2)]
    wait_for(lambda: began(running, "sleep-20") == 2, running)
    assert get(running, f"/{what}")[0] == 502
    for other in others:
        with pytest.raises(ConnectionResetError):
            receive(other)
    # The log says where the process was.
    assert f'app.py", line {16 if what == "abort" else 18} in app' in running.log


@pytest.mark.parametrize("shared", THREADED, indirect=True)
def test_no_fatal_signal_is_blocked_in_a_thread_of_the_gateway(running: Process) -> None:
    asked = [send(running, "/blocked") for _ in range(20)]
    responses = {receive(each).rpartition(b"\r\n\r\n")[2] for each in asked}
    # uWSGI's main thread responds as well.
    assert responses - {b"main"} == {b"[]"}


def test_whatever_an_application_raises_is_answered_500_and_its_process_lives(running: Process) -> None:
    _, pid = get(running)
    for what in ("exit", "interrupt", "base", "generator", "late/exit", "late/interrupt", "late/base", "twice"):
        assert get(running, f"/{what}")[0] == 500, (what, running.log)
        assert get(running) == (200, pid), (what, running.log)
    assert "SystemExit: 3" in running.log


def test_an_application_that_fails_before_anything_was_sent_answers_with_its_own_page(running: Process) -> None:
    head, _, body = receive(send(running, "/replaced")).partition(b"\r\n\r\n")
    assert (head.split()[1], body, b"X-First" in head) == (b"503", b"own page", False), head
    assert head.lower().count(b"content-length") == 1


def test_an_empty_script_name_is_there(running: Process) -> None:
    assert get(running, "/script-name") == (200, b"''")


def test_a_body_where_there_is_none_breaks_nothing_off(running: Process) -> None:
    for status, method in (("204 None", "GET"), ("304 Same", "GET"), ("304 Same", "HEAD"), ("200 OK", "HEAD")):
        found, body = get(running, f"/bodiless/{status.replace(' ', '%20')}", method)
        # uWSGI and gevent answer HEAD with one, which Nginx and Apache leave out.
        assert (found, body if status != "200 OK" else b"") == (int(status[:3]), b""), (status, method, running.log)


def test_a_head_that_is_missing_or_would_split_the_response_is_answered_500_and_logged(running: Process) -> None:
    for what in ("no-head", "split-status", "split-name", "split-value", "split-nul"):
        text = receive(send(running, f"/{what}"))
        assert (text.split()[1], b"X-Split" in text) == (b"500", False), (what, text)
    assert len(re.findall("^ValueError: .* contains a line break or NUL$", running.log, re.MULTILINE)) == 4, running.log
    assert "did not call start_response" in running.log


@pytest.mark.parametrize("what", ["close", "replace-files"])
def test_a_worker_whose_files_were_closed_is_replaced(running: Process, what: str) -> None:
    assert get(running, f"/{what}")[0] in (0, 502)
    wait_for(lambda: get(running)[0] == 200, running)


def test_a_listening_socket_that_was_shut_down_listens_again(running: Process) -> None:
    assert get(running, "/deaf")[0] == 200, running.log
    wait_for(lambda: running.public.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), running)
    assert "it listens again" in running.log
    assert get(running)[0] == 200, running.log


def test_a_worker_that_cannot_accept_any_more_is_replaced(running: Process) -> None:
    _, pid = get(running)
    assert get(running, "/files")[0] in (0, 200, 502), running.log
    status, after = get(running)
    assert (status, after != pid) == (200, True), running.log


@pytest.mark.parametrize("what", ["limit-files", "limit-address-space", "limit-memory", "limit-shared-memory"])
def test_a_worker_at_a_limit_is_replaced(running: Process, what: str) -> None:
    _, pid = get(running)
    assert get(running, f"/{what}")[0] in (0, 200, 500, 502), running.log
    # uWSGI's has files left below that number.
    if (running.kind, what) != ("uwsgi", "limit-files"):
        wait_for(lambda: (response := get(running))[0] == 200 and response[1] != pid, running)
    wait_for(lambda: all(get(running)[0] == 200 for _ in range(5)), running)


@pytest.mark.parametrize("shared", ["gunicorn sync", "gunicorn gthread"], indirect=True)
def test_a_response_of_gunicorn_arrives_although_its_request_was_not_read(running: Process) -> None:
    for length in (0, 40_000):
        connection = socket.create_connection(running.public.getsockname(), 30)
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode() + b"x" * length)
        # A close with unread bytes would send a reset.
        assert receive(connection).startswith(b"HTTP/1.1 200 "), running.log


@pytest.mark.parametrize("shared", ["gunicorn gthread"], indirect=True)
def test_a_worker_of_gunicorn_does_not_wait_for_connections_to_be_closed(running: Process) -> None:
    began = time.monotonic()
    # More than its threads.
    connections = [send(running, "/") for _ in range(12)]
    assert all(b"200 OK" in connection.recv(65536) for connection in connections), running.log
    assert time.monotonic() - began < 1.5
    for each in connections:
        each.close()


def test_a_worker_that_is_never_without_a_queue_is_not_taken_for_one_that_cannot_accept(running: Process) -> None:
    _, pid = get(running)
    # The companion looks ten times a second, and mostly between two of these requests.
    waiting, until = [send(running, "/") for _ in range(64)], time.monotonic() + 3
    while time.monotonic() < until:
        assert b"\r\n" + pid in receive(waiting.pop(0)), running.log
        waiting.append(send(running, "/"))
    assert all(b"\r\n" + pid in receive(each) for each in waiting), running.log


def test_a_worker_of_uwsgi_that_has_grown_is_replaced_after_its_requests(tmp_path: Path) -> None:
    with cruel("uwsgi", tmp_path, reload_on_rss_mib=96) as running:
        _, pid = get(running)
        slow = send(running, "/sleep/2")
        assert get(running, "/grow") == (200, pid), running.log
        wait_for(lambda: f"worker {pid.decode()} has " in running.log, running)
        assert receive(slow).endswith(pid), running.log
        wait_for(lambda: (response := get(running))[0] == 200 and response[1] != pid, running)
        assert running.log.count("of 96 MiB of memory: it ends after its requests") == 1, running.log


@pytest.mark.parametrize("shared", ["uwsgi"], indirect=True)
# Another request would get the number of a connection that was closed early, and the rest of this response.
@pytest.mark.parametrize("what", ["stop", "disconnect"])
def test_no_request_of_uwsgi_stops_all_workers_or_closes_its_connection_early(running: Process, what: str) -> None:
    _, pid = get(running)
    assert get(running, f"/{what}") == (200, pid), running.log
    assert get(running) == (200, pid), running.log


def test_a_signal_of_the_application_to_its_parent_changes_nothing(running: Process) -> None:
    _, pid = get(running)
    parent = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[1]
    children = Path(f"/proc/{parent}/task/{parent}/children")
    before = children.read_text()
    for number in SIGNALS:
        assert get(running, f"/parent/{number.value}") == (200, pid), (number, running.log)
        assert get(running) == (200, pid), (number, running.log)
    # The gateways' masters look once a second.
    time.sleep(1.2)
    assert get(running) == (200, pid), running.log
    assert children.read_text() == before


# uWSGI's worker itself ends now and then when a thread of it forks (docs/decisions.md).
@pytest.mark.parametrize("shared", sorted(GATEWAY_SETTINGS.keys() - {"uwsgi"}), indirect=True)
@pytest.mark.parametrize("what", ["fork", "fork-exit", "fork-sleep"])
def test_a_process_that_the_application_forks_does_not_serve(running: Process, what: str) -> None:
    _, pid = get(running)
    assert get(running, f"/{what}") == (200, pid), running.log
    for _ in range(20):
        assert get(running) == (200, pid), running.log


def test_a_body_of_bytearrays_arrives(running: Process) -> None:
    _, pid = get(running)
    assert get(running, "/bytearray") == (200, pid)
    assert get(running, "/bytearrays") == (200, pid + b"!")


@pytest.mark.parametrize("what", ["cut", "cut-kill", "cut-replaced"])
def test_a_response_that_ends_early_cannot_be_taken_for_whole(running: Process, what: str) -> None:
    try:
        text = receive(send(running, f"/{what}"))
    except ConnectionResetError:
        text = b""
    else:
        # Chunks have a last one, which is missing; or nothing was sent before all was there, and this says so.
        assert b"chunked" in text or text.split()[1] in (b"500", b"502"), text
        assert not text.endswith(b"0\r\n\r\n"), text
    assert get(running)[0] == 200


every = pytest.mark.parametrize("gateway", GATEWAY_SETTINGS)


@pytest.fixture
def pair(gateway: str, tmp_path: Path) -> Iterator[Process]:
    """Run a gateway with two processes, whose requests may take a second, and at one path 20 where it can stream."""
    streaming = {"paths": ["/sleep/3"], "timeout_s": 20} if streams(gateway) else None
    with cruel(gateway, tmp_path, processes=2, request_timeout_s=1, streaming=streaming) as made:
        yield made


def streams(gateway: str) -> bool:
    return not app(**GATEWAY_SETTINGS[gateway]).gateway.streaming_problem


@every
def test_a_request_that_takes_too_long_is_ended_beside_others(pair: Process, gateway: str) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            seen.append(get(pair)[0])

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    start_s = time.monotonic()
    status, _ = get(pair, "/sleep/60")
    took_s = time.monotonic() - start_s
    stop.set()
    for client in clients:
        client.join()
    is_gevent = "gevent" in gateway
    assert (status, took_s < 4) == (500 if is_gevent else 504, True), (status, took_s, pair.log)
    if not is_gevent:
        assert "GET '/sleep/60' took longer than 1 s" in pair.log
        assert 'app.py", line ' in pair.log
    # One that was in the same process then may be reset.
    assert sum(status != 200 for status in seen) <= 2, seen
    assert get(pair, "/sleep/3")[0] == (200 if streams(gateway) else 504), pair.log
    assert get(pair)[0] == 200


@pytest.mark.parametrize("gateway", THREADED)
def test_a_worker_that_dies_while_it_writes_where_its_threads_are_is_answered_for(pair: Process) -> None:
    assert get(pair, "/dies-of-dump")[0] == 504, pair.log
    assert "ends with it" not in pair.log
    assert get(pair)[0] == 200


def test_a_request_whose_client_gave_up_before_it_began_is_not_run(narrow: Process) -> None:
    with ThreadPoolExecutor(1) as clients:
        long = clients.submit(get, narrow, "/sleep/0.4")
        wait_for(lambda: began(narrow, "sleep-0.4") == 1, narrow)
        send(narrow, "/gone").close()
        late = get(narrow, "/stayed")
        assert (long.result()[0], late[0]) == (200, 200)
    assert (began(narrow, "gone"), began(narrow, "stayed")) == (0, 1)


def test_when_all_have_waited_for_long_one_is_answered_503_and_told_when_to_come_again(
    narrow: Process,
) -> None:
    waiting = [send(narrow, f"/sleep/{seconds}") for seconds in (0.7, 0.75, 0.8)]
    wait_for(lambda: began(narrow, "sleep-0.7") == 1, narrow)
    late = send(narrow, "/late")
    # So long nobody is sent away: a few slow ones are no overload.
    assert [receive(each).split()[1] for each in waiting] == [b"200"] * 3
    text = receive(late)
    assert b" 503 " in text.splitlines()[0], text
    assert b"Retry-After: 1" in text
    assert began(narrow, "late") == 0
    assert get(narrow)[0] == 200


@pytest.mark.parametrize("shared_narrow", ["uwsgi"], indirect=True)
def test_what_waited_while_the_gateway_started_is_served(narrow: Process) -> None:
    os.kill(narrow.process.pid, signal.SIGSTOP)
    for pid in worker_pids(narrow):
        os.kill(pid, signal.SIGKILL)
    waiting = send(narrow, "/")
    time.sleep(1)
    os.kill(narrow.process.pid, signal.SIGCONT)
    assert b" 200 " in receive(waiting).splitlines()[0]


def worker_pids(running: Process) -> list[int]:
    """Return the process ids of the gateway's children."""
    pid = running.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def companions(running: Process) -> list[int]:
    """Return the process ids of the companions in the gateway's session."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            stat = (entry / "stat").read_text()
            state, _, _, session = stat.rpartition(")")[2].split()[:4]
            if "(companion)" in stat and state in "DRS" and int(session) == running.process.pid:
                found.append(int(entry.name))
    return found


@every
def test_a_companion_is_small_ends_with_its_worker_and_not_its_worker_with_it(pair: Process) -> None:
    wait_for(lambda: len(companions(pair)) == 2, pair)
    for pid in companions(pair):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        own = sum(int(kib) for kib in re.findall(r"^Private_\w+: +(\d+) kB$", rollup, re.MULTILINE))
        assert own < 6_000, rollup
    workers = worker_pids(pair)
    first, second = companions(pair)
    os.kill(first, signal.SIGKILL)
    # It ends after its worker, whoever is asked to stop.
    os.kill(second, signal.SIGTERM)
    wait_for(lambda: companions(pair) == [second], pair)
    assert get(pair)[0] == 200
    # uWSGI's workers are deaf to a stop for some milliseconds after they were made.
    time.sleep(0.5)
    assert worker_pids(pair) == workers
    assert pair.stop() == 0
    wait_for(lambda: not companions(pair), pair)
