"""A gateway as its unit starts it: a rendered configuration, a listening socket on fd 3, a socket that hears READY."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateways import GATEWAYS
from harness.stack import free_port
from rendering.gateway_files import gateway_files
from settings.application import App

# Notes each import of it. Waits and tells what it was given, by its path.
APP = """
import json, os, time

with open("imports", "a") as file:
    file.write("x")

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/sleep/"):
        open(f"began-{time.time_ns()}", "w").close()
        time.sleep(float(path.rpartition("/")[2]))
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    seen = {name: value for name, value in environ.items() if isinstance(value, str)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen | {"pid": os.getpid(), "body": len(body), "scheme": environ["wsgi.url_scheme"]}).encode()]
"""
# As systemd does it: the socket is fd 3, and the environment says so to this one process.
AS_SYSTEMD = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 0</dev/null'


def app(kind: str, *, streaming: Any = None, **gateway: Any) -> App:
    """Return an application with this gateway. streaming: the setting of that name."""
    given = {"source": "x", "module": "app:app", "gateway": {"kind": kind, **gateway}, "streaming": streaming}
    return App.model_validate_json(json.dumps(given))


@dataclass
class Process:
    """A gateway that was started. public: the listening socket, which outlives it. notified: where READY comes."""

    process: subprocess.Popen[bytes]
    kind: str
    folder: Path
    public: socket.socket
    notified: socket.socket

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def says_ready(self) -> bool:
        """Return whether the gateway reported READY since the last call. uWSGI reports other things first."""
        with contextlib.suppress(TimeoutError):
            while True:
                if b"READY=1" in self.notified.recv(1024).splitlines():
                    return True
        return False

    def wait_ready(self) -> None:
        """Wait until the gateway reports READY. Fail with its log when it ends before."""
        deadline = time.monotonic() + 60
        while True:
            if self.says_ready():
                return
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log

    def connect(self, *, private: bool = False) -> http.client.HTTPConnection:
        """Return a connection to the public socket, or to the private one."""
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX if private else socket.AF_INET)
        connection.sock.settimeout(30)
        connection.sock.connect(str(self.folder / "http.sock") if private else self.public.getsockname())
        return connection

    def ask(
        self, path: str = "/", headers: Mapping[str, str] | None = None, *, private: bool = False
    ) -> dict[str, Any]:
        """Return what the application was given, and the status."""
        connection = self.connect(private=private)
        connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
        with connection.getresponse() as response:
            text = response.read()
        connection.close()
        return {"status": response.status} | (json.loads(text) if response.status == 200 else {})

    def stop(self) -> int:
        """Ask the gateway to finish, and return how it ended."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def clear(self) -> None:
        """Empty the log, and remove what the application wrote down."""
        os.truncate(self.folder / "log", 0)
        for file in (self.folder / "code").glob("noted-*"):
            file.unlink()


@contextlib.contextmanager
def started(
    made: App,
    folder: Path,
    *processes: str,
    public: socket.socket | None = None,
    overridden: Mapping[str, str] | None = None,
) -> Generator[Process]:
    """Start an application's gateway in a folder, with APP as app.py where it has none. Kill it afterwards.

    overridden: script of the gateway -> a line after its last one: other constants, so that a test need not wait.
    """
    kind = GATEWAYS[made.gateway.kind]
    code = folder / "code"
    code.mkdir(parents=True, exist_ok=True)
    if not (code / "app.py").exists():
        (code / "app.py").write_text(APP)
    files = gateway_files(made)
    for script, line in (overridden or {}).items():
        files[f"gateway/{script}.py"] += f"{line}\n"
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    launch = kind.command.format(place=folder, runtime=folder)
    command = [sys.executable, "-P", *launch.split(), *processes]
    with contextlib.ExitStack() as stack:
        if public is None:
            # As app.socket. With port 0, Linux would choose another one each time that it listens again.
            public = stack.enter_context(socket.create_server(("127.0.0.1", free_port()), backlog=128))
            public.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 2)
        notified = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        notified.bind(str(folder / "notify"))
        notified.settimeout(0.1)
        log = stack.enter_context((folder / "log").open("ab"))
        process = subprocess.Popen(
            ["sh", "-c", AS_SYSTEMD, "sh", *command],
            cwd=code, stdin=public.fileno(), stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"NOTIFY_SOCKET": str(folder / "notify")},
        )  # fmt: skip
        try:
            yield Process(process, kind.name, folder, public, notified)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
