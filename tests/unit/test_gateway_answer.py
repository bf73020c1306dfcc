"""uWSGI for real with an application that raises: what its client gets, and that all else is as without it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.gateway_process import Process, app, started

APP = """
import os, time

def log(what):
    with open("closed", "a") as file:
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

class File:
    def __init__(self):
        self.file = open("large", "rb")
    def fileno(self):
        return self.file.fileno()
    def read(self, *size):
        raise RuntimeError("not by sendfile")
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
    if what == "exit":
        os._exit(3)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](File())

def stream(error=None):
    if error:
        raise error
    yield b"abc"
    while not os.path.exists("go on"):
        time.sleep(0.01)
    yield b"def"
"""


@pytest.fixture(params=[False, True], ids=["imported once", "lazy"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(APP)
    (tmp_path / "code" / "large").write_bytes(b"x" * 3_000_000)
    with started(app("uwsgi", processes=1, lazy_apps=request.param), tmp_path) as process:
        process.wait_ready()
        yield process


def ask(running: Process, path: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = running.connect(private=True)
    try:
        connection.request("GET", f"/{path.replace(' ', '%20')}")
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def closed(running: Process) -> list[str]:
    file = running.folder / "code" / "closed"
    return file.read_text().split() if file.exists() else []


def test_what_raises_before_anything_was_sent_is_answered_500(running: Process) -> None:
    for number, path in enumerate(("before", "after", "nothing", "first", "raising generator"), 1):
        status, body, headers = ask(running, path)
        assert (status, body) == (500, b"Internal Server Error\n"), path
        # Of the answer that was begun nothing is left, its length least of all.
        assert (headers["X-Begun"], headers["Content-Length"]) == (None, None), path
        assert running.log.count("Traceback (most recent call last)") == number, path
    assert running.log.count("RuntimeError: on purpose") == 4
    assert "TypeError: 'NoneType' object is not iterable" in running.log
    assert closed(running) == ["first"]


def test_what_raises_later_ends_the_answer_where_it_was(running: Process) -> None:
    for path, sent in (("second", b"ab"), ("written", b"abc")):
        with pytest.raises(http.client.IncompleteRead) as cut:
            ask(running, path)
        assert cut.value.partial == sent
    assert closed(running) == ["second"]
    assert running.log.count("RuntimeError: on purpose") == 2


def test_an_answer_that_does_not_raise_comes_as_it_was_given(running: Process) -> None:
    for path in ("bytes", "list"):
        status, body, headers = ask(running, path)
        assert (status, body, headers["X-Begun"]) == (200, b"abcdef", "yes")
    connection = running.connect(private=True)
    connection.request("GET", "/generator")
    response = connection.getresponse()
    # Not held back until the rest is there.
    assert response.read(3) == b"abc"
    (running.folder / "code" / "go on").touch()
    assert response.read() == b"def"
    connection.close()
    with pytest.raises(http.client.IncompleteRead):
        ask(running, "empty")
    assert closed(running) == ["empty"]
    assert "Traceback" not in running.log


def test_a_file_goes_by_sendfile(running: Process) -> None:
    assert ask(running, "file")[:2] == (200, b"x" * 3_000_000)
    assert "not by sendfile" not in running.log
    assert closed(running) == ["file"]


def test_a_process_that_ends_is_no_answer(running: Process) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        ask(running, "exit")
    assert ask(running, "list")[0] == 200
