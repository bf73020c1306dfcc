"""A companion process for each worker of a gateway: ends requests that take too long, and answers for a dead worker.

It shares the worker's file descriptors (CLONE_FILES of clone(2)), so connections stay open when the worker dies. Of the
requests that were in flight then, the one that killed the worker is answered 502, one that took too long 504. The
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
import struct
import sys

# These names stay the real ones when gevent replaces those in their modules.
from mmap import mmap
from select import POLLIN, POLLNVAL, poll
from time import monotonic, sleep
from typing import Any

# State, file descriptor, thread, start (monotonic seconds), method and path.
ENTRY = struct.Struct("=B3xiQd168s")
RUNNING, RESPONDING = 1, 2
# clone(2): number of the system call, and the flag.
SYS_CLONE = {"x86_64": 56, "aarch64": 220}[platform.machine()]
CLONE_FILES = 0x400
# prctl(2).
PR_SET_NAME = 15
# On this signal a worker writes where its threads are. Nobody else uses it.
DUMP = signal.SIGRTMAX - 1
LOOK_EVERY_MS = 500
# Connections that may wait to be accepted (templates/systemd/app.socket.j2).
BACKLOG = 4096
# tcp(7), struct tcp_info: of a listening socket tcpi_unacked is how many connections wait to be accepted.
TCP_INFO_BYTES, WAITING = 104, slice(24, 28)
# Looks in a row at which connections wait and the worker has no request, before it counts as one that cannot accept.
NOT_ACCEPTING_LOOKS = 8
# Longest wait for a balancer to take the last response.
CLOSE_S = 1.0
# Of a report: the thread that had the fatal error.
FATAL_THREAD = re.compile(rb"^Fatal.*^Current thread 0x([0-9a-f]+)", re.DOTALL | re.MULTILINE)
RESPONSE = "HTTP/1.1 {0}\r\nContent-Type: text/plain\r\nContent-Length: {1}\r\nConnection: close\r\n\r\n{0}\n"
_python = ctypes.PyDLL(None, use_errno=True)


class Requests:
    """The requests that this process works on, in memory that its companion reads. most: how many at a time."""

    def __init__(self, most: int) -> None:
        self.memory = mmap(-1, most * ENTRY.size)
        # Offsets. The lowest are used first, so that the companion looks at few.
        self.free = list(range((most - 1) * ENTRY.size, -1, -ENTRY.size))

    def begin(self, fd: int, thread: int, request: str) -> int:
        """Enter a request. Returns its entry; raises IndexError when there are `most` of them."""
        entry = self.free.pop()
        # The state comes last: until then the companion would see a request that began at 0.
        ENTRY.pack_into(self.memory, entry, 0, fd, thread, monotonic(), request.encode(errors="replace"))
        self.memory[entry] = RUNNING
        return entry

    def respond(self, entry: int) -> None:
        """Note that a response was begun."""
        self.memory[entry] = RESPONDING

    def end(self, entry: int) -> None:
        """Remove a request."""
        self.memory[entry] = 0
        self.free.append(entry)

    def forget(self, fd: int) -> None:
        """Note that a connection was closed while requests of it are still worked on."""
        for entry in range(0, len(self.memory), ENTRY.size):
            if self.memory[entry] and ENTRY.unpack_from(self.memory, entry)[1] == fd:
                struct.pack_into("=i", self.memory, entry + 4, -1)

    def has_begun(self) -> bool:
        """Return whether there was a request yet: the first entry keeps when the last one of it began."""
        return bool(ENTRY.unpack_from(self.memory)[3])

    def in_flight(self) -> list[tuple[int, int, int, float, str]]:
        """Return the state, file descriptor, thread, start and name of each request."""
        found = (ENTRY.unpack_from(self.memory, offset) for offset in range(0, len(self.memory), ENTRY.size))
        # A name may be cut within a character, and an entry is written while it is read.
        return [(*each, text.rstrip(b"\0").decode(errors="replace")) for *each, text in found if each[0] and each[3]]


def start(requests: Requests, limit_s: float) -> None:
    """Start the companion of this process, which has one thread yet. limit_s: longest time of a request in seconds."""
    # Of this process, which may have ended before the companion looks.
    worker, process = os.getpid(), os.pidfd_open(os.getpid())
    hear, report = os.pipe()
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
        Companion(worker, process, requests, limit_s, hear).run()
        code = 0
    except BaseException as error:  # noqa: BLE001  nothing of the worker's program may run here
        # Nobody would watch it: another takes its place. It is the parent for as long as it lives.
        if os.getppid() == worker:
            os.kill(worker, signal.SIGKILL)
        os.write(2, f"companion of worker {worker}, which ends with it: {error!r}\n".encode())
    finally:
        os._exit(code)


def _quiet_signals() -> None:
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    # It ends after its worker, whoever is asked to stop.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _python.prctl(PR_SET_NAME, b"companion", 0, 0, 0)


class Companion:
    """Watches one worker. process: its pidfd. hear: where the worker's reports of a fatal error come."""

    def __init__(self, worker: int, process: int, requests: Requests, limit_s: float, hear: int) -> None:
        self.worker, self.process, self.hear = worker, process, hear
        self.requests, self.limit_s = requests, limit_s
        os.set_blocking(hear, False)
        self.report = b""
        self.not_accepting_looks = 0
        # These objects live as long as this process: nothing closes the worker's files.
        every = {**_listening(), **LISTENING}
        self.listening = [(socket.socket(fileno=fd), address) for address, fd in every.items()]
        # Connections of requests that took too long.
        self.overdue: set[int] = set()

    def run(self) -> None:
        """Watch until the worker has ended, then answer for it."""
        watched = poll()
        watched.register(self.process, POLLIN)
        watched.register(self.hear, POLLIN)
        while True:
            ready = dict(watched.poll(LOOK_EVERY_MS))
            if POLLNVAL in ready.values():
                raise OSError("the application closed files that are not its own")
            if self.hear in ready:
                self.read_report()
            # Also after the worker has ended: Gunicorn ends one that cannot accept, and the next could not either.
            waiting = self.look_at_sockets()
            if self.process in ready:
                break
            self.end_if_not_accepting(waiting)
            self.end_overdue()
        self.read_report()
        self.answer()

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
        """End a worker that is idle and accepts no connection. Until its first request it may import an application."""
        is_idle = self.requests.has_begun() and not self.requests.in_flight()
        self.not_accepting_looks = self.not_accepting_looks + 1 if waiting and is_idle else 0
        if self.not_accepting_looks >= NOT_ACCEPTING_LOOKS:
            _log(f"worker {self.worker} accepts no connection although {waiting} wait: it ends")
            os.kill(self.worker, signal.SIGKILL)

    def read_report(self) -> None:
        """Pass what came of a report on to the log, and keep it."""
        try:
            while text := os.read(self.hear, 65536):
                os.write(2, text)
                self.report += text
        except BlockingIOError:
            return

    def end_overdue(self) -> None:
        """End the worker when a request takes too long: a thread cannot be stopped from outside."""
        now = monotonic()
        late = [each for each in self.requests.in_flight() if now - each[3] > self.limit_s]
        if not late:
            return
        for *_, name in late:
            _log(f"{name} took longer than {self.limit_s:.0f} s: worker {self.worker} ends")
        self.overdue = {each[1] for each in late}
        os.kill(self.worker, DUMP)
        sleep(0.1)
        self.read_report()
        os.kill(self.worker, signal.SIGKILL)

    def answer(self) -> None:
        """Answer the request that ended the worker, and reset the other connections."""
        requests = self.requests.in_flight()
        if not requests:
            return
        found = FATAL_THREAD.search(self.report)
        ended_by = int(found[1], 16) if found else None
        suspects = [fd for _, fd, thread, *_ in requests if thread == ended_by] or [fd for _, fd, *_ in requests]
        # Of several greenlets in one thread nobody knows which it was.
        guilty = self.overdue or ({*suspects} if len(suspects) == 1 else set[int]())
        for name in sorted(each[-1] for each in requests if each[1] in guilty - self.overdue):
            _log(f"worker {self.worker} ended while it worked on {name}")
        _close_all_but({2, *(fd for _, fd, *_ in requests)})
        answered = poll()
        open_: list[socket.socket] = []
        for state, fd, *_ in requests:
            try:
                connection = socket.socket(fileno=fd)
                if state == RUNNING and fd in guilty:
                    status = "504 Gateway Timeout" if fd in self.overdue else "502 Bad Gateway"
                    connection.send(RESPONSE.format(status, len(status) + 1).encode())
                    connection.shutdown(socket.SHUT_WR)
                    answered.register(fd, POLLIN)
                    open_.append(connection)
                else:
                    reset(connection)
                    connection.close()
            except OSError:
                # Its client has gone.
                continue
        _wait_for_close(open_, answered)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _open_files() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208


