"""LXD's REST API over its unix socket, as little of it as a fleet needs. Incus speaks the same and is found as well.

Plain http.client: pylxd is untyped and brings an unmaintained websocket library. Exec alone needs websockets, and the
`lxc` command does that (see transport.py).
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

# Everything except the work itself: connecting, sending, the response to a small request.
REQUEST_TIMEOUT_S = 30.0
OPERATION_TIMEOUT_S = 120.0
# LXD lists who uses an ACL by reading every ACL. It fails so when another client removes one meanwhile. And it changes
# an instance once at a time.
PASSING_ERRORS = ("Failed getting ACL usage", "A matching non-reusable operation")
PAUSES_S = (0.1, 0.3, 1.0, 3.0)
SOCKETS = (
    "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/lib/incus/unix.socket",
)


class LxdError(Exception):
    """LXD rejected or could not do something. The text names the thing, the phase and the remedy."""


class Unavailable(LxdError):
    """The daemon does not respond."""


class NotFound(LxdError):
    """LXD has no such object."""


class Stale(LxdError):
    """What was read has changed since; read again."""


def find_socket(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the daemon's socket: $LXD_DIR first, then where Debian, the snap and Incus put it. Raises Unavailable."""
    candidates = [Path(environment["LXD_DIR"]) / "unix.socket"] if environment.get("LXD_DIR") else []
    candidates += [Path(path) for path in SOCKETS]
    for candidate in candidates:
        if candidate.is_socket():
            return candidate
    raise Unavailable(
        "LXD is not there: no socket at "
        + ", ".join(str(path) for path in candidates)
        + ". `make setup` installs and starts it; where systemd runs it, `systemctl start lxd` (or incus)."
    )


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("lxd", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """One daemon. Each request has a connection of its own, so threads may share a client."""

    def __init__(self, path: Path | None = None) -> None:
        self.socket = path or find_socket()

    def command(self) -> list[str]:
        """Return the command line client of this daemon. Raises LxdError where it is missing."""
        name = "incus" if "incus" in self.socket.parts else "lxc"
        found = shutil.which(name)
        if found is None:
            raise LxdError(f"the command {name} is not on the PATH; install it (Debian: lxd-client; `make setup` does)")
        return [found]

    def command_environment(self) -> dict[str, str]:
        """Return the environment under which that command reaches this daemon and no other."""
        return {**os.environ, "LXD_SOCKET": str(self.socket), "INCUS_SOCKET": str(self.socket)}

    def get(self, path: str) -> Any:
        """Return the metadata at path. Raises NotFound."""
        return self.request("GET", path)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = OPERATION_TIMEOUT_S,
    ) -> Any:
        """Send one request, wait for the operation it may start, and return the metadata (of either).

        body: something that JSON can contain, or an iterable of bytes with a Content-Length among the headers.
        Raises NotFound, Stale (an If-Match header that no longer matches), Unavailable or LxdError.
        """
        response, _ = self._send(method, path, body, dict(headers or {}), REQUEST_TIMEOUT_S)
        return self._finish(method, path, response, timeout_s)

    def text(self, path: str) -> str:
        """Return the unchanged content of a file or log from LXD. Raises LxdError."""
        content, _ = self._exchange("GET", path, None, {}, REQUEST_TIMEOUT_S)
        if content.startswith(b'{"') and b'"error"' in content:
            self._parse_json("GET", path, content)
        return content.decode(errors="replace")

    def edit(self, path: str, change: Callable[[dict[str, Any]], bool]) -> bool:
        """Read what is at path, let change() alter it, write it back; again if another client wrote in between.

        change returns False to leave all as it is; so does edit then.
        """
        for _ in range(20):
            response, etag = self._send("GET", path, None, {}, REQUEST_TIMEOUT_S)
            content: dict[str, Any] = response["metadata"]
            if not change(content):
                return False
            try:
                self.request("PUT", path, content, headers={"If-Match": etag})
            except Stale:
                continue
            return True
        raise LxdError(f"LXD: {path} keeps changing while it is being edited; try again")

    def _send(
        self, method: str, path: str, body: Any, headers: dict[str, str], timeout_s: float
    ) -> tuple[dict[str, Any], str]:
        """Send a request, again after an error that passes; return the parsed response and its ETag."""
        payload: bytes | Iterable[bytes] | None = body
        if body is not None and "Content-Length" not in headers:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        pauses = list(PAUSES_S)
        while True:
            content, etag = self._exchange(method, path, payload, headers, timeout_s)
            try:
                return self._parse_json(method, path, content), etag
            except LxdError as error:
                if not any(each in str(error) for each in PASSING_ERRORS) or not pauses:
                    raise
            time.sleep(pauses.pop(0))

    def _exchange(
        self, method: str, path: str, payload: bytes | Iterable[bytes] | None, headers: dict[str, str], timeout_s: float
    ) -> tuple[bytes, str]:
        """Send a request; return the raw response and its ETag. Raises Unavailable."""
        connection = _Connection(self.socket, timeout_s)
        try:
            connection.request(method, path, body=payload, headers=headers)
            response = connection.getresponse()
            return response.read(), response.headers.get("ETag", "")
        except TimeoutError as error:
            raise Unavailable(
                f"LXD did not respond to {method} {path} in {timeout_s:.0f} s; see its log, restart it"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"LXD does not respond at {self.socket} ({method} {path}: {error}). "
                "Start it (`make setup`, or `systemctl start lxd`), then run the same command again."
            ) from error
        finally:
            connection.close()

    @staticmethod
    def _parse_json(method: str, path: str, content: bytes) -> dict[str, Any]:
        """Return the parsed response; raise what it reports as an error."""
        try:
            response: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise LxdError(
                f"LXD responded to {method} {path} with something that is not JSON: {content[:200]!r}"
            ) from error
        if response.get("type") == "error":
            raise _error(method, path, int(response.get("error_code", 0)), str(response.get("error", "")))
        return response

    def _finish(self, method: str, path: str, response: dict[str, Any], timeout_s: float) -> Any:
        """Wait for the operation that a response may have started; return the metadata."""
        if response.get("type") != "async":
            return response.get("metadata")
        operation = response["operation"]
        waited, _ = self._send(
            "GET", f"{operation}/wait?timeout={int(timeout_s)}", None, {}, timeout_s + REQUEST_TIMEOUT_S
        )
        outcome: dict[str, Any] = waited["metadata"]
        if outcome["status"] == "Success":
            return outcome.get("metadata") or {}
        if outcome["status"] in ("Running", "Pending"):
            raise LxdError(
                f"LXD did not finish {method} {path} in {timeout_s:.0f} s; see `lxc operation list` and its log"
            )
        text = str(outcome.get("err", ""))
        # An operation reports what it missed in words only.
        code = 404 if text.lower().endswith("not found") else int(outcome.get("status_code", 0))
        raise _error(method, path, code, text)


def _error(method: str, path: str, code: int, text: str) -> LxdError:
    """Return the exception for an error that LXD reported."""
    kind = {404: NotFound, 412: Stale}.get(code, LxdError)
    return kind(f"LXD: {method} {path.partition('?')[0]}: {text}")


def url(*parts: str, **query: str) -> str:
    """Return an API path of quoted parts.

    url("instances", "a b", recursion="1") is /1.0/instances/a%20b?recursion=1.
    """
    path = "/".join(["/1.0", *(quote(part, safe="") for part in parts)])
    return f"{path}?{urlencode(query)}" if query else path
