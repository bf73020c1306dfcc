"""Start, replace and stop the worker processes of a gateway that has no master of its own."""

from __future__ import annotations

import configparser
import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable

from gateway_http import IGNORED, notify

# prctl(2): the signal that a process gets when its parent has ended.
PR_SET_PDEATHSIG = 1
SIGNALS = {signal.SIGTERM, signal.SIGCHLD, *IGNORED}


def read_settings(path: str) -> configparser.SectionProxy:
    """Return the configuration of a release."""
    parser = configparser.ConfigParser(interpolation=None)
    with open(path) as file:  # noqa: PTH123
        parser.read_file(file)
    return parser["gateway"]


def count_processes(processes: str) -> int:
    """Return the number of processes.

    `auto` is two for each CPU that this process may use, which in a container are fewer than the machine has.
    """
    return len(os.sched_getaffinity(0)) * 2 if processes == "auto" else int(processes)


class Workers:
    """Runs `work` in so many processes. Notifies systemd when each has called the function that it gets.

    A worker that ends before that ends all workers. One that ends later is replaced. On SIGTERM all finish and end.
    Other signals that an application could send are ignored here; a worker has their defaults.
    """

    def __init__(self, processes: int, work: Callable[[Callable[[], object]], None]) -> None:
        self.processes, self.work = processes, work
        # Each worker: whether it is ready.
        self.workers: dict[int, bool] = {}
        self.has_notified = self.stopping = False
        self.code = 0
        self.ready, self.tell_ready = os.pipe()
        self.wake, self.tell_wake = os.pipe()

    def run(self) -> None:
        """Run until all workers have ended; exit with 0 after a stop signal."""
        for end in (self.tell_wake, self.wake, self.ready):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.tell_wake)
        for each in SIGNALS:
            signal.signal(each, self._handle_signal)
        for _ in range(self.processes):
            self._start()
        while self.workers:
            select.select([self.ready, self.wake], [], [])
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake, 1024)
            self._read_ready()
            self._reap()
        sys.exit(self.code)

    def _handle_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGTERM:
            self._stop()

    def _stop(self) -> None:
        self.stopping = True
        for pid in self.workers:
            os.kill(pid, signal.SIGTERM)

    def _start(self) -> None:
        # A signal that comes in between finds the child with its own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid:
            self.workers[pid] = False
        else:
            signal.set_wakeup_fd(-1)
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if not pid:
            # Else it would occupy the port of the next master: supervisord does not end workers, as systemd does.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for end in (self.ready, self.wake, self.tell_wake):
                os.close(end)
            self.work(lambda: os.write(self.tell_ready, f"{os.getpid()}\n".encode()))
            sys.exit(0)

    def _read_ready(self) -> None:
        """Read which workers are ready. A line is written at once, so it is read as a whole (pipe(7), PIPE_BUF)."""
        with contextlib.suppress(BlockingIOError):
            for pid in os.read(self.ready, 4096).split():
                self.workers[int(pid)] = True
        if not self.has_notified and len(self.workers) == self.processes and all(self.workers.values()):
            self.has_notified = True
            notify("READY=1")

    def _reap(self) -> None:
        while self.workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            was_ready = self.workers.pop(pid, True)
            if self.stopping:
                continue
            how = os.waitstatus_to_exitcode(status)
            print(f"worker {pid} ended with {how}", file=sys.stderr, flush=True)
            if was_ready:
                self._start()
            else:
                self.code = 1
                self._stop()