def _listening() -> dict[Any, int]:
    """Return the file descriptors of the sockets that listen on TCP in this process, by address."""
    found: dict[Any, int] = {}
    for fd in _open_files():
        try:
            each = socket.socket(fileno=fd)
        except OSError:
            continue
        if each.family != socket.AF_UNIX and each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found[each.getsockname()] = fd
        each.detach()
    return found


def _close_all_but(kept: set[int]) -> None:
    """Close listening sockets above all: whoever starts the gateway anew binds them again."""
    for fd in _open_files():
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                continue


def _wait_for_close(connections: list[socket.socket], answered: poll) -> None:
    """Wait until the other ends have closed: with unread bytes of a body, a close would destroy the response."""
    left, deadline = {each.fileno(): each for each in connections}, monotonic() + CLOSE_S
    while left and (rest := deadline - monotonic()) > 0:
        for fd, _ in answered.poll(rest * 1000):
            try:
                is_open = bool(left[fd].recv(65536, socket.MSG_DONTWAIT))
            except BlockingIOError:
                is_open = True
            except OSError:
                is_open = False
            if not is_open:
                answered.unregister(fd)
                del left[fd]


# The sockets that systemd gave to the first process of the gateway. A later worker may find them shut down or closed.
LISTENING = {address: os.dup(fd) for address, fd in _listening().items()}


def reset(connection: socket.socket) -> None:
    """Have a connection end by a reset when it is closed: an end of file looks like the end of a response."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
