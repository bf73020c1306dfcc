"""A server's Nginx behind a load balancer, run with an application that says what it got."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.stack import free_port
from rendering.gateway_files import gateway_files
from rendering.server_site import TARGET_HEALTH_PATH, Front
from settings.application import App
from settings.balancer import Balancer
from tests.unit.listening import wait_until_listening
from tests.unit.nginx_reader import args, find, parse
from tests.unit.test_alb_settings import CERTIFICATE

HOST = "shop.example.org"
# Where the load balancer connects from, and somebody else.
FRONT, OTHER = "127.0.0.2", "127.0.0.3"
BLOCK: dict[str, Any] = {
    "kind": "alb",
    "hostnames": [HOST],
    "max_body_mib": 1,
    "alb": {"certificate_arn": CERTIFICATE, "hsts_max_age_s": 77},
    "proxy": {
        "access": {"deny": ["198.51.100.0/24"]},
        "canonical_host": True,
        "redirects": [{"path": "/shop/old", "to": "/shop/new"}],
        "request_headers": {"set": {"X-Edge": "alb"}},
        "response_headers": {"set": {"X-Frame-Options": "DENY"}},
    },
}
APP = {
    "source": "x",
    "module": "a:b",
    "path": "/shop",
    "health_path": "/healthz",
    "fleet": {"local_proxy": True},
    "static": {"folder": "staticfiles", "immutable_folders": ["assets"]},
}


def files(kind: str = "tornado") -> Mapping[str, str]:
    app = App.model_validate_json(json.dumps({**APP, "gateway": {"kind": kind, "processes": 1}}))
    balancer = Balancer.model_validate_json(json.dumps(BLOCK))
    return gateway_files(app, Front("shop", balancer, [f"{FRONT}/32"], HOST))


class Echo(BaseHTTPRequestHandler):
    """Responds with path and headers of the request."""

    def do_GET(self) -> None:
        content = json.dumps({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


def _ask(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    connection.request("GET", path, headers=dict(headers))
    return connection.getresponse()


@dataclass
class Server:
    """slots: folder in the place of /srv/app/slots."""

    port: int
    slots: Path

    def get(self, path: str, *, source: str = FRONT, **headers: str) -> tuple[int, dict[str, str], bytes]:
        sent = {"Host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
        made = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10, source_address=(source, 0))
        with contextlib.closing(made) as connection, contextlib.closing(_ask(connection, path, sent)) as response:
            return response.status, dict(response.headers.items()), response.read()

    def seen(self, path: str, *, source: str = FRONT, **headers: str) -> dict[str, str]:
        status, _, content = self.get(path, source=source, **headers)
        assert status == 200, content
        return json.loads(content)


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None or os.getuid():
        pytest.skip("needs nginx, and root to start it")
    # Not below tmp_path: workers of Nginx have another user.
    with tempfile.TemporaryDirectory() as name, ThreadingHTTPServer(("127.0.0.1", 0), Echo) as application:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        slots = folder / "slots"
        text = files()["gateway/nginx-blue.conf"]
        for old, new in {
            "listen 8000 ": f"listen 127.0.0.1:{port} ",
            "127.0.0.1:8100": f"127.0.0.1:{application.server_port}",
            "/srv/app/slots": str(slots),
            "/run/nginx.pid": f"{folder}/nginx.pid",
        }.items():
            assert old in text
            text = text.replace(old, new)
        for file, content in files().items():
            if file.startswith("errors/"):
                (slots / "blue" / file).parent.mkdir(parents=True, exist_ok=True)
                (slots / "blue" / file).write_text(content)
        for slot, file in (("blue", "app.css"), ("green", "old.css"), ("proof", "assets/new.js"), ("blue", ".env")):
            place = slots / slot / "code" / "staticfiles" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"of {slot}")
        (folder / "nginx.conf").write_text(text)
        threading.Thread(target=application.serve_forever, daemon=True).start()
        command = [binary, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log", "-g", "daemon off;"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_until_listening(process, port)
                yield Server(port, slots)
            finally:
                process.terminate()
                application.shutdown()


# As an ALB sends them.
OF_ALB = {"X_Forwarded_Proto": "https", "X_Forwarded_Port": "443"}


def test_the_load_balancer_is_believed_about_the_client_and_the_scheme(server: Server) -> None:
    found = server.seen("/shop/a%20b", X_Forwarded_For="6.6.6.6, 203.0.113.9", **OF_ALB)
    expected = {
        "path": "/a%20b",
        "host": HOST,
        "x-real-ip": "203.0.113.9",
        "x-forwarded-for": "203.0.113.9",
        "x-forwarded-proto": "https",
        "x-forwarded-port": "443",
        "x-forwarded-host": HOST,
        "x-forwarded-prefix": "/shop",
        "x-edge": "alb",
    }
    assert {name: found[name] for name in expected} == expected


def test_slashes_within_a_path_stay_as_the_client_sent_them(server: Server) -> None:
    # But at its begin: `//host/` in a redirect would be another site.
    assert server.seen("/shop//a%2F%2fb///c", **OF_ALB)["path"] == "/a//b///c"


def test_nobody_else_is_and_headers_that_others_are_trusted_for_go_no_further(server: Server) -> None:
    forged = {"X_Real_IP": "6.6.6.6", "Proxy": "6.6.6.6", "X_Remote_User": "root", "X_Original_URL": "/admin"}
    found = server.seen("/shop/", source=OTHER, X_Forwarded_For="203.0.113.9", **OF_ALB, **forged)
    assert (found["x-real-ip"], found["x-forwarded-proto"]) == (OTHER, "http")
    assert {"proxy", "x-remote-user", "x-original-url"} & found.keys() == set()


def test_it_asks_for_health_by_the_name_of_the_site_and_clients_do_not_get_there(server: Server) -> None:
    found = server.seen(TARGET_HEALTH_PATH, Host="10.20.0.7:8000", User_Agent="ELB-HealthChecker/2.0")
    expected = {"path": "/healthz", "host": HOST, "x-forwarded-host": HOST, "x-forwarded-proto": "https"}
    assert {name: found[name] for name in expected} == expected
    assert server.get(TARGET_HEALTH_PATH, X_Forwarded_For="203.0.113.9", **OF_ALB)[0] == 404


@pytest.mark.parametrize(
    ("path", "response"),
    [("app.css", b"of blue"), ("old.css", b"of green"), ("assets/new.js", b"of proof"), ("none.css", None),
     (".env", None), ("", None), ("../../errors/502.html", None)],
)  # fmt: skip
def test_static_files_are_those_of_both_slots_and_of_the_staged_release(
    server: Server, path: str, response: bytes | None
) -> None:
    status, headers, content = server.get(f"/shop/static/{path}", X_Forwarded_For="203.0.113.9", **OF_ALB)
    assert (status, content if response else None) == (200 if response else 404, response)
    is_immutable = path.startswith("assets/")
    kept = "public, max-age=31536000, immutable" if is_immutable else "public, max-age=300" if response else "no-store"
    # What is outside of the folder is the site's own 404.
    assert headers.get("Cache-Control", "no-store") == kept


def test_what_a_balancer_does_to_requests_is_done_here(server: Server) -> None:
    of_client = {"X_Forwarded_For": "203.0.113.9", **OF_ALB}
    _, headers, _ = server.get("/shop/", **of_client)
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Strict-Transport-Security"] == "max-age=77"
    assert headers["Connection"] == "close"
    assert server.get("/shop/", **{**of_client, "X_Forwarded_For": "198.51.100.7"})[0] == 403
    status, headers, _ = server.get("/shop/x?y=1", **{**of_client, "Host": "other.example.org"})
    assert (status, headers["Location"]) == (308, f"https://{HOST}/shop/x?y=1")
    status, headers, _ = server.get("/shop/old", **of_client)
    assert (status, headers["Location"]) == (308, "/shop/new")
    # An ALB compares paths as they are written; what this one is not for is nobody's here.
    assert server.get("/shop/../admin", **of_client)[0] == 404


def test_it_is_the_site_of_a_balancer_for_a_gateway_that_speaks_uwsgi_too(tmp_path: Path) -> None:
    for slot, port in (("blue", 8100), ("green", 8200)):
        file = tmp_path / f"{slot}.conf"
        file.write_text(files("uwsgi")[f"gateway/nginx-{slot}.conf"])
        read = parse(file)
        assert args(read, "listen") == [["8000", "default_server", "backlog=4096"]]
        assert [each[0] for each in args(read, "server") if each] == [f"127.0.0.1:{port}"]
        assert {tuple(each) for each in args(read, "uwsgi_pass")} == {("app_shop",)}
        (health,) = [each["block"] for each in find(read, "location") if TARGET_HEALTH_PATH in each["args"]]
        assert ["HTTP_HOST", HOST] in args(health, "uwsgi_param")
