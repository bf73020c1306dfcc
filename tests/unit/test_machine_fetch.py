"""How an app server reads the release store: a folder, or a bucket in place of which a server of this host answers."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import fetch as fetching
import pytest
from fetch import FetchError, fetch

from platforms.lxd import store
from platforms.lxd.store import DirectoryStore

S3 = "https://s3.eu-central-1.amazonaws.com"
ROLE = "/latest/meta-data/iam/security-credentials/"
CREDENTIALS = {"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "opensesame", "Token": "session=="}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The store of application hello in a folder, with a pointer."""
    store.create(tmp_path / "store")
    DirectoryStore(tmp_path / "store").write("hello/pointer", b"r1")
    return f"file://{tmp_path}/store/hello"


def test_a_file_of_a_folder_is_its_content(folder: str) -> None:
    assert fetch(folder, "pointer") == b"r1"


def test_a_missing_file_is_an_error_unless_it_may_be_missing(folder: str) -> None:
    with pytest.raises(
        FetchError, match=rf"the store {folder} has no releases/r1/x; publish it again with `pulumi up`"
    ):
        fetch(folder, "releases/r1/x")
    assert fetch(folder, "releases/r1/x", missing_ok=True) == b""


def test_a_folder_that_is_not_mounted_is_no_store_without_a_pointer(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for url in (f"file://{tmp_path}/store/hello", f"file://{tmp_path}/gone/hello"):
        with pytest.raises(FetchError, match=f"the store {url} does not answer: .* is not mounted"):
            fetch(url, "pointer", missing_ok=True)


class Cloud(HTTPServer):
    """The metadata service and S3. objects: path -> (status, content). asked: (path, headers) of each request to S3."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []

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
                "/latest/meta-data/placement/region": b"eu-central-1",
            }
            has_token = self.headers["X-aws-ec2-metadata-token"] == "token"
            self._answer(200 if has_token else 401, known[self.path] if has_token else b"")
        else:
            self.server.asked.append((self.path, dict(self.headers.items())))
            self._answer(*self.server.objects.get(self.path, (404, b"<Error/>")))

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A cloud on this host; curl is led there and does everything else as it would."""
    run = subprocess.run

    def led(command: list[str], *, input: bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        assert (command, input.count(S3.encode())) == (["curl", "--config", "-"], 1)
        config = input.replace(S3.encode(), made.url.encode()).replace(b"retry = 5\n", b"")
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


def test_an_object_of_a_bucket_is_read_with_the_role_of_the_machine(cloud: Cloud) -> None:
    cloud.objects["/releases/prod/hello/releases/r1/code.tar.gz"] = 200, b"\x1f\x8b\0\n404"
    assert fetch("s3://releases/prod/hello", "releases/r1/code.tar.gz") == b"\x1f\x8b\0\n404"
    ((_, headers),) = cloud.asked
    scheme, credential, *_ = headers["Authorization"].replace(",", " ").split()
    assert scheme == "AWS4-HMAC-SHA256"
    assert credential.startswith("Credential=AKIDEXAMPLE/")
    assert credential.endswith("/eu-central-1/s3/aws4_request")
    assert headers["X-Amz-Security-Token".lower()] == "session=="


def test_a_key_is_quoted_in_the_path(cloud: Cloud) -> None:
    cloud.objects["/releases/prod/a%20b%2Bc"] = 200, b"x"
    assert fetch("s3://releases/prod", "a b+c") == b"x"


def test_a_missing_object_is_an_error_unless_it_may_be_missing(cloud: Cloud) -> None:
    assert fetch("s3://releases/prod", "pointer", missing_ok=True) == b""
    assert cloud.asked[0][0] == "/releases/prod/pointer"
    with pytest.raises(FetchError, match=r"the store s3://releases/prod has no pointer; publish it again"):
        fetch("s3://releases/prod", "pointer")


@pytest.mark.parametrize("status", [403, 500])
def test_any_other_answer_of_s3_is_a_store_that_does_not_answer(cloud: Cloud, status: int) -> None:
    cloud.objects["/releases/prod/pointer"] = status, b"<Error/>"
    with pytest.raises(FetchError, match=f"the store s3://releases/prod does not answer: S3 answered {status}"):
        fetch("s3://releases/prod", "pointer", missing_ok=True)


def test_a_machine_without_a_metadata_service_says_that_the_store_does_not_answer(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "METADATA", f"{cloud.url.rpartition(':')[0]}:9/latest")
    with pytest.raises(FetchError, match="the store s3://releases/prod does not answer"):
        fetch("s3://releases/prod", "pointer", missing_ok=True)
    assert cloud.asked == []
