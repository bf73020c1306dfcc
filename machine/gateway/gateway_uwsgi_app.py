"""What uWSGI loads: the application of a release, guarded. See templates/uwsgi/uwsgi.ini.j2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, cast

import uwsgi as untyped  # pyright: ignore  only inside of it

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
from gateway_environment import restore_variables, warn_of_threads
from gateway_guard import Guard
from gateway_http import proxy_fix
from gateway_loader import load_application

sys.path.pop(0)
uwsgi = cast("Any", untyped)


guard = Guard(
    int(uwsgi.opt["threads"]),
    int(uwsgi.opt["request-timeout-s"]),
    lambda _: uwsgi.connection_fd(),
    uwsgi.opt["http-socket"].decode(),
    is_uwsgi=True,
    resident_mib=int(uwsgi.opt["reload-on-rss-mib"]),
)
# uWSGI keeps the number of a connection that is closed early. The next connection gets the same number, and then its
# client would receive the rest of this response.
uwsgi.disconnect = lambda: None
# One request would end all workers with the requests of others.
uwsgi.stop = lambda: None
# With lazy-apps this is a worker already.
if uwsgi.worker_id():
    guard.start()
restore_variables()
# The launcher's own.
os.environ.pop("WSGI_FLEET_PROCESSES", None)
application = guard(proxy_fix(load_application(uwsgi.opt["application"].decode())))
if not uwsgi.worker_id():
    warn_of_threads()
    # The application may have set one, while it was imported.
    after: Callable[[], object] | None = getattr(uwsgi, "post_fork_hook", None)

    def start() -> None:
        """Start the guard in each worker, before the worker has threads."""
        guard.start()
        if after:
            after()

    uwsgi.post_fork_hook = start
