"""What uWSGI loads: the application of a release, answering 500 where that raises before it has sent anything.

uWSGI alone would close the connection without an answer, which Nginx takes for a server that fails. The other gateways
answer 500 themselves.
"""

from __future__ import annotations

import importlib
import itertools
import operator
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import uwsgi  # pyright: ignore  only inside of it

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
# Nothing of the application runs while these are sent.
DONE = (list, tuple, bytes)


class Answer:
    """An iterable whose first part was asked for already."""

    def __init__(self, parts: Iterator[bytes], close: Callable[[], object]) -> None:
        self.parts, self.close = parts, close

    def __iter__(self) -> Iterator[bytes]:
        return self.parts


def answered(wsgi: Wsgi) -> Wsgi:
    """The same callable, but for what it raises before anything was sent."""

    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        close: Callable[[], object] = int
        try:
            parts = wsgi(environ, start_response)
            # What wsgi.file_wrapper gave goes by sendfile only if it comes back as it is; it has `read`.
            if isinstance(parts, DONE) or hasattr(parts, "read"):
                return parts
            close = getattr(parts, "close", close)
            # A generator does nothing before it is asked for a part, which uWSGI would do next.
            rest = iter(parts)
            return Answer(itertools.chain((next(rest, b""),), rest), close)
        except Exception:  # noqa: BLE001  whatever an application raises
            traceback.print_exc()
            try:
                # Takes the place of what the application began.
                start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
                return [b"Internal Server Error\n"]
            except OSError:
                # Some was sent: the answer ends here, and is shorter than it said.
                return []
            finally:
                close()

    return call


module, _, name = uwsgi.opt["application"].decode().partition(":")  # pyright: ignore
application = answered(operator.attrgetter(name)(importlib.import_module(module)))  # pyright: ignore
