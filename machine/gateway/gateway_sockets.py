"""Look at sockets that belong to others by their file descriptors."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

# These names stay the real ones when gevent replaces those in their modules.
from select import POLLRDHUP, poll
from typing import Any

# tcp(7), struct tcp_info.
TCP_INFO_BYTES = 104
# Of it: tcpi_last_data_recv, in milliseconds.
LAST_DATA_RECEIVED = slice(52, 56)
_kept_open: list[int] = []


def open_files() -> list[int]:
    """Return the file descriptors of this process."""
    return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208


def listening_sockets() -> dict[Any, int]:
    """Return the file descriptors of the sockets that listen on TCP in this process, by address."""
    found: dict[Any, int] = {}
    for fd in open_files():
        with suppress(OSError), borrow_socket(fd) as each:
            if each.family != socket.AF_UNIX and each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found[each.getsockname()] = fd
    return found


@contextmanager
def borrow_socket(fd: int) -> Generator[socket.socket]:
    """Yield a socket object for a file descriptor that belongs to others. Raises OSError where it is no socket.

    Python makes each new object non-blocking while the application has set a default time-out, and with it the
    socket that the gateway reads.
    """
    is_blocking = os.get_blocking(fd)
    each = socket.socket(fileno=fd)
    try:
        if os.get_blocking(fd) != is_blocking:
            os.set_blocking(fd, is_blocking)
        yield each
    finally:
        each.detach()


# The sockets that systemd gave to the first process of the gateway. A later worker may find them shut down or closed.
LISTENING = {address: os.dup(fd) for address, fd in listening_sockets().items()}


def reset(connection: socket.socket) -> None:
    """Make the next close of a connection send a reset: an end of file would look like the end of a response."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def stop_listening() -> None:
    """Replace each listening socket by one that receives nothing, in this process alone."""
    for fd in open_files():
        with suppress(OSError), borrow_socket(fd) as each:
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                quiet, other = socket.socketpair()
                os.dup2(quiet.fileno(), fd)
                # For as long as this process lives: without it the socket would count as closed.
                _kept_open.append(other.detach())
                quiet.close()


def is_closed(fd: int) -> bool:
    """Return whether the other end has closed: the balancer does when a client gives up."""
    seen = poll()
    seen.register(fd, POLLRDHUP)
    return bool(seen.poll(0))


def waiting_s(fd: int) -> float:
    """Return the seconds since the last byte of a request came; 0 on a Unix socket.

    That is how long the request waited for a thread.
    """
    with borrow_socket(fd) as connection, suppress(OSError):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        return int.from_bytes(info[LAST_DATA_RECEIVED], sys.byteorder) / 1000
    return 0.0
