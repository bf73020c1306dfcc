"""The balancer's own errors, asked of the real proxies: whose page, in which format, with which headers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import proxy_site
import pytest
import site_state
from gateway_companion import RESPONSE

from harness.stack import free_port
from rendering.apache import SPOOL_PORT
from rendering.error_pages import FOLDER, MAINTENANCE_PAGE, PAGES, error_page_files
from rendering.upstream import Upstream
from settings.balancer import Balancer
from settings.error_pages import PAGE_BYTES, ErrorPages
from settings.mistake import shorten
from settings.route import Route
from tests.unit.listening import wait_until_listening
from tests.unit.site_text import site_text
from tests.unit.stack_blocks import ROOT, problems_of

ABSENT = "10.9.9.9"
# Every byte that means something to Nginx, to Apache, or to a template.
NASTY = "<!doctype html>\n<p>${request_uri} %{HTTP_HOST} {{ 7 * 7 }} \"';}\\ %00 é ☃\r\n</p>\0\n<!--#include file=x -->"
JSON_ACCEPTS = [
    "application/json", "application/json, text/plain, */*", "application/json, text/html;q=0.5",
    "Application/JSON;q=0.9", "application/vnd.api+json", "application/problem+json", "text/html;q=0, application/json",
    "text/html; q=0.000,*/*;q=0, application/json; charset=utf-8; q=0.001", "text/plain;q=0,application/json",
]  # fmt: skip
HTML_ACCEPTS = [
    "", "*/*", "text/html", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "text/html, application/json", "application/xml", "text/json-like", "application/json-seq",
    "application/json;q=0", "text/html, application/json;q=0", "application/json;q=0, text/html",
    "*/*, application/json;q=0.0", "application/json; charset=utf-8; Q=0.000 , */*", "application/vnd.api+json;q=0;x=y",
]  # fmt: skip


ERRORS = {"/break": (502, None), "/hang": (504, None), "/dead/x": (503, "1"), "/empty/x": (503, "5")}
# What the gateway answers for a worker that ended, or that it ended: path -> (status, location of Nginx).
WORKER_ENDED = {"/ended": ("502 Bad Gateway", "not_served"), "/late": ("504 Gateway Timeout", "timed_out")}


@dataclass
class Proxy:
    """A proxy that runs, with its pages in a folder. own: a page of the user's for each error."""

    kind: str
    port: int
    folder: Path

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def put(self, pages: ErrorPages) -> None:
        for path, (_, text) in error_page_files(pages).items():
            file = self.folder / Path(path).relative_to("/etc/wsgi-fleet")
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(text.encode())

    def expected(self, path: str) -> tuple[int, str | None]:
        """Return (status, Retry-After). Apache calls a server that takes too long a bad gateway."""
        return (502, None) if (self.kind, path) == ("apache", "/hang") else ERRORS.get(path, (503, "60"))

    @property
    def maintenance_page(self) -> Path:
        return self.folder / site_state.PAGE.relative_to("/etc/wsgi-fleet")


def serve(connection: socket.socket) -> None:
    """Answer as an application does, by path; break off, or hang."""
    with connection, contextlib.suppress(OSError):
        request = connection.recv(65536)
        if b"/hang" in request:
            time.sleep(6)
        elif response := next((response for path, response in WORKER_ENDED.items() if path.encode() in request), None):
            connection.sendall(RESPONSE.format(response[0], len(response[0]) + 1, response[1]).encode())
        elif b"/own" in request:
            connection.sendall(b"HTTP/1.0 503 Down\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nmine")
        elif b"/break" not in request:
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")


