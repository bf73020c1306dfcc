"""A cloud on this host, for scripts of machines: metadata, S3, and a Systems Manager that checks signatures."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import fetch as fetching
import pytest

REGION = "eu-central-1"
ROLE = "/latest/meta-data/iam/security-credentials/"
CREDENTIALS = {"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "opensesame", "Token": "session=="}


class Cloud(HTTPServer):
    """objects: path -> (status, content) of S3. asked: (path, headers) of each request to it.

    pages: answers of Systems Manager in turn, (status, JSON). wanted: what it was asked for.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.pages: list[tuple[int, dict[str, Any]]] = []
        self.wanted: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Cloud  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
        self._answer(200, b"token")

    def do_GET(self) -> None:
        if self.path.startswith("/latest/"):
            known = {
                ROLE: b"the-role\n",
                f"{ROLE}the-role": json.dumps(CREDENTIALS).encode(),
                "/latest/meta-data/placement/region": REGION.encode(),
            }
            has_token = self.headers["X-aws-ec2-metadata-token"] == "token"
            self._answer(200 if has_token else 401, known[self.path] if has_token else b"")
        else:
            self.server.asked.append((self.path, dict(self.headers.items())))
            self._answer(*self.server.objects.get(self.path, (404, b"<Error/>")))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_known = self.headers["X-Amz-Target"] == "AmazonSSM.GetParametersByPath"
        if not (is_known and self.path == "/" and is_signed(dict(self.headers.items()), body, "ssm")):
            self._answer(400, b'{"__type": "InvalidSignatureException"}')
            return
        self.server.wanted.append(json.loads(body))
        status, response = self.server.pages.pop(0)
        self._answer(status, json.dumps(response).encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


def is_signed(headers: dict[str, str], body: bytes, service: str) -> bool:
    """Return whether a POST to / has the signature of AWS's own library, over all that AWS wants signed."""
    lower = {name.lower(): value for name, value in headers.items()}
    _, _, rest = lower["authorization"].partition(" ")
    parts = dict(part.strip().split("=", 1) for part in rest.split(","))
    signed = parts["SignedHeaders"].split(";")
    if not {"host", "content-type", *(name for name in lower if name.startswith("x-amz-"))} <= set(signed):
        return False
    auth: Any = cast("Any", botocore.auth).SigV4Auth(
        cast("Any", botocore.credentials).Credentials(*CREDENTIALS.values()), service, REGION
    )
    request: Any = cast("Any", botocore.awsrequest).AWSRequest(
        method="POST", url=f"http://{lower['host']}/", data=body, headers={name: lower[name] for name in signed}
    )
    request.context["timestamp"] = lower["x-amz-date"]
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return parts["Signature"] == auth.signature(text, request)


@contextlib.contextmanager
def on_this_host(monkeypatch: pytest.MonkeyPatch, **services: str) -> Generator[Cloud]:
    """Create a cloud and lead curl there; all else of curl is real. services: URLs of those that stand elsewhere."""
    run = subprocess.run

    def led(command: list[str], *, input: bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        assert command == ["curl", "--config", "-"]
        config, found = input.replace(b"retry = 5\n", b""), 0
        for service in ("s3", "ssm"):
            address = f"https://{service}.{REGION}.amazonaws.com".encode()
            found += config.count(address)
            config = config.replace(address, services.get(service, made.url).encode())
        assert found == 1
        return run(command, input=config, **options)

    with Cloud() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(fetching, "METADATA", f"{made.url}/latest")
        monkeypatch.setattr(subprocess, "run", led)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "127.0.0.1")
        yield made
        made.shutdown()
        thread.join()
