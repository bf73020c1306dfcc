"""Serves a release by Gunicorn, in its Python: `gateway_gunicorn.py CONFIG PRIVATE_SOCKET [PROCESSES [PORT]]`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from _thread import start_new_thread
from contextlib import suppress
from typing import Any
from weakref import WeakSet

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
import gateway_http as http
from gateway_environment import hide_variables, restore_variables, warn_of_threads
from gateway_guard import Guard
from gateway_loader import load_application

sys.path.pop(0)
# They would override the release's file. The first two are for a Gunicorn that another one has started.
for name in ("GUNICORN_PID", "GUNICORN_FD"):
    os.environ.pop(name, None)
hide_variables("FORWARDED_ALLOW_IPS", "GUNICORN_", "PORT", "SENDFILE", "WEB_CONCURRENCY")
with http.prepend_gateway_path("gunicorn"):
    from gunicorn import util
    from gunicorn.app.wsgiapp import WSGIApplication
    from gunicorn.arbiter import Arbiter

# Gunicorn kills a worker that hangs as a whole so many seconds after the companion would end a request.
GRACE_S = 5


class Gunicorn(WSGIApplication):
    """Gunicorn's own command, with the application, the guard and the notification of systemd of this module."""

    cfg: Any

    def load_config(self) -> None:
        """Load the release's file, then the command line, then the settings of this module."""
        super().load_config()
        with http.prepend_gateway_path("gunicorn"):
            # Loads the worker's module, and gevent where it needs that.
            self.is_gevent = "gevent" in self.cfg.worker_class.__module__
        self.limit_s: int = self.cfg.timeout - GRACE_S
        self.cfg.set("when_ready", self.when_ready)
        self.cfg.set("post_worker_init", self.post_worker_init)
        self.cfg.set("post_request", self.post_request)
        # Connections of requests that were read to their end.
        self.whole: WeakSet[Any] = WeakSet()
        self.close_graceful, util.close_graceful = util.close_graceful, self.close_connection
        self.ready, self.tell_ready = os.pipe()
        # Gunicorn would send READY=1 before a worker has imported the application.
        self.notify_socket = os.environ.pop("NOTIFY_SOCKET", "")

    def load(self) -> Any:
        """Return the callable. Gunicorn calls this once in the arbiter (preload_app), or once in each worker."""
        restore_variables()
        try:
            application = http.proxy_fix(load_application(self.cfg.wsgi_app))
        except Exception:  # noqa: BLE001  whatever an application raises
            traceback.print_exc()
            sys.exit(Arbiter.APP_LOAD_ERROR)
        if self.cfg.preload_app:
            warn_of_threads()
        return application

    def when_ready(self, server: Any) -> None:
        """Implement Gunicorn's hook of the arbiter before it starts workers: wait for them in a thread."""
        for number in http.IGNORED:
            signal.signal(number, lambda _number, _frame: None)
        start_new_thread(self.notify_when_ready, (server.num_workers,))

    def notify_when_ready(self, workers: int) -> None:
        """Wait for a byte of each worker."""
        while workers > 0:
            workers -= len(os.read(self.ready, workers))
        os.environ["NOTIFY_SOCKET"] = self.notify_socket
        http.notify("READY=1")

    def post_request(self, _worker: Any, request: Any, environ: dict[str, Any], _response: Any) -> None:
        """Implement Gunicorn's hook of a request that has its response: note whether any of it is unread."""
        if getattr(request.body.reader, "length", None) == 0 and environ and "HTTP_UPGRADE" not in environ:
            self.whole.add(environ["gunicorn.socket"])

    def close_connection(self, connection: Any, *options: Any) -> None:
        """Close a connection. Gunicorn's own way waits until the balancer has closed it, in the thread that accepts.

        That saves the end of a response from the reset that a close with unread bytes sends: others need no wait.
        """
        if connection in self.whole:
            # A process that the application forked may have the connection as well.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            connection.close()
        else:
            self.close_graceful(connection, *options)

    def post_worker_init(self, worker: Any) -> None:
        """Implement Gunicorn's hook of a worker that has the application: guard it."""
        limit_s = self.cfg.timeout if self.is_gevent else self.limit_s

        def connection(environ: dict[str, Any]) -> int:
            return environ["gunicorn.socket"].fileno()

        guard = Guard(self.cfg.worker_connections, limit_s, connection, private)
        guard.start()
        worker.wsgi = guard(worker.wsgi)
        if self.is_gevent:
            guard.requests.watch_greenlets(http.import_untyped("greenlet"))
            http.keep_accepting()
            worker.wsgi = http.with_gevent_timeout(worker.wsgi, self.limit_s)
        os.write(self.tell_ready, b".")


if __name__ == "__main__":
    config, private, processes, port = (*sys.argv[1:], "", "")[:4]
    binds = [f"--bind=fd://{each.detach()}" for each in http.open_listeners(private, port)]
    sys.argv[1:] = ["--config", config, *binds, *([f"--workers={processes}"] if processes else [])]
    Gunicorn("%(prog)s [OPTIONS]").run()
else:
    # A process that the application's `multiprocessing` spawned runs this file again, for the application alone.
    restore_variables()
