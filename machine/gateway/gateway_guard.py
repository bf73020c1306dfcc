"""Guard the application of every gateway, so that one request cannot hurt another."""

from __future__ import annotations

import os
import resource
from _thread import get_ident
from collections.abc import Callable, Iterable
from contextlib import suppress
from signal import (
    SIG_DFL,
    SIG_UNBLOCK,
    SIGABRT,
    SIGBUS,
    SIGCHLD,
    SIGFPE,
    SIGHUP,
    SIGILL,
    SIGSEGV,
    SIGTERM,
    pthread_sigmask,
    set_wakeup_fd,
    signal,
)
from time import monotonic
from typing import Any

import gateway_companion
from gateway_requests import Requests
from gateway_response import Response, Wsgi
from gateway_sockets import is_closed, stop_listening, waiting_s
from gateway_streaming import STREAMING

# A request is late when it has waited for a thread so many seconds, and so many times the typical duration.
WAIT_S, WAIT_TIMES = 2.0, 4
# Late requests get 503 once no request found a free thread for so many seconds, or a client gave up. A few slow
# requests at once are no overload. Less than SHORT_S counts as no wait.
OVERLOAD_S, SHORT_S = 5.5, 0.5
# uWSGI blocks all signals in its threads. If a fatal signal is blocked, faulthandler cannot report its thread; since
# glibc 2.41 (Debian 13) that is true of abort(3) as well. A process that the application starts inherits what is
# blocked: it would not end on SIGTERM, nor hear that its own children end.
UNBLOCKED = (SIGABRT, SIGBUS, SIGCHLD, SIGFPE, SIGILL, SIGSEGV, SIGTERM)
# Of the machine's memory, for one worker: a release needs room for two.
MEMORY_SHARE = 0.6
# What the kernel counts for a thread that was started (ulimit -s).
STACK_BYTES = 8 << 20
# What a machine has that is a container: cgroup v2, and v1.
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Room for further requests: health checks on the private socket.
SPARE = 4


class Guard:
    """Count, limit and reject requests of one worker process.

    threads: requests that it works on at a time. limit_s: longest time of one in seconds, where it is not streaming.
    connection: returns the file descriptor of a request's connection. private: the gateway's private socket, in whose
    folder app_status.py looks for what workers do. is_uwsgi: the gateway answers no 500 by itself, sends files by
    sendfile, and has statistics of its own. resident_mib: resident memory above which the worker ends after its
    requests; 0 for any.
    """

    requests: Requests
    started: float
    # When a request last found a thread without waiting, and until when the others are sent away at once.
    relaxed: float
    overloaded_until: float = 0.0
    # Whether this is no worker but a process that the application has forked.
    is_child: bool = False

    def __init__(
        self,
        threads: int,
        limit_s: float,
        connection: Callable[[dict[str, Any]], int],
        private: str = "",
        *,
        is_uwsgi: bool = False,
        resident_mib: int = 0,
    ) -> None:
        self.threads, self.limit_s, self.connection, self.is_uwsgi = threads, limit_s, connection, is_uwsgi
        self.private, self.resident_mib = private, resident_mib
        # Seconds that requests take until their response begins: an average, in which the last ones count most.
        self.typical_s = 0.0
        # Threads that take the signals of UNBLOCKED.
        self.unblocked: set[int] = set()

    def start(self) -> None:
        """Begin, in the worker process, while it has one thread."""
        most = self.threads + SPARE
        name = f"worker-{os.getpid()}-{self.threads}-{most}"
        self.requests = Requests(most, self.private and os.path.join(os.path.dirname(self.private), name))  # noqa: PTH118, PTH120
        self.started = self.relaxed = monotonic()
        # uWSGI's worker ends at once on SIGTERM.
        gateway_companion.start(self.requests, SIGHUP if self.is_uwsgi else SIGTERM, self.resident_mib, self.limit_s)
        # Not before: the companion shares the worker's files.
        os.register_at_fork(after_in_child=self.leave_requests)
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit(self.threads), most))

    def leave_requests(self) -> None:
        """Close the listening sockets and the requests' connections in a process that the application forked.

        Else a response would not end, and requests of other clients would come here.
        """
        self.is_child = True
        # The gateway's handlers would not end it, and what they write into the worker's pipe would stop the worker.
        set_wakeup_fd(-1)
        signal(SIGTERM, SIG_DFL)
        stop_listening()
        for _, fd, *_ in self.requests.in_flight():
            with suppress(OSError):
                os.close(fd)

    def __enter__(self) -> None:
        """Enter the application."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Leave the application. A forked process ends here, and the worker continues with the request."""
        if self.is_child:
            failed = error is not None and not isinstance(error, StopIteration)
            code = error.code if isinstance(error, SystemExit) else int(failed)
            os._exit(code if isinstance(code, int) else int(code is not None))

    def __call__(self, wsgi: Wsgi) -> Wsgi:
        """Return the application as the gateway calls it."""

        def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            fd = self.connection(environ)
            # uWSGI leaves it out where it is empty, as PEP 3333 allows; the others do not.
            environ.setdefault("SCRIPT_NAME", "")
            if len(self.requests.free) > SPARE + 1:
                self.relaxed = monotonic()
            elif rejection := self.reject(fd):
                start_response(*rejection)
                return [rejection[0].encode() + b"\n"]
            if (thread := get_ident()) not in self.unblocked:
                pthread_sigmask(SIG_UNBLOCK, UNBLOCKED)
                self.unblocked.add(thread)
            extra_s = STREAMING.extra_s(environ["PATH_INFO"])
            try:
                name = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']!r}"
                entry = self.requests.begin(fd, thread, self.limit_s + (extra_s or 0), name)
            except IndexError:
                # More than there should be; it is served and not watched.
                return wsgi(environ, start_response)
            return Response(self, entry, fd, environ, start_response).run(wsgi, counts=extra_s is None)

        return call

    def reject(self, fd: int) -> tuple[str, list[tuple[str, str]]] | None:
        """Return the status and headers that reject a request; None where it is served.

        A request is rejected when its client has gone, or when it waited too long in an overloaded worker.
        """
        now, is_gone = monotonic(), is_closed(fd)
        waited_s = min(waiting_s(fd), now - self.started)
        if waited_s < SHORT_S:
            self.relaxed = now
        is_late = waited_s > max(WAIT_S, WAIT_TIMES * self.typical_s)
        if is_late and (is_gone or now - self.relaxed > OVERLOAD_S):
            self.overloaded_until = now + OVERLOAD_S
        if is_gone or (is_late and now < self.overloaded_until):
            return "503 Service Unavailable", [("Retry-After", "1"), ("X-Busy", f"waited {waited_s:.1f} s")]
        return None


def memory_limit(threads: int) -> int:
    """Return the bytes of data that this process may have: a request that wants more gets a MemoryError.

    Else the machine is out of memory first, which stops all of it for many seconds before the kernel ends a process.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in CGROUP_LIMITS:
        try:
            with open(name) as file:  # noqa: PTH123
                found.append(int(file.read()))
        except (OSError, ValueError):
            # Not this version of cgroups, or no limit ("max").
            continue
    return int(min(found) * MEMORY_SHARE) + threads * STACK_BYTES
