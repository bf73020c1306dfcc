"""Requests that no honest client sends, byte by byte, and what each proxy makes of them."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

# Seconds without a byte after which a connection that stays open has said all.
IDLE_S = 1.5
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
# In each request that must not run: a path whose query leaves a line on the server.
SMUGGLED = "/?id=smuggled"
_INNER = f"GET {SMUGGLED} HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Attack:
    """sent: the bytes. nginx, apache: statuses of the responses, in order; none where the connection just closes.

    body: a part of the last response's body where it is 200. runs: whether a request with SMUGGLED may run.
    """

    name: str
    sent: bytes
    nginx: tuple[int, ...]
    apache: tuple[int, ...]
    body: bytes = b""


def statuses(response: bytes) -> tuple[int, ...]:
    """Return the statuses of all responses, in order; interim ones are left out."""
    return tuple(int(found) for found in _STATUS.findall(response) if found != b"100")


def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes and read until the proxy closes, or says nothing more."""
    received: list[bytes] = []
    with socket.create_connection(("127.0.0.1", port), timeout=IDLE_S) as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(65536):
                received.append(part)
        except (TimeoutError, ConnectionError):
            pass
    return b"".join(received)


def request(line: str = "GET / HTTP/1.1", *headers: str, body: str = "", host: str = "Host: fleet.example") -> bytes:
    """Return a request that asks for its connection to be closed."""
    lines = [line, *([host] if host else []), *headers, "Connection: close"]
    return "".join(f"{each}\r\n" for each in lines).encode("latin-1") + b"\r\n" + body.encode("latin-1")


def _post(*headers: str, body: str = "") -> bytes:
    return request("POST / HTTP/1.1", *headers, body=body)


# No attack: the application reads the whole body.
CHUNKED = Attack(
    "chunked", _post("Transfer-Encoding: chunked", body="5\r\nabcde\r\n0\r\n\r\n"), (200,), (200,),
    hashlib.sha256(b"abcde").hexdigest().encode(),
)  # fmt: skip


def _lengths() -> Iterator[Attack]:
    """Yield messages with an ambiguous end, by which a request can be smuggled (RFC 9112 6.3, 11.2)."""
    chunked = "Transfer-Encoding: chunked"
    both = f"0\r\n\r\n{_INNER}"
    # Apache drops the length before it asks any rule, and the connection ends (RFC 9112 6.3).
    yield Attack("length and chunked", _post(f"Content-Length: {len(both)}", chunked, body=both), (400,), (200,))
    yield Attack("chunked and a short length", _post(chunked, "Content-Length: 4", body=both), (400,), (200,))
    yield Attack("two lengths", _post("Content-Length: 5", "Content-Length: 6", body="abcdef"), (400,), (400,))
    yield Attack("two equal lengths", _post("Content-Length: 5", "Content-Length: 5", body="abcde"), (400,), (400,))
    for value in ("5, 6", "5, 5", "+5", "-5", "0x5", "5a", "", "5 5", "9" * 40, "1e1", "5\x0b"):
        yield Attack(f"length {value!r:.12}", _post(f"Content-Length: {value}", body="abcde"), (400,), (400,))
    for value in ("xchunked", "chunked, identity", "chunked;q=1", "\x0bchunked"):
        sent = _post(f"Transfer-Encoding: {value}", "Content-Length: 5", body="abcde")
        yield Attack(f"encoding {value!r}", sent, (501,), (400,))
    for value in ("identity, chunked", "gzip, chunked"):
        sent = _post(f"Transfer-Encoding: {value}", "Content-Length: 5", body="abcde")
        yield Attack(f"encoding {value!r}", sent, (501,), (411,))
    yield Attack("encoding twice", _post(chunked, chunked, body="0\r\n\r\n"), (400,), (411,))
    yield CHUNKED
    yield Attack("encoding, blank before colon", _post("Transfer-Encoding : chunked", body=both), (400,), (400,))
    yield Attack("encoding with underscore", _post("Transfer_Encoding: chunked", "Content-Length: 0"), (200,), (200,))
    yield Attack("encoding in a folded line", _post("Transfer-Encoding:\r\n chunked", body=both), (400,), (200,))
    yield Attack(
        "encoding of HTTP/1.0", request("POST / HTTP/1.0", chunked, body="5\r\nabcde\r\n0\r\n\r\n"), (400,), (411,)
    )
    bodies = ("zz\r\nabc\r\n0\r\n\r\n", "-1\r\nabc\r\n0\r\n\r\n", "ffffffffffffffffff\r\na\r\n0\r\n\r\n",
              "3\r\nabcX\r\n0\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", "+3\r\nabc\r\n0\r\n\r\n",
              " 3\r\nabc\r\n0\r\n\r\n")  # fmt: skip
    for body in bodies:
        yield Attack(f"chunk {body[:6]!r}", _post(chunked, body=body), (400,), (413 if body[0] == "f" else 400,))
    yield Attack("body of a GET", request("GET / HTTP/1.1", "Content-Length: 5", body="abcde"), (200,), (200,))
    length = f"Content-Length: {len(_INNER) + 99}"
    yield Attack("length that never comes", _post(length, body=_INNER), (), ())


