"""Guard the application of every gateway, so that one request cannot hurt another."""

from __future__ import annotations

import functools
import os
import resource
import traceback
from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from signal import SIG_UNBLOCK, SIGBUS, SIGFPE, SIGHUP, SIGILL, SIGSEGV, SIGTERM, pthread_sigmask
from time import monotonic, sleep
from typing import Any, cast

import gateway_companion
from gateway_requests import Requests
from gateway_sockets import borrow_socket, is_closed, reset, stop_listening, waiting_s
from gateway_streaming import STREAMING

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
# A request is late when it has waited for a thread so many seconds, and so many times the typical duration.
WAIT_S, WAIT_TIMES = 2.0, 4
# Late requests get 503 once no request found a free thread for so many seconds, or a client gave up. A few slow
# requests at once are no overload. Less than SHORT_S counts as no wait.
OVERLOAD_S, SHORT_S = 5.5, 0.5
# How much one more request counts in what requests take.
WEIGHT = 0.05
# Before a reset: Apache takes one that comes with the last bytes for the end of the response (7 of 30; then 0 of 200).
CUT_AFTER_S = 0.05
FATAL = (SIGBUS, SIGFPE, SIGILL, SIGSEGV)
BYTES = (bytes, bytearray, memoryview)
# Of the machine's memory, for one worker: a release needs room for two.
MEMORY_SHARE = 0.6
# What the kernel counts for a thread that was started (ulimit -s).
STACK_BYTES = 8 << 20
# What a machine has that is a container: cgroup v2, and v1.
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Room for requests besides those of clients: health checks on the private socket.
SPARE = 4


class Guard:
    """Counts, limits and answers the requests of one worker process.

    threads: requests that it works on at a time. limit_s: longest time of one in seconds, where it is not streaming.
    connection: returns the file descriptor of a request's connection. is_uwsgi: the gateway answers no 500 by itself,
    and sends files by sendfile.
    """

    requests: Requests
    started: float
    # When a request last found a thread without waiting, and until when the others are sent away at once.
    relaxed: float
    overloaded_until: float = 0.0
    # Whether this is no worker but a process that the application has forked.
    is_child: bool = False

    def __init__(
        self, threads: int, limit_s: float, connection: Callable[[dict[str, Any]], int], *, is_uwsgi: bool = False
    ) -> None:
        self.threads, self.limit_s, self.connection, self.is_uwsgi = threads, limit_s, connection, is_uwsgi
        # Seconds that requests take until their response begins: an average, in which the last ones count most.
        self.typical_s = 0.0
        # Threads that take the signals of fatal errors.
        self.unblocked: set[int] = set()

    def start(self) -> None:
        """Begin, in the worker process, while it has one thread."""
        self.requests = Requests(self.threads + SPARE)
        self.started = self.relaxed = monotonic()
        # uWSGI's worker ends at once on SIGTERM.
        gateway_companion.start(self.requests, SIGHUP if self.is_uwsgi else SIGTERM)
        # Not before: the companion shares the worker's files.
        os.register_at_fork(after_in_child=self.leave_requests)
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit(self.threads), most))

    def leave_requests(self) -> None:
        """Close the listening sockets and the requests' connections in a process that the application forked.

        Else a response would not end, and requests of other clients would come here.
        """
        self.is_child = True
        stop_listening()
        for _, fd, *_ in self.requests.in_flight():
            with suppress(OSError):
                os.close(fd)

    def __enter__(self) -> None:
        """Enter the application."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Leave the application. A process that it forked ends here: the worker goes on with the request."""
        if self.is_child:
            failed = error is not None and not isinstance(error, StopIteration)
            code = error.code if isinstance(error, SystemExit) else int(failed)
            os._exit(code if isinstance(code, int) else int(code is not None))

    def __call__(self, wsgi: Wsgi) -> Wsgi:
        """Return the application as the gateway calls it."""

        def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            fd = self.connection(environ)
            if len(self.requests.free) > SPARE + 1:
                self.relaxed = monotonic()
            elif rejection := self.reject(fd):
                start_response(*rejection)
                return [rejection[0].encode() + b"\n"]
            if (thread := get_ident()) not in self.unblocked:
                # uWSGI blocks them in its threads; then the process ends without a report of who did it.
                pthread_sigmask(SIG_UNBLOCK, FATAL)
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


def as_bytes(part: Any) -> bytes:
    """Return a part of a body as bytes. Raises TypeError for what is not made of bytes."""
    if type(part) is bytes:
        return part
    if isinstance(part, BYTES):
        return bytes(cast("bytes", part))
    raise TypeError(f"the application's response has a part of type {type(part).__name__}, which should be bytes")