@contextlib.contextmanager
def application() -> Generator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=listening.accept()[:1], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def configure(made: Proxy, binary: Path, port_of_application: int) -> list[str]:
    """Write what the proxy reads: its site and its own file, with places and ports of this test. Return the command."""
    kind, folder, port = made.kind, made.folder, made.port
    addresses = {"a": ["10.0.0.1"], "dead": [ABSENT], "empty": []}
    apps = [
        Upstream(name, servers, 60, "/well", Route(path="/" if name == "a" else f"/{name}"), "http")
        for name, servers in addresses.items()
    ]
    balancer = Balancer.model_validate_json(
        json.dumps({"proxy": {"kind": kind, "response_headers": {"set": {"X-Content-Type-Options": "nosniff"}}}})
    )
    site = site_text(balancer, apps)
    main = (ROOT / "templates" / kind / {"nginx": "nginx.conf", "apache": "apache2.conf"}[kind]).read_text()
    ends = {"10.0.0.1:8000": f"127.0.0.1:{port_of_application}", f"{ABSENT}:8000": f"127.0.0.1:{free_port()}"}
    places = {
        "/etc/wsgi-fleet": folder, "/etc/nginx/wsgi-fleet": folder / "sites", "/var/log/nginx": folder,
        "/etc/apache2/wsgi-fleet": folder / "sites", "/var/log/wsgi-fleet": folder, "/run/nginx": folder,
        "/run/apache2": folder, "ServerRoot /etc/apache2": f"ServerRoot {folder}",
        "/usr/lib/apache2": binary.parents[1] / "lib/apache2", "listen 80": f"listen 127.0.0.1:{port}",
        '"|/usr/local/lib/wsgi-fleet/apache_log.py"': folder / "access.log", "*:80": f"127.0.0.1:{port}",
        "0.0.0.0:80": f"127.0.0.1:{port}", "_read_timeout 65s": "_read_timeout 1s", "timeout=65": "timeout=1",
        # Of its own as well: another process may run the same tests.
        f"127.0.0.1:{SPOOL_PORT}": f"127.0.0.1:{free_port()}",
    }  # fmt: skip
    for old, new in {**ends, **places}.items():
        site, main = site.replace(old, str(new)), main.replace(old, str(new))
    (folder / "sites").mkdir()
    (folder / "sites" / "site.conf").write_text(site)
    file = folder / "main.conf"
    file.write_text(main)
    if kind == "nginx":
        return [str(binary), "-c", str(file), "-e", f"{folder}/error.log", "-g", "daemon off;"]
    return [str(binary), "-f", str(file), "-DFOREGROUND"]


@pytest.fixture(scope="module", params=["nginx", "apache"])
def proxy(request: pytest.FixtureRequest) -> Generator[Proxy]:
    found = shutil.which({"nginx": "nginx", "apache": "apache2"}[request.param])
    if found is None or os.getuid():
        pytest.skip(f"needs {request.param}, and root to start it")
    # Not below tmp_path: workers of the proxy have another user.
    with application() as port_of_application, tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        made = Proxy(request.param, free_port(), Path(folder))
        command = configure(made, Path(found), port_of_application)
        made.put(ErrorPages())
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_until_listening(process, made.port)
                yield made
            finally:
                process.terminate()


@pytest.fixture(autouse=True)
def as_before(request: pytest.FixtureRequest) -> Generator[None]:
    yield
    if "proxy" in request.fixturenames:
        made: Proxy = request.getfixturevalue("proxy")
        made.put(ErrorPages())
        made.maintenance_page.unlink(missing_ok=True)


