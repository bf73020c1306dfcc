"""Many clients, each of whom counts: wrk counts answers alone, and nothing of who never gets one.

It runs on the machine that sends the load: `python3 clients.py URL HOST CLIENTS SECONDS TIMEOUT_S FRESH`. All connect
at once. Each asks again when it has an answer, until SECONDS are over; then those that still wait have TIMEOUT_S.
FRESH is 1 where each request has a connection of its own. Prints what the script of wrk.py prints.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Client:
    """One client, which asks at once."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd, self.is_connected = crowd, False
        self.ask()

    def ask(self) -> None:
        """Begin a request, on the connection that there is."""
        self.asked_s, self.received = time.monotonic(), b""
        if self.is_connected:
            self.send()
            return
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex((self.crowd.address, self.crowd.port))
        self.crowd.selector.register(self.socket, selectors.EVENT_WRITE, self)

    def send(self) -> None:
        """Send the request, which fits into the connection's buffer."""
        try:
            self.socket.sendall(self.crowd.request)
        except OSError:
            self.fail("write" if self.is_connected else "connect")
        else:
            self.is_connected = True
            self.crowd.selector.modify(self.socket, selectors.EVENT_READ, self)

    def receive(self) -> None:
        """Take a part of the response. The next request follows a whole one."""
        try:
            part = self.socket.recv(65536)
        except OSError:
            part = b""
        self.received += part
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self.crowd.count(self, head)
            if self.crowd.fresh or b"\r\nConnection: close" in head:
                self.close()
            self.next()
        elif not part:
            self.fail("read")

    def fail(self, what: str) -> None:
        """Count an error, and go on with another connection."""
        self.crowd.found[what] += 1
        self.close()
        self.next()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.socket.fileno() >= 0:
            self.crowd.selector.unregister(self.socket)
            self.socket.close()
        self.is_connected = False

    def next(self) -> None:
        """Ask again, or be done."""
        if time.monotonic() < self.crowd.end_s:
            self.ask()
        else:
            self.close()
            self.crowd.waiting.discard(self)


class Crowd:
    """All clients. found: what is counted, as wrk calls it; timeout: who waits for an answer at the end."""

    def __init__(self, url: str, host: str, seconds: float, fresh: bool) -> None:
        address, _, path = url.removeprefix("http://").partition("/")
        self.address, _, port = address.partition(":")
        self.port, close = int(port or 80), "Connection: close\r\n" * fresh
        self.request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n{close}\r\n".encode()
        self.fresh, self.selector = fresh, selectors.DefaultSelector()
        self.start_s = time.monotonic()
        self.end_s = self.start_s + seconds
        names: tuple[str, ...] = ("bytes", "connect", "read", "write", "status", "timeout")
        self.found: dict[str, int] = dict.fromkeys(names, 0)
        self.latencies_s: list[float] = []
        self.waiting: set[Client] = set()

    def count(self, client: Client, head: bytes) -> None:
        """Count an answer."""
        self.latencies_s.append(time.monotonic() - client.asked_s)
        self.found["bytes"] += len(client.received)
        self.found["status"] += not head.startswith(b"HTTP/1.1 2")

    def run(self, clients: int, timeout_s: float) -> dict[str, int]:
        """Let them ask, and return what was counted."""
        self.waiting.update(Client(self) for _ in range(clients))
        while self.waiting and time.monotonic() < self.end_s + timeout_s:
            for key, mask in self.selector.select(timeout=0.2):
                (key.data.send if mask & selectors.EVENT_WRITE else key.data.receive)()
        self.found["timeout"] = len(self.waiting)
        for each in self.waiting:
            each.close()
        self.selector.close()
        took = sorted(self.latencies_s) or [0.0]
        at = {"p50_us": len(took) // 2, "p99_us": len(took) * 99 // 100, "max_us": len(took) - 1}
        return {
            **self.found,
            **{name: round(took[index] * 1e6) for name, index in at.items()},
            "requests": len(self.latencies_s),
            "duration_us": round((time.monotonic() - self.start_s) * 1e6),
        }


if __name__ == "__main__":
    URL, HOST, *NUMBERS = sys.argv[1:]
    CLIENTS, SECONDS, TIMEOUT_S, FRESH = map(int, NUMBERS)
    print(json.dumps(Crowd(URL, HOST, SECONDS, bool(FRESH)).run(CLIENTS, TIMEOUT_S)))