class Response:
    """The response to one request, as an iterable for the gateway. What it raises is always an Exception."""

    def __init__(self, guard: Guard, entry: int, fd: int, environ: dict[str, Any], start_response: Any) -> None:
        self.guard, self.entry, self.fd = guard, entry, fd
        self.environ, self.gateway_start_response = environ, start_response
        self.source: Any = None
        self.parts: Iterator[Any] = iter(())
        # A part that was asked for already.
        self.first: bytes | None = None

    def run(self, wsgi: Wsgi, *, counts: bool) -> Any:
        """Call the application and ask for its first part: a generator does nothing before.

        counts: whether the request is one of those whose typical duration is known.
        """
        began = monotonic()
        if self.guard.is_uwsgi:
            self.gateway_file_wrapper = self.environ["wsgi.file_wrapper"]
            self.environ["wsgi.file_wrapper"] = self.wrap_file
        try:
            with self.guard:
                self.source = wsgi(self.environ, self.start_response)
                if isinstance(self.source, File):
                    self.guard.requests.respond(self.entry)
                    return self.source
                is_one_part = isinstance(self.source, BYTES)
                self.parts = iter((self.source,) if is_one_part else self.source)
                self.first = as_bytes(next(self.parts, b""))
        except BaseException as error:  # noqa: BLE001  whatever an application raises
            return self.fail(error)
        if counts:
            self.guard.typical_s += WEIGHT * (monotonic() - began - self.guard.typical_s)
        self.guard.requests.respond(self.entry)
        return self

    def fail(self, error: BaseException) -> list[bytes]:
        """Answer 500 where nothing was sent. Raises an Exception where the gateway does that."""
        try:
            self.close()
        except Exception as closing:  # noqa: BLE001  what was raised first is what is told
            traceback.print_exception(closing)
        if not self.guard.is_uwsgi:
            raise as_exception(error)
        traceback.print_exception(error)
        try:
            # Takes the place of what the application began.
            self.gateway_start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        except OSError:
            # Some was sent.
            self.cut_connection()
            return []
        return [b"Internal Server Error\n"]

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[Any], object]:
        """See PEP 3333."""
        write = self.gateway_start_response(status, headers, *([exc_info] if exc_info else []))
        return functools.partial(self.write, write)

    def write(self, write: Callable[[bytes], object], part: Any) -> None:
        """See PEP 3333."""
        self.guard.requests.respond(self.entry)
        write(as_bytes(part))

    def wrap_file(self, file: Any, *size: int) -> Any:
        """See PEP 3333. uWSGI sends the file by itself, if it comes back as it was given."""
        return self.gateway_file_wrapper(File(file, self), *size)

    def __iter__(self) -> Response:
        return self

    def __next__(self) -> bytes:
        if (first := self.first) is not None:
            self.first = None
            return first
        try:
            with self.guard:
                return as_bytes(next(self.parts))
        except StopIteration:
            raise
        except BaseException as error:  # noqa: BLE001
            self.cut_connection()
            raise as_exception(error) from None

    def cut_connection(self) -> None:
        """Have the connection end by a reset, since a part of the response is missing."""
        if self.guard.is_uwsgi:
            sleep(CUT_AFTER_S)
        # Of a connection that was closed meanwhile another client may have the number.
        if self.entry < 0 or self.guard.requests.connection(self.entry) == self.fd:
            with borrow_socket(self.fd) as connection:
                reset(connection)

    def close(self) -> None:
        """Close the source and end the request. The gateway calls this in any case (PEP 3333)."""
        try:
            if close := getattr(self.source, "close", None):
                close()
        except BaseException as error:  # noqa: BLE001
            raise as_exception(error) from None
        finally:
            if self.entry >= 0:
                self.guard.requests.end(self.entry)
                self.entry = -1


class File:
    """What an application gave wsgi.file_wrapper of uWSGI. Closing it ends the request."""

    def __init__(self, file: Any, response: Response) -> None:
        self._file, self._response = file, response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None:
        """Close the response. uWSGI calls this when it has sent the file."""
        self._response.source = self._file
        self._response.close()


def as_exception(error: BaseException) -> Exception:
    """Return the error as one that ends a request and not its process."""
    if isinstance(error, Exception):
        return error
    made = RuntimeError(f"the application raised {type(error).__name__}, which ends this request alone")
    made.__cause__ = error
    return made