def _lines() -> Iterator[Attack]:
    """Yield request lines and header lines that no grammar allows (RFC 9112 3, 5)."""
    yield Attack("HTTP/0.9", b"GET /\r\n", (), (), b'{"version"')
    yield Attack("HTTP/2.0", request("GET / HTTP/2.0"), (505,), (200,))
    yield Attack("HTTP/1.2", request("GET / HTTP/1.2"), (200,), (200,))
    yield Attack("HTTP/9.9", request("GET / HTTP/9.9"), (505,), (200,))
    yield Attack("no such protocol", request("GET / FTP/1.1"), (400,), (400,))
    yield Attack("no version", request("GET / HTTP/"), (400,), (400,))
    yield Attack("small method", request("get / HTTP/1.1"), (400,), (200,))
    yield Attack("method with colon", request("GE:T / HTTP/1.1"), (400,), (400,))
    yield Attack("blank before the method", request(" GET / HTTP/1.1"), (400,), (400,))
    yield Attack("two blanks", request("GET  /  HTTP/1.1"), (200,), (400,))
    yield Attack("tab for a blank", request("GET\t/\tHTTP/1.1"), (400,), (400,))
    yield Attack("NUL in the path", request("GET /\0 HTTP/1.1"), (400,), (400,))
    yield Attack("control character in the path", request("GET /\x01 HTTP/1.1"), (400,), (400,))
    yield Attack("no host", request(host=""), (400,), (400,))
    yield Attack("two hosts", request(host="Host: a\r\nHost: b"), (400,), (400,))
    for host in ("a b", "a/b", "../a", "a\0"):
        yield Attack(f"host {host!r}", request(host=f"Host: {host}"), (400,), (400,))
    # Nginx takes these for names that no server has: an application must know its own (ALLOWED_HOSTS).
    for host in ("a@b", "a:b:c", "a\\b", "[::1", "a<b"):
        yield Attack(f"host {host!r}", request(host=f"Host: {host}"), (200,), (400,))
    yield Attack("blank before a colon", request("GET / HTTP/1.1", "X-A : 1"), (400,), (400,))
    yield Attack("header without a colon", request("GET / HTTP/1.1", "X-A"), (200,), (400,))
    yield Attack("header without a name", request("GET / HTTP/1.1", ": 1"), (400,), (400,))
    yield Attack("folded header", request("GET / HTTP/1.1", "X-A: 1\r\n X-B: 2"), (400,), (200,))
    yield Attack(
        "first header folded", b"GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\nConnection: close\r\n\r\n", (400,), (400,)
    )
    yield Attack("NUL in a header", request("GET / HTTP/1.1", "X-A: a\0b"), (400,), (400,))
    yield Attack("bare CR in a header", request("GET / HTTP/1.1", f"X-A: a\r{SMUGGLED}"), (400,), (400,))
    yield Attack("CR LF as text in the path", request("GET /%0d%0aX-A:%201 HTTP/1.1"), (200,), (200,))
    yield Attack("TLS to a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), (400,), ())
    yield Attack("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), (400,), (400,))
    yield Attack("PROXY protocol", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + request(), (400,), (400,))
    yield Attack("uwsgi packet", b"\x00\x0c\x00\x00\x08\x00UWSGI_FILE\x06\x00/x.py\0", (400,), ())


def _sizes() -> Iterator[Attack]:
    """Yield requests of many sizes: what is too large is rejected, and what is accepted fits the gateway."""
    yield Attack("URL of 13,000 bytes", request(f"GET /{'a' * 13_000} HTTP/1.1"), (200,), (414,))
    yield Attack("URL of 16,200 bytes", request(f"GET /{'a' * 16_200} HTTP/1.1"), (414,), (414,))
    yield Attack("URL of 100,000 bytes", request(f"GET /{'a' * 100_000} HTTP/1.1"), (414,), (414,))
    yield Attack("header of 14,000 bytes", request("GET / HTTP/1.1", f"X-A: {'a' * 14_000}"), (200,), (200,))
    yield Attack("header of 70,000 bytes", request("GET / HTTP/1.1", f"X-A: {'a' * 70_000}"), (400,), (400,))
    many = [f"X-{number}: {'a' * 13_900}" for number in range(4)]
    for number, nginx in ((2, 200), (3, 200), (4, 400)):
        sent = request("GET / HTTP/1.1", *many[:number])
        yield Attack(f"{number} headers of 13,900 bytes", sent, (nginx,), (200,))
    for number, nginx, apache in ((95, 200, 200), (125, 200, 400), (900, 200, 400), (3000, 400, 400), (9000, 400, 400)):
        sent = request("GET / HTTP/1.1", *(f"{each:x}:" for each in range(number)))
        yield Attack(f"{number} empty headers", sent, (nginx,), (apache,))
    yield Attack("cookies of 12,000 bytes", request("GET / HTTP/1.1", *["Cookie: a=" + "b" * 4000] * 3), (200,), (200,))


def _paths() -> Iterator[Attack]:
    """Yield paths that lead out of a site, or mean another path behind the proxy than before it."""
    out = ("/../etc/passwd", "/static/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/a/%2e%2e/%2e%2e/etc/passwd")
    for path in out:
        yield Attack(f"path {path}", request(f"GET {path} HTTP/1.1"), (400,), (400,))
    for path, apache in (("/%00", 404), ("/a%00.html", 404), ("/%", 400), ("/%zz", 400), ("/%u0041", 400)):
        yield Attack(f"path {path}", request(f"GET {path} HTTP/1.1"), (400,), (apache,))
    inside = {"/a/../b": b'"/b"', "//b": b'"/b"', "///b//c": b'"/b//c"',
              "/./b": b'"/b"', "/%2e/b": b'"/b"', "/a;/b": b'"/a;/b"',
              "/a%2fb": b'"/a/b"', "/a\\..\\b": b'"/a\\\\..\\\\b"', "/%252e%252e/b": b'"/%2e%2e/b"',
              "/.error%20": b'"/.error "', "/%c0%ae%c0%ae/b": b"/b"}  # fmt: skip
    for path, seen in inside.items():
        yield Attack(f"path {path}", request(f"GET {path} HTTP/1.1"), (200,), (200,), seen)
    yield Attack("the page of an error", request("GET /.error/503.html HTTP/1.1"), (404,), (404,))
    yield Attack(
        "absolute URL of another host", request("GET http://other.example/x HTTP/1.1"), (200,), (200,), b'"/x"'
    )
    yield Attack("absolute URL, other scheme", request("GET ftp://other.example/x HTTP/1.1"), (200,), (400,))
    yield Attack("absolute URL with a user", request("GET http://a:b@fleet.example/x HTTP/1.1"), (400,), (400,))
    yield Attack("no slash", request("GET x HTTP/1.1"), (400,), (400,))
    yield Attack("asterisk", request("GET * HTTP/1.1"), (400,), (400,))
    yield Attack("fragment", request("GET /a#b HTTP/1.1"), (200,), (400,))


def _methods() -> Iterator[Attack]:
    yield Attack("TRACE", request("TRACE / HTTP/1.1", "X-Secret: 1"), (405,), (405,))
    yield Attack("CONNECT to a host", request("CONNECT 127.0.0.1:22 HTTP/1.1"), (400,), (405,))
    yield Attack("CONNECT to a path", request("CONNECT / HTTP/1.1"), (405,), (400,))
    yield Attack("OPTIONS *", request("OPTIONS * HTTP/1.1"), (400,), (200,))
    for method in ("PUT", "DELETE", "PATCH", "PROPFIND", "BREW"):
        yield Attack(
            method, request(f"{method} / HTTP/1.1", "Content-Length: 0"), (200,), (200,), f'"{method}"'.encode()
        )
    yield Attack("a method of 2,000 bytes", request(f"{'A' * 2000} / HTTP/1.1"), (200,), (200,))


def _others() -> Iterator[Attack]:
    ranges = "Range: bytes=" + ",".join(f"{start}-" for start in range(1300))
    yield Attack("1,300 ranges", request("GET / HTTP/1.1", ranges), (200,), (200,))
    yield Attack("a range that ends before it begins", request("GET / HTTP/1.1", "Range: bytes=9-1"), (200,), (200,))
    yield Attack(
        "upgrade to h2c", request("GET / HTTP/1.1", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), (200,), (200,)
    )
    yield Attack(
        "upgrade to websocket",
        request("GET / HTTP/1.1", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        (200,),
        (200,),
    )
    yield Attack("an expectation nobody has", _post("Expect: 200-ok", "Content-Length: 0"), (200,), (417,))
    yield Attack("100-continue", _post("Expect: 100-continue", "Content-Length: 5", body="abcde"), (200,), (200,))
    pipelined = request().replace(b"Connection: close\r\n", b"") * 9 + request()
    yield Attack("ten requests at once", pipelined, (200,) * 10, (200,) * 10)
    yield Attack(
        "a good one, then garbage",
        request().replace(b"Connection: close\r\n", b"") + b"\0\0\r\n\r\n",
        (200, 400),
        (200, 400),
    )
    yield Attack(
        "hop-by-hop header of ours",
        request("GET /headers HTTP/1.1", "Connection: X-Real-IP, X-Forwarded-For"),
        (200,),
        (200,),
        b"HTTP_X_REAL_IP",
    )


ATTACKS = [*_lengths(), *_lines(), *_sizes(), *_paths(), *_methods(), *_others()]
