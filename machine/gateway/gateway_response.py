"""The response to one request: what the application returns, as an iterable for the gateway that raises no more."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, cast

from gateway_sockets import borrow_socket, reset

if TYPE_CHECKING:
    from gateway_guard import Guard

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
# How much one more request counts in what requests take.
WEIGHT = 0.05
# Before a reset: Apache takes one that comes with the last bytes for the end of the response (7 of 30; then 0 of 200).
CUT_AFTER_S = 0.05
# Of a file that is not sent by sendfile.
BLOCK_BYTES = 1 << 16
BYTES = (bytes, bytearray, memoryview)
# What ends a line of the head, or may.
LINE_ENDS = re.compile(r"[\r\n\0]")
# A response of these has no body (RFC 9110 6.4.1): gevent and Tornado break off where an application gives one.
BODILESS = re.compile(r"1\d\d|204|304")


def as_bytes(part: Any) -> bytes:
    """Return a part of a body as bytes. Raises TypeError if it is not made of bytes."""
    if type(part) is bytes:
        return part
    if isinstance(part, BYTES):
        return bytes(cast("bytes", part))
    raise TypeError(f"the application's response has a part of type {type(part).__name__}, which should be bytes")


def check_head(status: str, headers: list[tuple[str, str]]) -> None:
    """Raise ValueError for a line break or NUL: the client would take what follows for another header or the body."""
    if LINE_ENDS.search(status):
        raise ValueError(f"the status {status!r} of the application's response contains a line break or NUL")
    for name, value in headers:
        if LINE_ENDS.search(name) or LINE_ENDS.search(value):
            # Not the value: it may be a secret.
            raise ValueError(f"the header {name!r} of the application's response contains a line break or NUL")


class Response:
    """The response to one request, as an iterable for the gateway. What it raises is always an Exception."""

    def __init__(self, guard: Guard, entry: int, fd: int, environ: dict[str, Any], start_response: Any) -> None:
        self.guard, self.entry, self.fd = guard, entry, fd
        self.environ, self.gateway_start_response = environ, start_response
        # What the application gave start_response last, and what the gateway's returned when it was given that.
        self.head: tuple[str, list[tuple[str, str]]] | None = None
        self.gateway_write: Callable[[bytes], object] | None = None
        # Bytes that may follow; None where nothing limits them here.
        self.left: int | None = None
        self.source: Any = None
        self.parts: Iterator[Any] = iter(())
        # A part that was already fetched from the iterator.
        self.first: bytes | None = None

    def run(self, wsgi: Wsgi, *, counts: bool) -> Any:
        """Call the application and fetch its first part: a generator does nothing before.

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
                    self.begin()
                    self.guard.requests.respond(self.entry)
                    if self.source.is_sent_whole(self.left):
                        return self.source
                is_one_part = isinstance(self.source, BYTES)
                self.parts = iter((self.source,) if is_one_part else self.source)
                # Until there are bytes, the application may begin another response.
                self.first = next((part for each in self.parts if (part := as_bytes(each))), b"")
            # A WebSocket has none: the application has spoken with the client by itself.
            if self.head or self.first or "HTTP_UPGRADE" not in self.environ:
                self.begin()
        except BaseException as error:  # noqa: BLE001  whatever an application raises
            return self.fail(error)
        if counts:
            self.guard.typical_s += WEIGHT * (monotonic() - began - self.guard.typical_s)
        self.guard.requests.respond(self.entry)
        return self

    def fail(self, error: BaseException) -> list[bytes]:
        """Respond with 500 if nothing was sent. Raises an Exception if the gateway does that itself."""
        try:
            self.close()
        except Exception as closing:  # noqa: BLE001  report the first exception
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
        """See PEP 3333. The gateway gets status and headers with the first bytes: till then, others replace them."""
        if self.gateway_write:
            raise exc_info[1] if exc_info else RuntimeError("the application began a second response")
        check_head(status, headers)
        # uWSGI takes no lists.
        self.head = status, [(name, value) for name, value in headers]
        return self.write

    def begin(self) -> Callable[[bytes], object]:
        """Give the gateway status and headers, once. Raises RuntimeError where the application gave none."""
        if self.gateway_write:
            return self.gateway_write
        if not self.head:
            raise RuntimeError("the application did not call start_response")
        status, headers = self.head
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        if BODILESS.match(status):
            self.left = 0
            headers = [each for each in headers if each[0].lower() != "content-length"]
        elif self.guard.is_uwsgi and lengths and lengths[0].isdecimal():
            # The others leave out what is more; a proxy would take it for the beginning of another response.
            self.left = int(lengths[0])
        write: Callable[[bytes], object] = self.gateway_start_response(status, headers)
        self.gateway_write = write
        return write

    def write(self, part: Any) -> None:
        """See PEP 3333."""
        if part := as_bytes(part):
            self.guard.requests.respond(self.entry)
            self.begin()(self.limit(part))

    def limit(self, part: bytes) -> bytes:
        """Return as much of a part of the body as there may still be."""
        if self.left is not None:
            part = part[: self.left]
            self.left -= len(part)
        return part

    def wrap_file(self, file: Any, *size: int) -> Any:
        """See PEP 3333. uWSGI sends the file by itself, if it comes back as it was given."""
        return self.gateway_file_wrapper(File(file, self, *size), *size)

    def __iter__(self) -> Response:
        return self

    def __next__(self) -> bytes:
        if (first := self.first) is not None:
            self.first = None
            return self.limit(first)
        try:
            with self.guard:
                return self.limit(as_bytes(next(self.parts)))
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
    """What an application gave wsgi.file_wrapper of uWSGI. Closing it ends the request.

    An application may also iterate over it, as Werkzeug does to send a range.
    """

    def __init__(self, file: Any, response: Response, block_bytes: int = BLOCK_BYTES) -> None:
        self._file, self._response, self._block_bytes = file, response, block_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> File:
        return self

    def __next__(self) -> bytes:
        if part := self._file.read(self._block_bytes):
            return part
        raise StopIteration

    def is_sent_whole(self, length: int | None) -> bool:
        """Return whether its bytes on disk are the body, all of them, as uWSGI's sendfile sends them.

        A file may stand elsewhere than at its first byte, and one of gzip gives others than are on disk.
        """
        try:
            size = os.fstat(self._file.fileno()).st_size
            return self._file.tell() == 0 and length in (None, size)
        except (AttributeError, OSError, ValueError):
            return False

    def close(self) -> None:
        """Close the response. uWSGI calls this when it has sent the file."""
        self._response.source = self._file
        self._response.close()


def as_exception(error: BaseException) -> Exception:
    """Return the error as one that ends a request and not its process."""
    if isinstance(error, Exception):
        return error
    wrapper = RuntimeError(f"the application raised {type(error).__name__}, which ends this request alone")
    wrapper.__cause__ = error
    return wrapper
