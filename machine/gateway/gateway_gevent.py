"""Serves a release by gevent, in its Python: `gateway_gevent.py CONFIG PRIVATE_SOCKET [PROCESSES [PORT]]`."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
import gateway_http
from gateway_guard import Guard
from gateway_loader import load_application
from prefork import Workers, count_processes, read_settings

sys.path.pop(0)
MODULES = ("greenlet", "gevent", "gevent.event", "gevent.monkey", "gevent.pool", "gevent.pywsgi")
# The companion ends a worker that blocks so many seconds after the limit of a request that waits.
GRACE_S = 5
# The balancer accepts lines of 16 KiB, and may escape each byte of a path as three.
LINE_BYTES = 3 * 16_384 + 512
# Fields of a request; the balancer limits their bytes.
FIELDS = 32_768


def work(
    module: str, greenlets: int, limit_s: int, sockets: Sequence[socket.socket], ready: Callable[[], object]
) -> None:
    """Serve until SIGTERM, then finish what is in flight. The application is imported here, after gevent's patches."""
    guard = Guard(greenlets, limit_s + GRACE_S, lambda environ: environ[gateway_http.CONNECTION], private)
    # While this process has one thread.
    guard.start()
    with gateway_http.prepend_gateway_path("gevent"):
        greenlet, gevent, event, monkey, pool, pywsgi = map(gateway_http.import_untyped, MODULES)
        monkey.patch_all()
    guard.requests.watch_greenlets(greenlet)
    gateway_http.keep_accepting()
    pywsgi.MAX_REQUEST_LINE = LINE_BYTES
    cast("Any", http.client)._MAXHEADERS = FIELDS
    guarded = guard(gateway_http.proxy_fix(load_application(module)))
    application = gateway_http.with_gevent_timeout(guarded, limit_s)

    class Handler(pywsgi.WSGIHandler):
        """Adds the file descriptor of the connection to the environ of a request."""

        def get_environ(self) -> dict[str, Any]:
            return pywsgi.WSGIHandler.get_environ(self) | {gateway_http.CONNECTION: self.socket.fileno()}

    # pywsgi then accepts one connection at a time, so that other processes get some.
    environ = {"wsgi.multiprocess": True, "wsgi.multithread": True}
    requests = pool.Pool(greenlets)
    servers = [
        pywsgi.WSGIServer(
            gevent.socket.socket(each.family, each.type, fileno=os.dup(each.fileno())),
            application,
            spawn=requests,
            handler_class=Handler,
            log=None,
            environ=environ,
        )
        for each in sockets
    ]
    stop = event.Event()
    gevent.signal_handler(signal.SIGTERM, stop.set)
    for server in servers:
        server.start()
    ready()
    stop.wait()
    for server in servers:
        server.close()
    requests.join()


if __name__ == "__main__":
    config, private, processes, port = (*sys.argv[1:], "", "")[:4]
    settings = read_settings(config)
    limits = int(settings["greenlets"]), int(settings["request_timeout_s"])
    sockets = gateway_http.open_listeners(private, port)
    number = count_processes(processes or settings["processes"])
    Workers(number, lambda ready: work(settings["module"], *limits, sockets, ready)).run()
