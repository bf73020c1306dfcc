"""Bodies of unknown length, sent to the real Apache: they arrive whole, with their length, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import apache_log
import pytest

from harness.stack import eventually, free_port
from rendering.apache import SPOOL_PORT
from rendering.error_pages import error_page_files
from rendering.upstream import Upstream
from settings.error_pages import ErrorPages
from settings.route import Route
from tests.unit.listening import wait_until_listening
from tests.unit.proxy_settings import settings_of
from tests.unit.site_text import site_text
from tests.unit.stack_blocks import ROOT

MIB = 1 << 20
# Both protocols, each on a path of its own.
PATHS = ("/", "/http/")
REWRITES = [{"path": "/old/*", "to": "/new/*"}]
CHUNK = "5\r\nabcde\r\n0\r\n\r\n"
INSECURE = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
INSECURE.check_hostname, INSECURE.verify_mode = False, ssl.CERT_NONE
SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Apache:
    """An Apache that runs, with TLS. seen: of each request that an application got, its variables."""

    port: int
    folder: Path
    seen: list[dict[str, str]]

    def exchange(self, request: str, body: bytes | Iterator[bytes] = b"") -> bytes:
        """Send a request as it stands, and return all that comes until the end, or half a second of silence."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=20) as plain,
            INSECURE.wrap_socket(plain) as client,
        ):
            with contextlib.suppress(ConnectionError):
                client.sendall(request.encode())
                for part in [body] if isinstance(body, bytes) else body:
                    client.sendall(part)
            response = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                while part := client.recv(1 << 16):
                    response += part
                    client.settimeout(0.5)
            return response

    def post(self, path: str, size: int, *headers: str) -> tuple[int, Any]:
        """Send a chunked body of that size, and return the status and what the application said of it."""
        head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: a.example:8080", "Transfer-Encoding: chunked", *headers])
        response = self.exchange(f"{head}\r\n\r\n", chunks(size))
        text = response.partition(b"\r\n\r\n")[2]
        return int(response.split()[1]), json.loads(text) if text.startswith(b"{") else text


def statuses(response: bytes) -> list[str]:
    return [found.decode() for found in re.findall(rb"HTTP/1\.1 (\d+)", response)]


def chunks(size: int) -> Iterator[bytes]:
    for begin in range(0, size, 8000):
        part = b"x" * min(8000, size - begin)
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def read_uwsgi(file: BinaryIO) -> dict[str, str]:
    """Return the variables of a packet of the uwsgi protocol."""
    words: list[str] = []
    packet = file.read(struct.unpack("<H", file.read(4)[1:3])[0])
    while packet:
        length = 2 + struct.unpack("<H", packet[:2])[0]
        words.append(packet[2:length].decode("latin-1"))
        packet = packet[length:]
    return dict(zip(words[::2], words[1::2], strict=True))


def read_http(file: BinaryIO) -> dict[str, str]:
    """Return a request's line and headers by the names of uwsgi."""
    found = {"REQUEST_URI": file.readline().decode().split()[1]}
    while line := file.readline().strip().decode("latin-1"):
        name, _, value = line.partition(": ")
        found[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return found | {"CONTENT_LENGTH": found.get("HTTP_CONTENT_LENGTH", "")}


def serve(connection: socket.socket, protocol: str, seen: list[dict[str, str]]) -> None:
    """Answer with what was read of a body; as long as the request says that it is, as gateways do."""
    with connection, contextlib.suppress(OSError), connection.makefile("rb") as file:
        found = read_uwsgi(file) if protocol == "uwsgi" else read_http(file)
        seen.append(found)
        text = json.dumps({"size": len(file.read(int(found.get("CONTENT_LENGTH") or 0)))}).encode()
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


@contextlib.contextmanager
def application(protocol: str, seen: list[dict[str, str]]) -> Generator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0], protocol, seen), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def apache() -> Generator[Apache]:
    found = shutil.which("apache2")
    if found is None or os.getuid():
        pytest.skip("needs apache2, and root to start it")
    seen: list[dict[str, str]] = []
    with contextlib.ExitStack() as stack:
        ends = {
            f"{address}:8000": f"127.0.0.1:{stack.enter_context(application(protocol, seen))}"
            for address, protocol in (("10.0.0.1", "uwsgi"), ("10.0.0.2", "http"))
        }
        # Not below tmp_path: Apache's workers have another user.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        made = Apache(free_port(), folder, seen)
        command = configure(made, Path(found), ends)
        process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        stack.callback(process.terminate)
        wait_until_listening(process, made.port)
        yield made


