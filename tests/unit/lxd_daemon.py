"""A made-up LXD: answers like the REST API of the real one over a unix socket, and keeps what it is told in dicts."""

from __future__ import annotations

import hashlib
import json
import re
import socketserver
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Thing = dict[str, Any]
# What a hook is given: the parsed body of the request (None where there is none).
Hook = Callable[[Any], object]
KINDS = ("instances", "networks", "network-acls", "images", "images/aliases", "storage-pools")
# Work that LXD does in an operation; all else it does at once.
IN_OPERATIONS = re.compile(r"(POST|PUT|PATCH|DELETE) /1.0/instances.*|(POST|DELETE) /1.0/images(/[^/]+)?")


class Refused(Exception):
    """The answer to a request is an error. In an operation: the operation fails with the text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Hangs(Exception):
    """The operation does not end."""


@dataclass
class Daemon:
    """things: kind -> name -> thing as LXD describes it. calls: every request that changes something, in order.

    consoles: instance -> its console. raw: path -> what GET answers there, whatever it is.
    """

    folder: Path
    things: dict[str, dict[str, Thing]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    calls: list[str] = field(default_factory=list[str])
    consoles: dict[str, str] = field(default_factory=dict[str, str])
    raw: dict[str, bytes] = field(default_factory=dict[str, bytes])
    _hooks: list[tuple[str, list[Hook]]] = field(default_factory=list[tuple[str, list[Hook]]])
    _operations: list[Thing] = field(default_factory=list[Thing])

    @property
    def socket(self) -> Path:
        return self.folder / "unix.socket"

    def before(self, request: str, *hooks: Hook) -> None:
        """Call hooks, one at each request that matches ("PUT /1.0/instances/.*"), before it is done; then no more."""
        self._hooks.append((request, list(hooks)))

    def refuse(self, request: str, code: int, text: str, *, times: int = 1) -> None:
        """Answer the next such requests with an error."""

        def hook(_body: Any) -> None:
            raise Refused(code, text)

        self.before(request, *[hook] * times)

    def addresses(self) -> set[str]:
        """Return the addresses of running instances."""
        running = (each for each in self.things["instances"].values() if each["status"] == "Running")
        return {device["ipv4.address"] for each in running for device in _nics(each)}

    def answer(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, str]:
        """Return HTTP status, content and ETag."""
        path = urlsplit(target).path
        if method == "GET" and path in self.raw:
            return 200, self.raw[path], ""
        if path.startswith("/1.0/operations/"):
            return 200, _sync(self._operations[int(path.split("/")[3])]), ""
        if method != "GET":
            self.calls.append(f"{method} {unquote(path)}")
        try:
            found = self._do(method, path, body, headers)
        except Refused as refused:
            error = {"type": "error", "error": str(refused), "error_code": refused.code, "metadata": None}
            return refused.code, json.dumps(error).encode(), ""
        if isinstance(found, bytes):
            return 200, found, ""
        if IN_OPERATIONS.fullmatch(f"{method} {path}"):
            operation = f"/1.0/operations/{len(self._operations) - 1}"
            return 202, json.dumps({"type": "async", "operation": operation, "metadata": {}}).encode(), ""
        return 200, _sync(found), _etag(found)

    def _do(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
        is_json = headers.get("Content-Type") == "application/json"
        content: Any = json.loads(body) if is_json else body or None
        if not IN_OPERATIONS.fullmatch(f"{method} {path}"):
            self._hook(method, path, content)
            return self._work(method, path, content, headers)
        outcome: Thing = {"status": "Success", "status_code": 200, "err": "", "metadata": None}
        try:
            self._hook(method, path, content)
            outcome["metadata"] = self._work(method, path, content, headers)
        except Refused as refused:
            # What is not there, or not as it was, LXD says before it starts an operation.
            if refused.code in (404, 412):
                raise
            outcome |= {"status": "Failure", "status_code": refused.code, "err": str(refused)}
        except Hangs:
            outcome |= {"status": "Running", "status_code": 103}
        self._operations.append(outcome)
        return None

    def _hook(self, method: str, path: str, content: Any) -> None:
        for request, hooks in self._hooks:
            if hooks and re.fullmatch(request, f"{method} {path}"):
                hooks.pop(0)(content)
                return

    def _work(self, method: str, path: str, content: Any, headers: Mapping[str, str]) -> Any:
        parts = [unquote(part) for part in path.split("/")[2:]]
        if not parts:
            return {"api_version": "1.0"}
        kind = "images/aliases" if parts[:2] == ["images", "aliases"] else parts[0]
        names = parts[2:] if kind == "images/aliases" else parts[1:]
        there = self.things[kind]
        if not names:
            return list(there.values()) if method == "GET" else self._post(kind, content, headers)
        name, *rest = names
        if name not in there:
            raise Refused(404, f"{kind.rpartition('/')[2].removesuffix('s').capitalize()} not found")
        thing = there[name]
        if rest == ["state"] and method == "PUT":
            thing["status"] = {"start": "Running", "stop": "Stopped"}[content["action"]]
            return None
        if rest:
            return self._part(name, rest[0])
        if method == "PUT" and headers.get("If-Match") not in (None, _etag(thing)):
            raise Refused(412, "Precondition failed: ETag doesn't match")
        if method == "PUT":
            there[name] = content
        elif method == "PATCH":
            for key, value in content.items():
                thing[key] = {**thing[key], **value}
        elif method == "DELETE":
            self._delete(kind, name)
        return thing

    def _part(self, name: str, part: str) -> Any:
        if part == "console":
            if name not in self.consoles:
                raise Refused(404, "open console.log: no such file")
            return self.consoles[name].encode()
        if part == "state":
            return {"state": "up"}
        return [
            {"hostname": each["name"], "address": device["ipv4.address"]}
            for each in self.things["instances"].values()
            for device in _nics(each)
            if device["network"] == name
        ]

    def _post(self, kind: str, content: Any, headers: Mapping[str, str]) -> Any:
        if kind == "images":
            fingerprint = hashlib.sha256(b"".join(_multipart(content, headers))).hexdigest()
            self.things[kind][fingerprint] = {"fingerprint": fingerprint, "aliases": [], "properties": {}}
            return {"fingerprint": fingerprint}
        if kind == "images/aliases":
            self.things["images"][content["target"]]["aliases"].append({"name": content["name"]})
        if kind == "instances":
            used = {device["ipv4.address"] for each in self.things[kind].values() for device in _nics(each)}
            for device in _nics(content):
                if device["ipv4.address"] in used:
                    raise Refused(400, f'IP address "{device["ipv4.address"]}" already defined on another NIC')
            content = {**content, "status": "Stopped"}
        self.things[kind][content["name"]] = content
        return None

    def _delete(self, kind: str, name: str) -> None:
        if kind == "instances" and self.things[kind][name]["status"] == "Running":
            raise Refused(400, "The instance is currently running")
        gone = self.things[kind].pop(name)
        for alias in gone.get("aliases", []):
            del self.things["images/aliases"][alias["name"]]


def _nics(instance: Thing) -> Iterator[Thing]:
    return (device for device in instance["devices"].values() if device["type"] == "nic")


def _multipart(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the contents of the parts metadata and rootfs."""
    boundary = headers["Content-Type"].partition("boundary=")[2].encode()
    first, *parts, last = body.split(b"\r\n--" + boundary)
    assert (first, last) == (b"", b"--\r\n")
    heads = [part.partition(b"\r\n\r\n") for part in parts]
    assert [re.findall(rb' name="(\w+)"', head) for head, _, _ in heads] == [[b"metadata"], [b"rootfs"]]
    return [content for _, _, content in heads]


def _sync(metadata: Any) -> bytes:
    response = {"type": "sync", "status": "Success", "status_code": 200, "operation": "", "metadata": metadata}
    return json.dumps(response).encode()


def _etag(thing: Any) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.lock = daemon, threading.Lock()
        super().__init__(str(daemon.socket), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with self.server.lock:
            status, content, etag = self.server.daemon.answer(self.command, self.path, body, dict(self.headers.items()))
        # A client may have given up.
        with suppress(BrokenPipeError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", etag)
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


@contextmanager
def serving() -> Generator[Daemon]:
    """Run a daemon in a folder of its own, whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="lxd-") as folder:
        daemon = Daemon(Path(folder))
        with _Server(daemon) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield daemon
            finally:
                server.shutdown()
                thread.join()
