"""The application of the fault tests: a view for each thing that one request can do to its process."""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

# A test makes the application unable to start, as without its database.
if (Path(os.environ["STATE_DIRECTORY"]) / "database-is-away").exists():
    raise ConnectionError("the database is away")


class Odd(BaseException):
    """No Exception, as time-outs of some libraries are."""


RAISED = {"exit": SystemExit(1), "interrupt": KeyboardInterrupt(), "base": Odd(), "generator": GeneratorExit()}
Environ = dict[str, Any]
KEPT: list[bytearray] = []


def take_all_memory() -> None:
    """Ask for memory until there is none."""
    kept: list[bytearray] = []
    while True:
        kept.append(bytearray(1 << 20))


def leak_to_the_limit() -> None:
    """Keep all the memory that there is, in ever smaller pieces, as a cache without a bound does."""
    for size in (1 << 20, 1 << 16, 1 << 12, 512, 64):
        with contextlib.suppress(MemoryError):
            while True:
                KEPT.append(bytearray(size))


def use_up_files() -> None:
    """Leave this process no further file descriptor."""
    number, (_, most) = len([*Path("/proc/self/fd").iterdir()]), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, most))


def fill_shared_memory() -> None:
    """Write files that take memory, and that no end of a process removes."""
    with contextlib.suppress(OSError), Path(f"/dev/shm/{os.getpid()}-{time.time_ns()}").open("wb") as file:
        for _ in range(480):
            file.write(bytes(1 << 20))


def shut_down_what_listens() -> None:
    """End the listening socket for all that share it, as a process manager does that owns it alone."""
    for file in Path("/proc/self/fd").iterdir():
        try:
            found = socket.socket(fileno=int(file.name))
        except OSError:
            continue
        if found.family != socket.AF_UNIX and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.shutdown(socket.SHUT_RDWR)
        found.detach()


def stream(query: dict[str, list[str]]) -> Iterator[bytes]:
    """Yield n parts, one each `every` seconds. Raise RuntimeError after part number `cut`, so that no end is sent."""
    for number in range(int(query.get("n", ["3"])[0])):
        yield f"{number}\n".encode()
        if number == int(query.get("cut", ["-1"])[0]):
            raise RuntimeError("on purpose")
        time.sleep(float(query.get("every", ["1"])[0]))


CRUEL: dict[str, Callable[[], object]] = {
    "abort": os.abort,
    "segv": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": take_all_memory,
    "deaf": shut_down_what_listens,
    "leak": leak_to_the_limit,
    "files": use_up_files,
    "shm": fill_shared_memory,
    "sigint": lambda: os.kill(os.getppid(), signal.SIGINT),
}


def app(environ: Environ, start_response: Callable[..., Any]) -> Any:
    """Serve a request as PEP 3333 defines it."""
    view, query = environ["PATH_INFO"].strip("/"), parse_qs(environ["QUERY_STRING"])
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    time.sleep(float(query.get("s", ["0"])[0]))
    if view in CRUEL:
        CRUEL[view]()
    if view in RAISED:
        raise RAISED[view]
    headers = [("Content-Type", "text/plain")]
    if view == "header":
        # As cookies are: none is longer than a few KiB.
        headers += [(f"X-Large-{begin}", "x" * 4000) for begin in range(0, int(query["n"][0]), 4000)]
    if view == "large":
        start_response("200 OK", headers)
        return (b"x" * 65536 for _ in range(int(query["n"][0])))
    if view == "stream":
        start_response("200 OK", headers)
        return stream(query)
    start_response("200 OK", headers)
    if view == "log":
        for number in range(int(query["n"][0])):
            print(f"flood of {query['n'][0]}: {number}", file=sys.stderr)
    if view == "bytearray":
        return [bytearray(b"whole")]
    return [f"{os.environ['WSGI_FLEET_SERVER']} {len(body)} {os.environ.get('VERSION', '1')}\n".encode()]