def configure(made: Apache, binary: Path, ends: dict[str, str]) -> list[str]:
    """Write what Apache reads, with places and ports of this test. Return the command."""
    apps = [
        Upstream("a", ["10.0.0.1"], 60, "/well"),
        Upstream("b", ["10.0.0.2"], 60, "/well", Route(path="/http"), "http"),
        Upstream("gone", [], 60, "/well", Route(path="/gone")),
    ]
    plain = free_port()
    block = {"kind": "apache", "rewrites": REWRITES}
    given = {"max_body_mib": 4, "trusted_proxies": ["127.0.0.0/8"], "tls": {"self_signed": True}, "proxy": block}
    balancer = settings_of(given)
    places = {
        "/etc/wsgi-fleet": made.folder, "/etc/apache2/wsgi-fleet": made.folder / "sites",
        "/var/log/wsgi-fleet": made.folder, "/run/apache2": made.folder,
        "ServerRoot /etc/apache2": f"ServerRoot {made.folder}",
        "/usr/lib/apache2": binary.parents[1] / "lib/apache2", "/usr/sbin/apache2": binary,
        '"|/usr/local/lib/wsgi-fleet/apache_log.py"': made.folder / "access.log",
        "*:80>": f"127.0.0.1:{plain}>", "0.0.0.0:80": f"127.0.0.1:{plain}",
        "*:443": f"127.0.0.1:{made.port}", "0.0.0.0:443": f"127.0.0.1:{made.port}",
        f"127.0.0.1:{SPOOL_PORT}": f"127.0.0.1:{free_port()}",
    }  # fmt: skip
    site, main = site_text(balancer, apps), (ROOT / "templates/apache/apache2.conf").read_text()
    for old, new in {**ends, **places}.items():
        site, main = site.replace(old, str(new)), main.replace(old, str(new))
    for name in ("sites", "tls"):
        (made.folder / name).mkdir()
    shutil.copy(ROOT / "templates/apache/limit_body.lua", made.folder)
    for path, (_, text) in error_page_files(ErrorPages()).items():
        file = made.folder / Path(path).relative_to("/etc/wsgi-fleet")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    key = made.folder / "tls/site.pem"
    new_key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*new_key, "-subj", "/CN=a", "-keyout", key, "-out", f"{key}.crt"], check=True, capture_output=True)
    key.write_text(key.read_text() + Path(f"{key}.crt").read_text())
    (made.folder / "sites/site.conf").write_text(site)
    (made.folder / "main.conf").write_text(main)
    return [str(binary), "-f", str(made.folder / "main.conf"), "-DFOREGROUND"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [0, 5, 3_000_000, 4 * MIB])
def test_a_chunked_body_arrives_whole_and_has_a_length(apache: Apache, path: str, size: int) -> None:
    apache.seen.clear()
    assert apache.post(path, size) == (200, {"size": size})
    assert apache.seen[0]["CONTENT_LENGTH"] == str(size)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [4 * MIB + 1, 9_000_000])
def test_a_chunked_body_that_is_too_large_is_413_and_no_application_hears_of_it(
    apache: Apache, path: str, size: int
) -> None:
    apache.seen.clear()
    assert (apache.post(path, size)[0], apache.seen) == (413, [])


