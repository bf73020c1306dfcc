"""A stack of the tests: a copy of this checkout, a state of its own, the real engine, real machines."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from platforms.lxd.transport import LxdTransport
from platforms.transport import Unreachable

ROOT = Path(__file__).resolve().parents[1]
UP = ("up", "--yes", "--skip-preview", "-s")
UP_S = 600
FLEET_S = 300

# What a user may set, at its nastiest for YAML, shell, ini and unit files.
ENVIRONMENT = {
    "T_PLAIN": "plain",
    "T_QUOTES": "a\"b'c`d$e\\f",
    "T_SHELL": "$(reboot); `reboot` && ${HOME} %i %% #x",
    "T_LINES": "first\nsecond = 1\n[Service]\nExecStart=/bin/false",
    "T_SPACES": "  leading and trailing  ",
    "T_UNICODE": "Grüße ☃",
    "T_EMPTY": "",
    "T_YAML": "yes: no\n- {a: b}",
    "T_JINJA": "{{ 7 * 7 }} {% raw %}",
}
# The same for what reads settings files, with every type.
SETTINGS: dict[str, Any] = {
    "TEXT": ENVIRONMENT["T_QUOTES"] + ENVIRONMENT["T_LINES"] + ENVIRONMENT["T_UNICODE"] + "\x00\x7f\u2028",
    "NUMBERS": [0, -1, 2**63 - 1, 0.1, -2.5e-7],
    "OTHERS": [True, False, None, "true", "1.0", ""],
    "TREE": {"a b": [{"c\"'": {}}], "": []},
}
SECRET = 'hunter2 "quoted" $HOME\\'


def free_port() -> int:
    """Return a port of loopback that nothing uses, below those that Linux gives to connections (32768 and above).

    One of those could belong to a connection by the time that a stack listens on it.
    """
    while True:
        port = random.randrange(15_000, 32_768)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def copy_of_checkout(target: Path) -> None:
    """Copy what a clone of the present state would contain: tracked files and new ones, no ignored ones."""
    output = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, output.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@dataclass
class Stack:
    """name: unique, with the process id of the run in it. settings: the stack file's blocks; changed, then up().

    proxy: the balancer's, whatever settings say of it.
    """

    name: str
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    proxy: str = "nginx"

    @classmethod
    def make(cls, name: str, tmp: Path, **app: Any) -> Stack:
        """Create a stack that serves tests/e2e/app, not up yet. app: settings of the application."""
        stack = cls(f"e2e-{os.getpid()}-{name}", tmp / "project")
        copy_of_checkout(stack.folder)
        stack.settings = {
            "platform": "lxd",
            "lxd": {"port": free_port()},
            "apps": {
                "probe": {"source": "tests/e2e/app", "module": "probe:app", "health_path": "/", "fleet": {"servers": 3}}
                | app
            },
        }
        stack.write()
        (tmp / "state").mkdir()
        stack.pulumi("stack", "init", stack.name)
        return stack

    @property
    def app(self) -> dict[str, Any]:
        return self.settings["apps"]["probe"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['lxd']['port']}"

    @property
    def file(self) -> Path:
        return self.folder / "stacks" / f"Pulumi.{self.name}.yaml"

    def write(self) -> None:
        """Write the stack file; what Pulumi keeps in it (the salt, secrets) stays."""
        document: dict[str, Any] = yaml.safe_load(self.file.read_text()) if self.file.exists() else {}
        kept = self._secrets_of(document)
        document["config"] = {f"wsgi-fleet:{key}": value for key, value in self.settings.items()}
        if self.proxy != "nginx":
            balancer = self.settings.get("balancer", {})
            proxy = {"kind": self.proxy} | balancer.get("proxy", {})
            document["config"]["wsgi-fleet:balancer"] = balancer | {"proxy": proxy}
        if kept:
            document["config"]["wsgi-fleet:apps"] = {
                **self.settings["apps"], "probe": {**self.app, "secrets": kept}
            }  # fmt: skip
        self.file.write_text(yaml.safe_dump(document))

    @staticmethod
    def _secrets_of(document: dict[str, Any]) -> dict[str, Any]:
        return document.get("config", {}).get("wsgi-fleet:apps", {}).get("probe", {}).get("secrets", {})

    def set_secret(self, name: str, value: str) -> None:
        """Set a secret as a user does: encrypted in the stack file."""
        self.pulumi(
            "config", "set", "-s", self.name, "--secret", "--path", f"wsgi-fleet:apps.probe.secrets.{name}", value
        )

    def set_config_secret(self, path: str, value: str) -> None:
        """Encrypt a value into the stack file, by standard input; settings then hold it so. path: `apps.NAME...`."""
        self.write()
        subprocess.run(
            ["pulumi", "config", "set", "-s", self.name, "--secret", "--path", f"wsgi-fleet:{path}"],
            cwd=self.folder, env=self.environment(), input=value, text=True, check=True, capture_output=True,
        )  # fmt: skip
        blocks: dict[str, Any] = yaml.safe_load(self.file.read_text())["config"]
        self.settings = {name.partition(":")[2]: block for name, block in blocks.items()}

    def environment(self) -> dict[str, str]:
        binaries = Path(sys.executable).parent
        return os.environ | {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(binaries.parent),
            "PULUMI_BACKEND_URL": f"file://{self.folder.parent / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a pulumi command in the background, in a process group of its own."""
        return subprocess.Popen(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self.folder, env=self.environment(), text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def pulumi(self, *arguments: str, fails: bool = False) -> str:
        """Return what a pulumi command prints. Raise AssertionError with its output unless it ends as expected."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=UP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert (process.returncode != 0) == fails, f"pulumi {' '.join(arguments)}: {process.returncode}\n{output}"
        return output

    def start_up(self) -> subprocess.Popen[str]:
        """Start an `up` in the background."""
        self.write()
        return self.start(*UP, self.name)

    def up(self, *flags: str, fails: bool = False) -> str:
        self.write()
        return self.pulumi(*UP, self.name, *flags, fails=fails)

    def fleet(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the operator's command on this stack, as ./fleet starts it."""
        return subprocess.run(
            [sys.executable, "-m", "commands", *arguments],
            cwd=self.folder, env=self.environment() | {"FLEET_STACK": self.name}, check=False, capture_output=True,
            text=True, input=stdin, timeout=FLEET_S,
        )  # fmt: skip

    def destroy(self) -> None:
        self.pulumi("destroy", "--yes", "--skip-preview", "-s", self.name)
        self.pulumi("stack", "rm", "--yes", self.name)

    def end_processes(self) -> None:
        """End what a pulumi that was killed left running in the stack's folder: the host of its providers."""
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.folder:
                    os.kill(int(entry.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue

    def output(self, name: str) -> Any:
        return json.loads(self.pulumi("stack", "output", "-s", self.name, "--json", name))

    def export(self) -> str:
        return self.pulumi("stack", "export", "-s", self.name)

    def servers(self) -> dict[str, str]:
        """Return the app servers: role -> name of the machine."""
        return self.output("servers")

    def machines(self, kind: str) -> dict[str, str]:
        """Return this stack's machines as LXD lists them: role -> machine. kind: "app" or "balancer"."""
        found = {each["config"]["user.wsgi-fleet.role"]: each["name"] for each in self.instances()}
        return {role: name for role, name in found.items() if role.startswith("balancer") == (kind == "balancer")}

    def instances(self) -> list[dict[str, Any]]:
        """Return this stack's instances as LXD lists them."""
        every = json.loads(lxc("query", "/1.0/instances?recursion=1").stdout)
        return [each for each in every if each["config"].get("user.wsgi-fleet.owner", "").startswith(f"{self.name}-")]

    def balancer(self) -> str:
        return next(iter(self.machines("balancer").values()))

    def edit(self, old: str, new: str) -> None:
        """Change the application's code."""
        file = self.folder / "tests" / "e2e" / "app" / "probe.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def set_version(self, version: str) -> None:
        """Change what the application calls its version."""
        file = self.folder / "tests" / "e2e" / "app" / "probe.py"
        file.write_text(re.sub(r'VERSION = ".*"', f'VERSION = "{version}"', file.read_text()))

    def release_version(self, version: str) -> str:
        """Change what the application calls its version, bring it up, and return what `up` printed."""
        self.set_version(version)
        return self.up()

    def get(self, path: str = "/") -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.loads(response.read())

    def responding_servers(self, requests: int = 60) -> set[tuple[str, str]]:
        """Return (server, version) of many responses."""
        replies = [self.get() for _ in range(requests)]
        return {(reply["server"], reply["version"]) for reply in replies}


def lxc(*arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the lxc client. Its standard input is never the test's own."""
    return subprocess.run(["lxc", *arguments], check=check, capture_output=True, text=True, input=stdin, timeout=120)


def on(machine: str, *command: str, check: bool = True) -> str:
    """Return what a command on a machine prints. Do not use `lxc exec` itself, which loses output now and then."""
    try:
        result = LxdTransport().exec(machine, command, timeout_s=120)
    except (Unreachable, TimeoutError) as error:
        if check:
            raise
        return str(error)
    assert not check or result.exit_code == 0, f"{command} on {machine}: {result.output}"
    return result.output


def host_address(machine: str) -> str:
    """Return the host's own address on the network of a machine."""
    network = json.loads(lxc("query", f"/1.0/instances/{machine}").stdout)["devices"]["eth0"]["network"]
    return json.loads(lxc("query", f"/1.0/networks/{network}").stdout)["config"]["ipv4.address"].partition("/")[0]


def proxy_complaints(front: str) -> str:
    """Return what the balancer's Nginx or Apache prints about its configuration, without "Syntax OK"."""
    test = "if [ -e /etc/apache2/wsgi-fleet ]; then apache2 -t; else nginx -t -q; fi"
    return "".join(line for line in on(front, "sh", "-c", test).splitlines() if line != "Syntax OK")


def eventually(what: Any, *, timeout_s: float = 180, message: str) -> Any:
    """Ask until the answer is true; for what machines do by themselves."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if answer := what():
                return answer
        except (OSError, ValueError, AssertionError):
            pass
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {message}"
        time.sleep(0.2)


def processes_that_name(words: Sequence[str]) -> list[str]:
    """Return the command lines of running processes that contain one of the words."""
    lines = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if any(word in line for word in words)]
