"""Sends an event each second, answers late, and echoes over a WebSocket."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from simple_websocket import ConnectionClosed, Server  # pyright: ignore  only on machines

VERSION = "1"


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes] | list[bytes]:
    path, number = environ["PATH_INFO"], int(environ["QUERY_STRING"] or 0)
    if path == "/socket":
        echo(Server(environ))
        if "gunicorn.socket" in environ:
            # It then sends no response, for there was one.
            raise StopIteration
        return []
    if path == "/slow":
        time.sleep(number)
    headers = [("Content-Type", "text/event-stream" if path == "/events/" else "text/plain")]
    if path == "/header":
        headers.append(("X-Long", "a" * number))
    start_response("200 OK", headers)
    return events(number) if path == "/events/" else [VERSION.encode()]


def events(number: int) -> Iterator[bytes]:
    for each in range(number):
        yield f"data: {VERSION} {each}\n\n".encode()
        time.sleep(1)


def echo(socket: Any) -> None:
    with suppress(ConnectionClosed):
        while True:
            socket.send(f"{VERSION} {socket.receive()}")
