"""The smallest thing that can be deployed: a PEP 3333 callable, with a middleware around it."""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers every path; / says who it is."""
    if environ["PATH_INFO"] not in ("/", "/healthz"):
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"nothing here\n"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    server, release = os.environ.get("WSGI_FLEET_SERVER", "-"), os.environ.get("WSGI_FLEET_RELEASE", "-")
    return [f"Hello from {server}, release {release}\n".encode()]


def timed(inner: Application) -> Application:
    """Middleware: says in a header how long the application took."""

    def outer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        begun = time.perf_counter()

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            milliseconds = (time.perf_counter() - begun) * 1000
            return start_response(status, [*headers, ("X-Runtime-Ms", f"{milliseconds:.2f}")], *rest)

        return inner(environ, start)

    return outer


app = timed(application)
