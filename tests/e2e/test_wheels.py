"""Packages are downloaded once for a fleet: later servers and releases need no index."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.stack import Stack, host_address, lxc, on

TOKEN = "index-token-0123456789"
WHEEL = "fleetprobe-1.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: fleetprobe\nVersion: 1.0\n"


def make_wheel() -> bytes:
    """Return a wheel of one module."""
    folder, content = "fleetprobe-1.0.dist-info", io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("fleetprobe.py", "NAME = 'probe'\n")
        archive.writestr(f"{folder}/METADATA", METADATA)
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{folder}/RECORD", "")
    return content.getvalue()


class Index:
    """A private package index. asked: how often each path was sent."""

    def __init__(self, wheel: bytes) -> None:
        self.asked, self.wheel = Counter[str](), wheel
        link = f'<a href="/{WHEEL}" data-core-metadata="true">{WHEEL}</a>'
        self.pages = {"/simple/fleetprobe/": link.encode(), f"/{WHEEL}.metadata": METADATA.encode(), f"/{WHEEL}": wheel}

    @contextmanager
    def served(self, address: str) -> Generator[str]:
        """Serve it at an address of this host, and yield host:port."""
        index, word = self, base64.b64encode(f"me:{TOKEN}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                is_known = self.headers.get("Authorization") == f"Basic {word}"
                page = index.pages.get(self.path) if is_known else b""
                self.send_response(401 if not is_known else 200 if page else 404)
                self.send_header("WWW-Authenticate", "Basic")
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(page or b"")))
                self.end_headers()
                if page and self.command == "GET":
                    self.wfile.write(page)
                    index.asked[self.path] += 1

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002, ARG002
                return

        server = ThreadingHTTPServer((address, 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"{address}:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


def kept_packages(stack: Stack) -> dict[str, list[str]]:
    """Return the packages that the store keeps: key -> modules."""
    store = stack.folder / ".state" / stack.name / "store" / "probe" / "wheels"
    found: dict[str, list[str]] = {}
    for file in store.glob("*.tar.gz"):
        assert json.loads(file.with_name(file.name.replace(".tar.gz", ".json")).read_bytes())["sha256"] == (
            hashlib.sha256(file.read_bytes()).hexdigest()
        )
        with tarfile.open(file) as archive:
            members = [each for each in archive if each.isfile()]
            assert not any(TOKEN.encode() in (archive.extractfile(each) or io.BytesIO()).read() for each in members)
            found[file.name] = [Path(each.name).name for each in members if each.name.count("site-packages/") == 1]
    return found


def took(output: str) -> set[str]:
    """Return the servers that took a package from the store, as `up` prints it."""
    return set(re.findall(r"(\S+): 1 package comes from the release store", output))


@pytest.mark.long
def test_packages_are_downloaded_once_and_a_server_that_comes_while_the_index_is_away_serves(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack("wheels", fleet={"servers": 2}, rollout={"keep_releases": 2, "bake_s": 0})
    stack.set_secret("INDEX_TOKEN", TOKEN)
    stack.up()
    requirements = stack.folder / "tests" / "e2e" / "app" / "requirements.txt"
    wheel = make_wheel()
    index = Index(wheel)
    with index.served(host_address(next(iter(stack.servers().values())))) as address:
        pinned = f"fleetprobe==1.0 --hash=sha256:{hashlib.sha256(wheel).hexdigest()}"
        requirements.write_text(f"--index-url http://me:${{INDEX_TOKEN}}@{address}/simple\n{pinned}\n")
        stack.edit("import found\n", "import fleetprobe\nimport found\n")
        output = stack.release_version("2")
    assert index.asked == dict.fromkeys(index.pages, 1)
    assert "keeps 1 packages of probe-1 for the other servers (0.0 MB)" in output
    assert took(output) == {"probe-2"}
    assert set(re.findall(r"(\S+): building a virtualenv", output)) == {"probe-1"}
    assert len(stack.responding_servers()) == 2
    # The index is gone. A further server, and one in the place of another, take what is kept.
    stack.app["fleet"] = {"servers": 3}
    output = stack.up()
    assert took(output) == {"probe-3"}
    assert {version for _, version in stack.responding_servers(120)} == {"2"}
    # A release of other code with equal requirements builds nothing; what no release uses goes.
    output = stack.release_version("3")
    assert "packages" not in output
    assert "virtualenv" not in output
    assert any("fleetprobe.py" in modules for modules in kept_packages(stack).values())
    assert len(kept_packages(stack)) == 1
    # A server that was away boots on it by itself.
    machine, release = stack.servers()["probe-2"], stack.get()["release"]
    on(machine, "sh", "-c", f"rm -r /srv/app/venvs/* /srv/app/releases/{release} /srv/app/live; ! ls /srv/app/uv-cache")
    lxc("restart", "--force", machine)
    journal = on(machine, "sh", "-c", "until systemctl is-active app@blue; do sleep 1; done; journalctl -b -u app-boot")
    assert "1 package comes from the release store" in journal
