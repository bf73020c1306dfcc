"""The application of the end-to-end tests: says who answers, what it was given, and can be slow."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import found

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
VERSION = "1"


def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
    path, query = environ["PATH_INFO"], parse_qs(environ["QUERY_STRING"])
    # As Werkzeug: where this header is, no length counts.
    length = 0 if "HTTP_TRANSFER_ENCODING" in environ else int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    if "id" in query:
        # Each execution leaves a line, so that a test can tell once from twice.
        with Path(os.environ["STATE_DIRECTORY"], "posts").open("a") as posts:
            posts.write(query["id"][0] + "\n")
    # Of several processes on a server: which one.
    port = os.environ.get("WSGI_FLEET_PORT", "")
    if "at" not in query or port.endswith(query["at"][0]):
        time.sleep(float(query.get("s", ["0"])[0]))
    # A test makes one server slow by this file.
    slow = Path(os.environ["STATE_DIRECTORY"], "slow")
    if slow.exists():
        time.sleep(float(slow.read_text()))
    if path == "/raise":
        raise RuntimeError("on purpose")
    if "header" in query:
        start_response("200 OK", [("X-Long", "a" * int(query["header"][0]))])
        return []
    response: dict[str, Any] = {
        "version": VERSION,
        "server": os.environ["WSGI_FLEET_SERVER"],
        "release": os.environ["WSGI_FLEET_RELEASE"],
        "port": port,
        "pid": os.getpid(),
        "method": environ["REQUEST_METHOD"],
        "script_name": environ.get("SCRIPT_NAME", ""),
        "path": path,
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }
    if path == "/environment":
        response = {name: value for name, value in os.environ.items() if name.startswith("T_")}
    if path == "/found":
        response = {"slot": os.environ["WSGI_FLEET_SLOT"], "found": found.found()}
    if path == "/settings":
        settings: dict[str, Any] = {}
        # As Flask's Config.from_pyfile reads it.
        exec(compile(Path(os.environ["SETTINGS_FILE"]).read_bytes(), "settings.py", "exec"), settings)
        response = {name: value for name, value in settings.items() if name.isupper()}
    if path == "/headers":
        response = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
        names = ("wsgi.url_scheme", "REMOTE_ADDR", "REMOTE_USER", "SCRIPT_NAME", "PATH_INFO")
        names += ("SERVER_NAME", "SERVER_PORT")
        response |= {name: environ[name] for name in names if name in environ}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(response).encode()]