@pytest.mark.parametrize("path", PATHS)
def test_over_http_2_it_is_the_same(apache: Apache, path: str) -> None:
    for size, status in ((5, "200"), (4 * MIB + 1, "413")):
        apache.seen.clear()
        options = ["--http2", "--insecure", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
        command = ["curl", *options, "--upload-file", "-", f"https://127.0.0.1:{apache.port}{path}"]
        assert subprocess.run(command, input=b"x" * size, check=True, capture_output=True).stdout.decode() == status
        assert [seen["CONTENT_LENGTH"] for seen in apache.seen] == ["5"] * (status == "200")


@pytest.mark.parametrize(
    "path", ["//a%2Fb/%C3%A9%3Fc/../d?x=%3F&y=1", "/old/a%20b?q=1", "/http/a//b%2Fc?x=1", "/http/", "/http", "/gone/x"]
)
def test_an_application_is_told_the_same_as_with_a_length(apache: Apache, path: str) -> None:
    apache.seen.clear()
    head = f"POST {path} HTTP/1.1\r\nHost: a.example:8080\r\nX-Fleet-Server: x\r\n"
    chunked = apache.exchange(f"{head}Transfer-Encoding: chunked\r\n\r\n{CHUNK}")
    whole = apache.exchange(f"{head}Content-Length: 5\r\n\r\nabcde")
    # Their ids and dates differ.
    first, second = ([line for line in each.splitlines() if b": " not in line] for each in (chunked, whole))
    assert first == second
    names = {
        "HTTP_CONNECTION",
        "HTTP_X_REQUEST_ID",
        "REMOTE_PORT",
        "UNIQUE_ID",
        "HTTPS",
        "REQUEST_SCHEME",
        "SCRIPT_URI",
    }
    lines = [
        {name: value for name, value in seen.items() if name not in names and not name.startswith("FLEET_")}
        for seen in apache.seen
    ]
    assert lines[:1] == lines[1:]


def test_no_slash_at_the_beginning_of_a_path_is_told_apart_from_it(apache: Apache) -> None:
    for path in ("/%2Fhost/x", "//host/x", "/a/..//host/x", "/%2F%2fhost/x"):
        apache.seen.clear()
        apache.exchange(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        found = apache.seen[0]
        assert (found.get("SCRIPT_NAME", ""), found["PATH_INFO"]) == ("", "/host/x"), path


def test_what_is_no_plain_chunked_body_reaches_no_application(apache: Apache) -> None:
    head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:"
    refused = {
        f"{head} xchunked\r\n\r\n{CHUNK}": "400", f"{head} chunked;q=1\r\n\r\n{CHUNK}": "400",
        f"{head} identity, chunked\r\n\r\n{CHUNK}": "411", f"{head} gzip, chunked\r\n\r\n{CHUNK}": "411",
        f"{head} chunked\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNK}": "411",
        f"{head} chunked\r\n\r\n{CHUNK}".replace("/1.1", "/1.0"): "411",
        f"{head} chunked\r\n\r\n3\r\nabc\r\nzz\r\n0\r\n\r\n": "400",
        f"{head} chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n": "400",
        f"{head} chunked\r\n\r\nffffffffffffffffff\r\na\r\n0\r\n\r\n": "413",
    }  # fmt: skip
    apache.seen.clear()
    for request, status in refused.items():
        assert statuses(apache.exchange(request + SMUGGLED)) == [status], request
    assert apache.seen == []


@pytest.mark.parametrize(
    "headers", ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 9"]
)
def test_of_two_lengths_the_chunks_count_and_nothing_behind_them_is_a_request(apache: Apache, headers: str) -> None:
    apache.seen.clear()
    response = apache.exchange(f"POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{CHUNK}{SMUGGLED}")
    assert (statuses(response), response.endswith(b'{"size": 5}')) == (["200"], True)
    assert [seen["REQUEST_URI"] for seen in apache.seen] == ["/"]


def test_the_log_names_the_server_once(apache: Apache) -> None:
    assert apache.post("/logged", 5)[0] == 200
    log = apache.folder / "access.log"
    eventually(lambda: "/logged" in log.read_text(), timeout_s=5, message="the log has the request")
    (line,) = (line for line in log.read_bytes().splitlines() if b"/logged" in line)
    found = json.loads(apache_log.line_of(line))
    server = (apache.folder / "sites/site.conf").read_text().partition("uwsgi://")[2].split()[0]
    assert (found["upstream"], found["upstream_status"], found["status"]) == (server, "200", 200)
