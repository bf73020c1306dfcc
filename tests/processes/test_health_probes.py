"""What asks servers for their health, asked of a real gateway."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import site_state
import upstream_health
from server_health import Outcome

APPLICATION = """
import json

HOST, SCHEME = "shop.example.org", "https"
WANTED = {
    "PATH_INFO": "/healthz", "QUERY_STRING": "a=b", "HTTP_HOST": HOST, "HTTP_X_FORWARDED_HOST": HOST,
    "HTTP_X_FORWARDED_PROTO": SCHEME, "wsgi.url_scheme": SCHEME,
}

def app(environ, start_response):
    with open("response") as file:
        status, headers = json.load(file)
    start_response(status if environ.items() >= WANTED.items() else "404 Not Found", [*headers.items()])
    return [b"x" * 100000]
"""
RESPONSES: list[tuple[str, dict[str, str], Outcome]] = [
    ("200 OK", {}, Outcome.GOOD),
    ("503 Service Unavailable", {}, Outcome.BAD),
    ("503 Service Unavailable", {"Retry-After": "1"}, Outcome.BUSY),
    ("500 Internal Server Error", {"Retry-After": "1"}, Outcome.BAD),
]


@pytest.mark.parametrize("protocol", ["uwsgi", "http"])
def test_a_server_is_asked_in_the_protocol_of_its_gateway(protocol: str, tmp_path: Path) -> None:
    (tmp_path / "responder.py").write_text(APPLICATION)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def ask() -> tuple[Outcome, str]:
        upstream: site_state.Upstream = {
            "servers": {},
            "protocol": protocol,
            "health_path": "/healthz?a=b",
            "health_host": "shop.example.org",
            "probe": "",
        }
        probe = asyncio.run(upstream_health.ask("127.0.0.1", upstream, port, https=True))
        assert not probe.was_resent
        return probe.outcome, probe.words

    option = "--socket" if protocol == "uwsgi" else "--http-socket"
    command = [sys.executable, "-c", "import pyuwsgi; pyuwsgi.run()", option, f"127.0.0.1:{port}"]
    command += ["--module", "responder:app", "--pythonpath", "."]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while ask() == (Outcome.BAD, "Connection refused"):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            for status, headers, expected in RESPONSES:
                (tmp_path / "response").write_text(json.dumps([status, headers]))
                assert ask() == (expected, "" if expected is Outcome.GOOD else status)
        finally:
            process.kill()
    # Nobody listens any more.
    assert ask() == (Outcome.BAD, "Connection refused")
