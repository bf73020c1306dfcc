"""A stack with secrets of every kind that its file takes, and a search for them in every place that shows something."""

from __future__ import annotations

import base64
import json
import re
import secrets
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from harness.stack import Stack, free_port, lxc, on
from tests.certificates import Authority
from tests.e2e import search
from tests.e2e.search import Hit, Process

NAME = "shop.example.org"
# Of the application that make() plants in.
APP: dict[str, Any] = {
    "health_path": "/well",
    "fleet": {"servers": 2},
    "generated_secrets": ["T_MADE"],
    "build": "true",
    "workers": {"idle": {"command": "exec sleep 1000000"}},
    "rollout": {"bake_s": 0},
}
PULUMI = (
    ("stack", "export"), ("stack", "output", "--json"), ("stack", "history", "--json"), ("config", "--json"),
    ("preview", "--diff"),
)  # fmt: skip
FLEET = (
    ("config",), ("config", "--json"), ("status", "--json"), ("doctor",), ("logs",), ("releases", "--json"), ("units",),
    ("exec", "--", "true"),
)  # fmt: skip


@dataclass
class Planted:
    """secrets: name -> value. printed: by what -> what it printed. seen: processes that ran beside it."""

    stack: Stack
    secrets: dict[str, str]
    printed: dict[str, str] = field(default_factory=dict[str, str])
    seen: set[Process] = field(default_factory=set[Process])

    @classmethod
    def make(cls, stack: Stack) -> Planted:
        """Bring a stack of APP up, release once, fail to once, and ask it with the right password and a wrong name."""
        stack.settings["lxd"]["tls_port"] = free_port()
        signed, password = Authority().sign([NAME]), secrets.token_hex(20)
        given = {"T_GIVEN": secrets.token_hex(20), "password": password}
        stack.settings["balancer"] = {"hostnames": [NAME], "tls": {"certificate": signed.certificate}}
        stack.write()
        # As a user does it: encrypted.
        stack.set_secret("T_GIVEN", given["T_GIVEN"])
        for path, value in (("proxy.basic_auth.users.ann", password), ("tls.private_key", signed.private_key)):
            stack.set_config_secret(f"balancer.{path}", value)
        # The second line of three: the first of each such key begins alike.
        self = cls(stack, given | {"TLS key": signed.private_key.splitlines()[2]})
        with self.keep_processes():
            self.printed["up"] = stack.up()
            self.printed["a release"] = stack.release_version("2")
            stack.edit('VERSION = "2"', "VERSION = unheard_of")
            self.printed["a release that fails"] = stack.up(fails=True)
            stack.edit("VERSION = unheard_of", 'VERSION = "2"')
        self.printed["an answer to a password"] = ask(stack, "ann", password) + ask(stack, "bob", password)
        hashed = on(stack.balancer(), "cat", "/etc/wsgi-fleet/users").strip().rpartition("$")[2]
        self.secrets |= {"hash of the password": hashed} | made_by(stack)
        return self

    @contextmanager
    def keep_processes(self) -> Generator[None]:
        """Keep every process that runs meanwhile, here and on machines, if it lives as long as a look at all takes.

        What programs leave in their folder for temporary files is found with the stack.
        """
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.1):
                self.seen.update(search.processes())

        thread, folder = threading.Thread(target=look), self.stack.folder.parent / "tmp"
        folder.mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(folder))
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()

    def everywhere(self, expected: Mapping[str, str]) -> set[Hit]:
        """Look in all places; what differs from run to run is taken out of their names."""
        self.printed |= collect_output(self.stack)
        hits = {
            Hit(place, name) for place, text in self.printed.items() for name in search.within(text.encode(), expected)
        }
        root = str(self.stack.folder.parent)
        hits |= {hit._replace(place=hit.place.removeprefix(f"{root}/")) for hit in search.in_files(root, expected)}
        for process in self.seen:
            for hit in search.in_process(process, expected):
                what = "command line" if hit.place.startswith("command line") else hit.place.partition(" in ")[0]
                hits.add(Hit(f"{what} while up runs", hit.secret))
        script = Path(search.__file__).read_text()
        for kind, label in (("app", "server"), ("balancer", "balancer")):
            for machine in self.stack.machines(kind).values():
                # What an image brought is as it was before there was a secret.
                created = datetime.fromisoformat(
                    json.loads(lxc("query", f"/1.0/instances/{machine}").stdout)["created_at"]
                )
                command = ("exec", machine, "-T", "--", "python3", "-c", script, "/", str(created.timestamp()))
                found: list[Any] = json.loads(lxc(*command, stdin=json.dumps(expected)).stdout)
                hits |= {Hit(f"{label}: {place}", name, who) for place, name, who in found}
        return {hit._replace(place=self._steady(hit.place)) for hit in hits}

    def _steady(self, place: str) -> str:
        place = re.sub(r"@(blue|green)", "@SLOT", place.replace(self.stack.name, "STACK"))
        return re.sub(r"\b[0-9a-f]{12}\b|\b[0-9a-f]{32}\b", "ID", place)


def made_by(stack: Stack) -> dict[str, str]:
    """Return generated secrets by the names of their resources; those of the application by their variables."""
    state = json.loads(stack.pulumi("stack", "export", "--show-secrets", "-s", stack.name))
    return {
        each["urn"].rpartition("::")[2].removeprefix("probe-secret-"): json.loads(each["outputs"]["value"]["plaintext"])
        for each in state["deployment"]["resources"]
        if each["type"].endswith(":GeneratedSecret")
    }


def ask(stack: Stack, user: str, password: str) -> str:
    """Return what the application received, as its response shows it, or "refused" after an HTTP error."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    word = base64.b64encode(f"{user}:{password}".encode()).decode()
    url = f"https://127.0.0.1:{stack.settings['lxd']['tls_port']}/headers"
    request = urllib.request.Request(url, headers={"Host": NAME, "Authorization": f"Basic {word}"})
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=30, context=anyone) as response:
        return response.read().decode()
    return "refused"


def collect_output(stack: Stack) -> dict[str, str]:
    """Return what commands that show something of a stack print. Leave a bundle beside the stack."""
    printed = {f"pulumi {' '.join(words)}": stack.pulumi(*words, "-s", stack.name) for words in PULUMI}
    for words in (*FLEET, ("bundle", "--output", str(stack.folder.parent / "bundle.tar.gz"))):
        result = stack.fleet(*words)
        assert result.returncode == 0 or words[0] == "doctor", result
        printed[f"./fleet {' '.join(words[:2])}"] = result.stdout + result.stderr
    return printed | {"user-data": json.dumps(stack.instances())}
