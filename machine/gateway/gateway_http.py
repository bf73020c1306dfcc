"""Share what the launchers of HTTP gateways need: sockets, proxy headers, the limit of a request.

The launchers run in the Python of a release. The gateway is in a folder of its own, which is first on the path while
the gateway is imported. So a release need not install it, and a copy in the release is not used.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from gateway_streaming import STREAMING

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
# sd_listen_fds(3): the first socket that systemd passes on.
FIRST_FD = 3
# Connections that may wait for one process; as gateways/uwsgi.py has it.
BACKLOG = 1024
# The key of the connection's file descriptor in the environ of gevent and Tornado.
CONNECTION = "wsgi_fleet.connection"
# An application may send these to its parent. By default they end or stop a process; Gunicorn would reload, start a
# second master, or change the number of workers. systemd stops a master by SIGTERM. Others tell of a child, of a broken
# pipe, or of an error of the process itself.
IGNORED = signal.valid_signals() - {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGCHLD, signal.SIGCONT, signal.SIGPIPE, signal.SIGXFSZ),
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP),
}


@contextlib.contextmanager
def prepend_gateway_path(kind: str) -> Generator[None]:
    """Put the folder of a gateway first on the path in this block."""
    folder = f"/srv/gateway/{kind}"
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def import_untyped(name: str) -> Any:
    """Import a module that has no types."""
    return importlib.import_module(name)


def open_listeners(private: str, port: str = "") -> list[socket.socket]:
    """Return listening sockets: systemd's if it has opened one, one on this port of 127.0.0.1, and the private one."""
    is_ours = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    count = int(os.environ.pop("LISTEN_FDS", "0")) if is_ours else 0
    listeners = [socket.socket(fileno=FIRST_FD + number) for number in range(count)]
    if port:
        listeners.append(socket.socket())
        listeners[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listeners[-1].bind(("127.0.0.1", int(port)))
        listeners[-1].listen(BACKLOG)
    listeners.append(socket.socket(socket.AF_UNIX))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(private)  # noqa: PTH108  os alone, to start fast
    listeners[-1].bind(private)
    listeners[-1].listen()
    for each in listeners:
        each.setblocking(False)
    return listeners


def notify(state: str) -> None:
    """Notify systemd of a state (sd_notify(3)); do nothing where it did not ask for that."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def proxy_fix(wsgi: Wsgi) -> Wsgi:
    """Set the client, scheme, host, port, prefix and user from the balancer's headers.

    Only the balancer reaches the port, and it replaces what clients send.
    """

    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if address := environ.get("HTTP_X_REAL_IP"):
            environ["REMOTE_ADDR"] = address
        if (scheme := environ.get("HTTP_X_FORWARDED_PROTO")) in ("http", "https"):
            environ["wsgi.url_scheme"] = scheme
        if host := environ.get("HTTP_X_FORWARDED_HOST"):
            name, _, port = host.rpartition(":")
            environ["SERVER_NAME"] = name if port.isdigit() else host
        if port := environ.get("HTTP_X_FORWARDED_PORT"):
            environ["SERVER_PORT"] = port
        if prefix := environ.get("HTTP_X_FORWARDED_PREFIX"):
            # The balancer has removed it from the path.
            environ["SCRIPT_NAME"] = prefix
        if user := environ.pop("HTTP_X_REMOTE_USER", ""):
            environ["REMOTE_USER"] = user
        return wsgi(environ, start_response)

    return call


class ClosingIterator:
    """Iterates over a response and calls `done` when the server has sent it or given up."""

    def __init__(self, parts: Iterable[bytes], done: Callable[[], object]) -> None:
        self.parts, self.done = parts, done

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.parts)

    def close(self) -> None:
        """Close the response and call `done`. The server calls this in any case (PEP 3333)."""
        try:
            if close := getattr(self.parts, "close", None):
                close()
        finally:
            self.done()


def keep_accepting() -> None:
    """Have gevent try again to accept where the listening socket was shut down: the companion has it listen again."""
    import_untyped("gevent.baseserver").BaseServer.fatal_errors = (errno.EBADF, errno.ENOTSOCK)


def with_gevent_timeout(wsgi: Wsgi, limit_s: float) -> Wsgi:
    """End a request of gevent that takes longer, as soon as it waits for anything. Its response is 500.

    limit_s: of requests that are not streaming.
    """
    timeout_of = import_untyped("gevent").Timeout.start_new

    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        timeout = timeout_of(limit_s + (STREAMING.extra_s(environ["PATH_INFO"]) or 0))
        try:
            parts = wsgi(environ, start_response)
        except BaseException:
            timeout.close()
            raise
        return ClosingIterator(parts, timeout.close)

    return call
