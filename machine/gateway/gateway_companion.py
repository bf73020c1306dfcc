"""A companion process for each worker of a gateway: ends requests that take too long, and answers for a dead worker.

It shares the worker's file descriptors (CLONE_FILES of clone(2)), so connections stay open when the worker dies. Of the
requests that were in flight then, the one that killed the worker gets 502, one that took too long gets 504. The
connections of the others are reset. So Nginx asks another server for a GET, and half a response does not look whole.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import platform
import re
import signal
import socket
import sys
from contextlib import suppress

# These names stay the real ones when gevent replaces those in their modules.
from select import POLLIN, POLLNVAL, poll
from time import monotonic, sleep
from typing import NamedTuple

from gateway_limits import reached_limit, resident_mib
from gateway_requests import RUNNING, Requests
from gateway_sockets import LISTENING, TCP_INFO_BYTES, listening_sockets, open_files, reset

# clone(2): number of the system call, and the flag.
SYS_CLONE = {"x86_64": 56, "aarch64": 220}[platform.machine()]
CLONE_FILES = 0x400
# prctl(2).
PR_SET_NAME = 15
# On this signal a worker writes where its threads are. It has no other use.
DUMP = signal.SIGRTMAX - 1
LOOK_EVERY_MS = 500
# Connections that may wait to be accepted (templates/systemd/app.socket.j2).
BACKLOG = 4096
# tcp(7), struct tcp_info: of a listening socket tcpi_unacked is how many connections wait to be accepted.
WAITING = slice(24, 28)
# Looks in a row at which connections wait and the worker has no request, before it counts as one that cannot accept.
NOT_ACCEPTING_LOOKS = 8
# Looks in a row at which the worker is at a limit before it is asked to stop, and before it is killed.
LIMIT_LOOKS, KILL_LOOKS = 3, 9
# Age of a worker that may be asked to end because of its memory, as uWSGI's min-worker-lifetime.
GROWN_AFTER_S = 60.0
# Longest wait for a balancer to take the last response.
CLOSE_S = 1.0
# Of a report: the thread that had the fatal error.
FATAL_THREAD = re.compile(rb"^Fatal.*^Current thread 0x([0-9a-f]+)", re.DOTALL | re.MULTILINE)
# Nginx puts its page of this error in the place (templates/nginx/site.conf.j2); other clients read the text.
RESPONSE = (
    "HTTP/1.1 {0}\r\nContent-Type: text/plain\r\nContent-Length: {1}\r\nConnection: close\r\n"
    "X-Accel-Redirect: @{2}\r\n\r\n{0}\n"
)
_python = ctypes.PyDLL(None, use_errno=True)


def start(requests: Requests, stop: signal.Signals, most_resident_mib: int = 0, limit_s: float = 0.0) -> None:
    """Start the companion of this process, which has one thread yet. The rest: see Worker."""
    # Of this process, which may have ended before the companion looks.
    worker, process = os.getpid(), os.pidfd_open(os.getpid())
    report_reader, report = os.pipe()
    # Both write without the interpreter's lock, whatever state it is in.
    faulthandler.enable(report)
    faulthandler.register(DUMP, report)
    _python.PyOS_BeforeFork()
    # No signal when it ends: it is no child that an application which waits for its own would find.
    pid = _python.syscall(SYS_CLONE, CLONE_FILES, 0, 0, 0, 0)
    if pid:
        _python.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(ctypes.get_errno(), "clone")
        return
    code = 1
    try:
        _python.PyOS_AfterFork_Child()
        _quiet_signals()
        Companion(Worker(worker, process, report_reader, stop, most_resident_mib, limit_s), requests).run()
        code = 0
    except BaseException as error:  # noqa: BLE001  nothing of the worker's program may run here
        # Without a companion it would not be watched: another worker replaces it. The companion needs it as its parent.
        if os.getppid() == worker:
            os.kill(worker, signal.SIGKILL)
        os.write(2, f"companion of worker {worker}, which ends with it: {error!r}\n".encode())
    finally:
        requests.remove_file()
        os._exit(code)


def _quiet_signals() -> None:
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    # An application may have set one. A socket object would make the worker's socket non-blocking.
    socket.setdefaulttimeout(None)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    # It ends after its worker, whoever is asked to stop.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _python.prctl(PR_SET_NAME, b"companion", 0, 0, 0)


class Worker(NamedTuple):
    """A worker of the gateway.

    process: its pidfd. report_reader: the pipe with its reports of a fatal error. stop: the signal on which it finishes
    its requests and ends. most_resident_mib: see Guard. limit_s: how long it may take for them if it has more.
    """

    id: int
    process: int
    report_reader: int
    stop: signal.Signals
    most_resident_mib: int
    limit_s: float


class Companion:
    """Watches one worker, and responds to its requests when it has ended."""

    def __init__(self, worker: Worker, requests: Requests) -> None:
        self.worker, self.requests = worker, requests
        os.set_blocking(worker.report_reader, False)
        self.report = b""
        self.not_accepting_looks = self.limit_looks = 0
        self.last_begin = 0.0
        # These objects live as long as this process: nothing closes the worker's files.
        every = {**listening_sockets(), **LISTENING}
        self.listening = [(socket.socket(fileno=fd), address) for address, fd in every.items()]
        # When it is killed, once it was asked to end because of its memory.
        self.start, self.kill_at = monotonic(), 0.0
        # Connections of requests that took too long.
        self.overdue: set[int] = set()

    def run(self) -> None:
        """Watch until the worker has ended, then respond for it."""
        events = poll()
        events.register(self.worker.process, POLLIN)
        events.register(self.worker.report_reader, POLLIN)
        while True:
            ready = dict(events.poll(LOOK_EVERY_MS))
            if POLLNVAL in ready.values():
                raise OSError("the application closed files that are not its own")
            if self.worker.report_reader in ready:
                self.read_report()
            # Also after the worker has ended: Gunicorn ends one that cannot accept, and the next could not either.
            waiting = self.look_at_sockets()
            if self.worker.process in ready:
                if os.getppid() == self.worker.id:
                    raise OSError("the application replaced files that are not its own")
                break
            self.end_if_not_accepting(waiting)
            self.end_if_at_limit()
            self.end_if_grown()
            self.end_overdue()
        self.read_report()
        self.respond_for_worker()

    def look_at_sockets(self) -> int:
        """Undo a shutdown(2) of a listening socket, which all workers share. Return the connections that wait there."""
        waiting = 0
        for each, address in self.listening:
            try:
                if each.getsockname() != address:
                    continue
                if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
                    waiting = max(waiting, int.from_bytes(info[WAITING], sys.byteorder))
                else:
                    each.listen(BACKLOG)
                    _log("the application shut the listening socket down; it listens again")
            except OSError:
                # The worker closed it. Another file may have its number by now.
                continue
        return waiting

    def end_if_not_accepting(self, waiting: int) -> None:
        """End a worker that is idle and accepts no connection. Until its first request it may import an application.

        With a queue that is never empty every look may come between two short requests: those that begin count as well.
        """
        last_begin, before = self.requests.last_begin(), self.last_begin
        self.last_begin = last_begin
        is_idle = last_begin and last_begin == before and not self.requests.in_flight()
        self.not_accepting_looks = self.not_accepting_looks + 1 if waiting and is_idle else 0
        if self.not_accepting_looks >= NOT_ACCEPTING_LOOKS:
            _log(f"worker {self.worker.id} accepts no connection although {waiting} wait: it ends")
            self.signal_worker(signal.SIGKILL)

    def end_if_at_limit(self) -> None:
        """Replace a worker that is at a limit for some looks: by itself it would stay so, and fail every request."""
        limit = reached_limit(self.worker.id)
        if limit or self.limit_looks >= LIMIT_LOOKS:
            self.limit_looks += 1
        else:
            self.limit_looks = 0
        if self.limit_looks == LIMIT_LOOKS:
            _log(f"worker {self.worker.id} has {limit}: it ends after its requests")
            self.signal_worker(self.worker.stop)
        elif self.limit_looks >= KILL_LOOKS:
            self.signal_worker(signal.SIGKILL)

    def end_if_grown(self) -> None:
        """Have the worker replaced once it has too much memory: after its requests, or when they take too long."""
        most, now = self.worker.most_resident_mib, monotonic()
        # Before its first request uWSGI may not hear the signal.
        is_old = self.last_begin and now - self.start >= GROWN_AFTER_S
        if self.kill_at and now > self.kill_at:
            self.signal_worker(signal.SIGKILL)
        elif most and is_old and not self.kill_at and (found := resident_mib(self.worker.id)) >= most:
            self.kill_at = now + self.worker.limit_s
            _log(f"worker {self.worker.id} has {found} of {most} MiB of memory: it ends after its requests")
            self.signal_worker(self.worker.stop)

    def read_report(self) -> None:
        """Copy the worker's report of a fatal error to the log, and keep it."""
        try:
            while text := os.read(self.worker.report_reader, 65536):
                os.write(2, text)
                self.report += text
        except BlockingIOError:
            return

    def end_overdue(self) -> None:
        """End the worker when a request takes too long: a thread cannot be stopped from outside."""
        now = monotonic()
        late = [each for each in self.requests.in_flight() if now - each[3] > each[4]]
        if not late:
            return
        for *_, limit_s, name in late:
            _log(f"{name} took longer than {limit_s:.0f} s: worker {self.worker.id} ends")
        self.overdue = {each[1] for each in late}
        # A worker that is at work while it writes this may die of it.
        self.signal_worker(DUMP)
        sleep(0.1)
        self.read_report()
        self.signal_worker(signal.SIGKILL)

    def signal_worker(self, number: int) -> None:
        """Send the worker a signal, if it has not ended: then its parent may have removed it, and the id is free."""
        with suppress(ProcessLookupError):
            os.kill(self.worker.id, number)

    def respond_for_worker(self) -> None:
        """Respond to the request that ended the worker, and reset the other connections."""
        requests = self.requests.in_flight()
        if not requests:
            return
        found = FATAL_THREAD.search(self.report)
        ended_by = int(found[1], 16) if found else None
        suspects = [fd for _, fd, thread, *_ in requests if thread == ended_by] or [fd for _, fd, *_ in requests]
        # Of greenlets, which share a thread, it is the one that ran.
        current = {self.requests.current_connection()}
        guilty = self.overdue or ({*suspects} if len(suspects) == 1 else current.intersection(suspects))
        for name in sorted(each[-1] for each in requests if each[1] in guilty - self.overdue):
            _log(f"worker {self.worker.id} ended while it worked on {name}")
        _close_all_but({2, *(fd for _, fd, *_ in requests)})
        closing = poll()
        open_: list[socket.socket] = []
        for state, fd, *_ in requests:
            try:
                connection = socket.socket(fileno=fd)
                if state == RUNNING and fd in guilty:
                    status, page = (
                        ("504 Gateway Timeout", "timed_out")
                        if fd in self.overdue
                        else ("502 Bad Gateway", "not_served")
                    )
                    connection.send(RESPONSE.format(status, len(status) + 1, page).encode())
                    connection.shutdown(socket.SHUT_WR)
                    closing.register(fd, POLLIN)
                    open_.append(connection)
                else:
                    reset(connection)
                    connection.close()
            except OSError:
                # Its client has gone.
                continue
        _wait_for_close(open_, closing)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _close_all_but(open_fds: set[int]) -> None:
    """Close listening sockets first: a restarted gateway binds them again."""
    for fd in open_files():
        if fd not in open_fds:
            try:
                os.close(fd)
            except OSError:
                continue


def _wait_for_close(connections: list[socket.socket], closing: poll) -> None:
    """Wait until the other ends have closed: with unread bytes of a body, a close would destroy the response."""
    left, deadline = {each.fileno(): each for each in connections}, monotonic() + CLOSE_S
    while left and (rest := deadline - monotonic()) > 0:
        for fd, _ in closing.poll(rest * 1000):
            try:
                is_open = bool(left[fd].recv(65536, socket.MSG_DONTWAIT))
            except BlockingIOError:
                is_open = True
            except OSError:
                is_open = False
            if not is_open:
                closing.unregister(fd)
                del left[fd]
