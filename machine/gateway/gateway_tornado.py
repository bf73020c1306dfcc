"""Serves a release by Tornado, in its Python: `gateway_tornado.py CONFIG PRIVATE_SOCKET [PROCESSES [PORT]]`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
import gateway_http as http
from gateway_environment import warn_of_threads
from gateway_guard import Guard
from gateway_loader import load_application
from prefork import Workers, count_processes, read_settings

sys.path.pop(0)
with http.prepend_gateway_path("tornado"):
    from tornado.httpserver import HTTPServer
    from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
    from tornado.ioloop import IOLoop
    from tornado.iostream import IOStream
    from tornado.wsgi import WSGIContainer

# What the balancer may let through at most (balancer.max_body_mib); of headers more, since it may escape a path anew.
BODY_BYTES, HEADER_BYTES = 10_240 << 20, 256 << 10


class Container(WSGIContainer):
    """Responds with 500 if the application raises; Tornado's own container would leave the client waiting."""

    def __init__(self, application: http.Wsgi, threads: int, limit_s: float) -> None:
        guard = Guard(threads, limit_s, lambda environ: environ[http.CONNECTION], private)
        # While this process has one thread.
        guard.start()
        super().__init__(guard(http.proxy_fix(application)), ThreadPoolExecutor(threads))
        self.guard = guard

    def environ(self, request: HTTPServerRequest) -> dict[str, Any]:
        """Return what the application gets, with the connection that the request came by."""
        connection: Any = request.connection
        fd: int = connection.stream.socket.fileno()
        # Tornado closes the connection then, and the number is given to another one.
        connection.set_close_callback(lambda: self.guard.requests.forget(fd))
        return super().environ(request) | {http.CONNECTION: fd}

    async def handle_request(self, request: HTTPServerRequest) -> None:
        """Handle one request. The response is sent once it is complete."""
        connection: Any = request.connection
        if request.method == "HEAD":
            # Tornado breaks off where there is a body to send. Its length is in the headers by then.
            write_headers = connection.write_headers

            def write_head(line: ResponseStartLine, headers: HTTPHeaders, **_: bytes) -> None:
                write_headers(line, headers)

            connection.write_headers = write_head
        try:
            await super().handle_request(request)
        except Exception:  # noqa: BLE001  whatever an application raises
            traceback.print_exc()
            headers = HTTPHeaders({"Content-Length": "0"})
            connection.write_headers(ResponseStartLine("HTTP/1.1", 500, "Internal Server Error"), headers)
            connection.finish()


class Server(HTTPServer):
    """Accepts only while a thread is free: other connections wait where another process or slot finds them."""

    def serve(self, sockets: Sequence[socket.socket], threads: int) -> None:
        """Begin to accept."""
        self.sockets, self.threads, self.connections = sockets, threads, 0
        self.accepting = self.stopping = False
        self.ended = asyncio.Event()
        self.update_listening()

    def finish(self) -> None:
        """Accept no more; `ended` is set when the last connection has ended."""
        self.stopping = True
        self.update_listening()

    def update_listening(self) -> None:
        """Listen while a thread is free; stop listening otherwise."""
        should_accept = not self.stopping and self.connections < self.threads
        loop = IOLoop.current()
        for each in self.sockets if should_accept != self.accepting else ():
            if should_accept:
                loop.add_handler(each, self.accept, IOLoop.READ)
            else:
                loop.remove_handler(each)
        self.accepting = should_accept
        if self.stopping and not self.connections:
            self.ended.set()

    def accept(self, sock: Any, _events: int) -> None:
        """Accept one connection, unless another process had it or the other socket took the last thread."""
        if not self.accepting:
            return
        try:
            connection, address = sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.connections += 1
        self.update_listening()
        cast("Any", self).handle_stream(IOStream(connection), address)

    def on_close(self, server_conn: object) -> None:
        """Count a connection that has ended, and accept again if there is room."""
        super().on_close(server_conn)
        self.connections -= 1
        self.update_listening()


async def work(
    application: http.Wsgi, threads: int, limit_s: int, sockets: Sequence[socket.socket], ready: Callable[[], object]
) -> None:
    """Serve until SIGTERM, then finish what is in flight."""
    container = Container(application, threads, limit_s)
    server = Server(container, max_body_size=BODY_BYTES, max_header_size=HEADER_BYTES)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.finish)
    server.serve(sockets, threads)
    ready()
    await server.ended.wait()


if __name__ == "__main__":
    config, private, processes, port = (*sys.argv[1:], "", "")[:4]
    settings = read_settings(config)
    limits = int(settings["threads"]), int(settings["request_timeout_s"])
    sockets = http.open_listeners(private, port)
    # Before the fork, where memory is shared, unless the application does not bear that.
    imported = None if settings.getboolean("lazy_apps") else load_application(settings["module"])

    if imported:
        warn_of_threads()

    def worker(ready: Callable[[], object]) -> None:
        """Run the event loop of one worker, in its process."""
        asyncio.run(work(imported or load_application(settings["module"]), *limits, sockets, ready))

    Workers(count_processes(processes or settings["processes"]), worker).run()
