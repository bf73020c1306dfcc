"""The application of `make bench-serve`, for every contestant: a path for each kind of work."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask

CPU_S = 0.002
WAIT_S = 0.02
LARGE = b"x" * 2**20
STYLE = (Path(__file__).parent / "static" / "style.css").read_bytes()

flask = Flask(__name__)
# Django's settings can be configured once, and @cache lets all threads in that come before it has a value.
importing = threading.Lock()


@flask.get("/flask")
def greet() -> str:
    """Answer as an application of Flask does."""
    return "hello"


@cache
def django() -> Any:
    """Return an application of Django with one view, imported by the first request for it: others need no memory."""
    settings = importlib.import_module("django.conf").settings
    http = importlib.import_module("django.http")
    path = importlib.import_module("django.urls").path

    def greet(_: Any) -> Any:
        return http.HttpResponse("hello", content_type="text/plain")

    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=(path("django", greet),), SECRET_KEY="of nothing")
    return importlib.import_module("django.core.wsgi").get_wsgi_application()


def work_s(seconds: float) -> None:
    """Use the CPU for so long: this thread's own time, however many others run."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Do the work that the path names."""
    path = environ["PATH_INFO"]
    if path == "/flask":
        return flask(environ, start_response)
    if path == "/django":
        with importing:
            application = django()
        return application(environ, start_response)
    body = b"hello"
    if path == "/cpu":
        work_s(CPU_S)
    elif path == "/wait":
        time.sleep(WAIT_S)
    elif path == "/large":
        body = LARGE
    elif path == "/upload":
        body = str(len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))).encode()
    elif path == "/static/style.css":
        body = STYLE
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