@pytest.mark.parametrize("path", ERRORS)
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_an_error_of_the_balancer_is_html_or_json_with_its_status(proxy: Proxy, path: str, accept: str) -> None:
    status, headers, body = proxy.ask(path, Accept=accept)
    assert (status, headers["Retry-After"]) == proxy.expected(path)
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Request-ID"]
    assert not [word for word in ("nginx", "apache", "wsgi-fleet", "empty", "dead") if word in body.decode().lower()]
    if accept == "text/html":
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert body.startswith(b"<!doctype html>")
    else:
        assert headers["Content-Type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem.keys() == {"type", "title", "status", "detail"}
        assert problem["status"] == status


def test_json_is_for_clients_that_name_it_and_html_not_before_it(proxy: Proxy) -> None:
    for accept in (*JSON_ACCEPTS, *HTML_ACCEPTS):
        _, headers, _ = proxy.ask("/empty/x", Accept=accept)
        assert (headers["Content-Type"] == "application/problem+json") == (accept in JSON_ACCEPTS), accept


@pytest.mark.parametrize("path", [*ERRORS, "maintenance"])
def test_a_page_of_the_users_own_comes_byte_by_byte_and_json_stays(proxy: Proxy, path: str) -> None:
    proxy.put(ErrorPages(**dict.fromkeys(PAGES, NASTY)))
    if path == "maintenance":
        shutil.copy(proxy.folder / Path(MAINTENANCE_PAGE).name, proxy.maintenance_page)
    for method in ("GET", "POST", "PUT", "DELETE"):
        status, headers, body = proxy.ask(path if path in ERRORS else "/", method, b"x" if method != "GET" else None)
        assert (status, body.decode()) == (proxy.expected(path)[0], NASTY)
    _, headers, _ = proxy.ask(path if path in ERRORS else "/", Accept="application/json")
    assert headers["Content-Type"] == "application/problem+json"


def test_maintenance_has_its_page_its_json_and_its_time(proxy: Proxy) -> None:
    shutil.copy(proxy.folder / Path(MAINTENANCE_PAGE).name, proxy.maintenance_page)
    for path in ("/", "/own", "/empty/x", "/dead/x"):
        for accept, words in (("text/html", "<h1>Down for maintenance</h1>"), ("application/json", '"status": 503')):
            status, headers, body = proxy.ask(path, Accept=accept)
            assert (status, headers["Retry-After"], words in body.decode()) == (503, "60", True), path
    assert proxy.ask("/well")[0] == 200
    # That of an application below a path, whose server is not there.
    assert proxy.ask("/dead/well")[1]["Retry-After"] == "1"


def test_a_head_has_no_body_and_the_same_headers_and_an_application_keeps_its_own_error(proxy: Proxy) -> None:
    for path in ("/empty/x", "/break"):
        status, headers, body = proxy.ask(path, "HEAD")
        assert (status, body, headers["Content-Type"]) == (proxy.expected(path)[0], b"", "text/html; charset=utf-8")
    proxy.put(ErrorPages(service_unavailable="ours"))
    assert proxy.ask("/own", Accept="application/json")[::2] == (503, b"mine")


@pytest.mark.parametrize("path", WORKER_ENDED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nginx_has_its_page_for_a_worker_that_ended_and_apache_the_gateways_words(
    proxy: Proxy, path: str, method: str
) -> None:
    proxy.put(ErrorPages(bad_gateway="<p>502</p>", gateway_timeout="<p>504</p>"))
    status, headers, body = proxy.ask(path, method, b"x" if method == "POST" else None, Accept="text/html")
    words, _ = WORKER_ENDED[path]
    page = f"{words}\n" if proxy.kind == "apache" else f"<p>{words[:3]}</p>"
    assert (status, body.decode()) == (int(words[:3]), page)
    assert headers["X-Accel-Redirect"] is None


def test_a_client_cannot_ask_for_a_page_itself(proxy: Proxy) -> None:
    names = [f"{name}.{end}" for name in ("502", "503", "maintenance") for end in ("html", "json")]
    for name in names:
        for path in (f"/.error/{name}", f"/.error//{name}", f"/.error/../.error/{name}", f"/.error/{name}?5"):
            assert proxy.ask(path)[0] == 404, path
    shutil.copy(proxy.folder / Path(MAINTENANCE_PAGE).name, proxy.maintenance_page)
    assert {proxy.ask(f"/.error/{name}")[0] for name in ("", *names)} == {404}


def test_the_log_has_the_method_that_the_client_used(proxy: Proxy) -> None:
    proxy.ask("/empty/logged", "POST", b"x")
    deadline, line = time.monotonic() + 5, '"method":"POST"' if proxy.kind == "nginx" else "\tPOST /empty/logged"
    while line not in (proxy.folder / "access.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_page_is_a_small_file_of_the_project_in_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(page: str) -> list[str]:
        return problems_of({"balancer": {"error_pages": {"service_unavailable": page}}})

    monkeypatch.setattr("tests.unit.stack_blocks.ROOT", tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "good.html").write_text(NASTY, newline="")
    (tmp_path / "latin.html").write_bytes(b"\xe9")
    (tmp_path / "large.html").write_text("x" * (PAGE_BYTES + 1))
    (tmp_path / "link.html").symlink_to("/etc/hostname")
    assert of("good.html") == []
    for name, words in {
        "latin.html": "is no text in UTF-8; save the file in UTF-8",
        "large.html": f"has {PAGE_BYTES + 1} bytes, of {PAGE_BYTES} at most; link to what is large",
        **dict.fromkeys(
            ["link.html", "none.html", "../x", "/etc/hostname", "", ".", "examples", "\0", "a" * 300],
            "no such file in the project; write its path from the project's folder",
        ),
    }.items():
        assert of(name) == [shorten(f"balancer.error_pages.service_unavailable: {json.dumps(name)}: {words}")]


def test_pages_lie_where_the_proxies_and_the_switch_look_for_them() -> None:
    files = error_page_files(ErrorPages())
    assert str(site_state.PAGE) == f"{FOLDER}/maintenance.html"
    assert str(proxy_site.DEFAULT_PAGE) == MAINTENANCE_PAGE
    assert str(site_state.PAGE) not in files
    assert {mode for mode, _ in files.values()} == {"0644"}
