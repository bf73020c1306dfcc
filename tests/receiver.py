"""A server that webhooks are sent to."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """Keeps what it gets. url: with a word that no output may have. status: of its responses."""

    url: str = ""
    status: int = 200
    bodies: list[Any] = field(default_factory=list[Any])


@contextmanager
def receiving(address: str = "127.0.0.1") -> Generator[Receiver]:
    """Run a receiver on the loopback, or on another address of this machine."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(receiver.status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer((address, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        receiver.url = f"http://{address}:{server.server_port}/services/opensesame"
        try:
            yield receiver
        finally:
            server.shutdown()
