"""`./fleet bundle`: one file with everything that support needs, without secrets of the stack.

A failed rollout calls collect() and save(), too.
"""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from pydantic_core import to_json

from commands.logs import balancer_log, journalctl_command
from commands.maintenance import from_user
from commands.observation import as_json, observe
from commands.target import AppOption, CommandError, StackOption, Target, find
from platforms.transport import Unreachable
from releases import pointers
from releases.fleet import PARALLEL, Server
from releases.journal import PREFIX
from releases.redaction import Redaction
from rendering.paths import APP_UNITS

LOG_LINES = 500
QUERY_TIMEOUT_S = 60.0
# Print the secrets on a server, as one JSON array a line: those of each release, those of the last release that failed,
# and the stack's key.
SECRETS = """
import glob, json, pathlib
for name in sorted([*glob.glob("/srv/app/releases/*/secrets.json"), *glob.glob("/etc/wsgi-fleet/failed.json")]):
    print(json.dumps(list(json.loads(pathlib.Path(name).read_text()).values())))
for name in ("/etc/wsgi-fleet/key",):
    if pathlib.Path(name).exists():
        print(json.dumps([pathlib.Path(name).read_text().strip()]))
"""
SERVER_COMMANDS: Mapping[str, Sequence[str]] = {
    "journal.txt": journalctl_command(LOG_LINES),
    "warnings.txt": ["journalctl", "--no-pager", "--quiet", "--priority=warning", f"--lines={LOG_LINES}"],
    "units.txt": ["systemctl", "--no-pager", "--full", "--lines=0", "status", "app.socket", *APP_UNITS],
    "unit-properties.txt": ["systemctl", "show", "--all", *APP_UNITS[:2]],
    "failed-units.txt": ["systemctl", "--no-pager", "--failed"],
    "disk.txt": ["df", "-h"],
    "processes.txt": ["ps", "-eo", "pid,ppid,user,stat,etime,rss,args"],
    "cloud-init.txt": ["tail", "-n", str(LOG_LINES), "/var/log/cloud-init-output.log"],
}
# The first command on a balancer with Nginx, the second on one with Apache.
NGINX_OR_APACHE = ("sh", "-c", 'if [ -e /etc/apache2/wsgi-fleet ]; then eval "$1"; else eval "$0"; fi')
BALANCER_COMMANDS: Mapping[str, Sequence[str]] = {
    "proxy.txt": [*NGINX_OR_APACHE, "nginx -T", "cat /etc/apache2/apache2.conf /etc/apache2/wsgi-fleet/*.conf"],
    "error.log": balancer_log("error", LOG_LINES),
    "access.log": balancer_log("access", LOG_LINES),
    "units.txt": [
        *NGINX_OR_APACHE,
        *(f"systemctl --no-pager --full --lines=50 status {unit}.service" for unit in ("nginx", "apache2")),
    ],
    "failed-units.txt": ["systemctl", "--no-pager", "--failed"],
    "disk.txt": ["df", "-h"],
    "cloud-init.txt": ["tail", "-n", str(LOG_LINES), "/var/log/cloud-init-output.log"],
}
# Of each log, from its end. An application may write lines of any length.
LOG_CHARS = 256 << 10
OMITTED = "left out: no server could be asked for the secrets that would have to be removed from it\n"


def secrets_of(target: Target) -> tuple[set[str], list[str]]:
    """Return the secrets of the servers, and the names of servers that did not report theirs."""

    def read_secrets(server: Server) -> list[str] | None:
        try:
            result = target.transport.exec(server.target, ["python3", "-c", SECRETS], timeout_s=QUERY_TIMEOUT_S)
        except (Unreachable, TimeoutError):
            return None
        if result.exit_code:
            return None
        lines = [line for line in result.output.splitlines() if line.startswith("[")]
        return [str(value) for line in lines for value in json.loads(line)]

    with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        answers = dict(zip(target.servers, pool.map(read_secrets, target.servers), strict=True))
    silent = [server.name for server, values in answers.items() if values is None]
    return {value for values in answers.values() for value in values or ()}, silent


def collect(target: Target, secrets: Iterable[str] = ()) -> dict[str, str]:
    """Return path in the bundle -> text without secrets. secrets: those besides those of the servers.

    Where a machine does not respond, its file says so. Where no server reports its secrets, and none are known, what
    the application may have printed is left out.
    """
    found, silent = secrets_of(target)
    reach = [str(value) for key, value in target.reach.items() if "key" in key or "password" in key]
    removal = Redaction([*found, *secrets, *reach])
    is_blind = len(silent) == len(target.servers) and not list(secrets)
    servers = [(server, name, command) for server in target.servers for name, command in SERVER_COMMANDS.items()]
    front = target.balancer
    servers += [(front, name, command) for name, command in BALANCER_COMMANDS.items()] if front else []
    with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        texts = {
            f"{server.name}/{name}": pool.submit(_output, target, server, command) for server, name, command in servers
        }
        raw = {path: future.result() for path, future in texts.items()}
    observation = observe(target)
    raw["status.json"] = json.dumps(as_json(observation), indent=2)
    machines = {**({front.name: observation.balancer} if front else {}), **observation.reports}
    raw |= {f"{name}/facts.json": to_json(report, indent=2).decode() for name, report in machines.items()}
    raw["host.txt"] = _host()
    raw |= _store(target)
    if is_blind:
        raw = {path: text if path in ("status.json", "host.txt") else OMITTED for path, text in raw.items()}
    raw["README.txt"] = _readme(target, silent)
    # Cut when clean: a part of a secret is not found.
    return {path: _end_of(path, removal.clean(text)) for path, text in sorted(raw.items())}


def _end_of(path: str, text: str) -> str:
    if len(text) <= LOG_CHARS or not path.endswith((".txt", ".log")):
        return text
    return f"(the last {LOG_CHARS >> 10} KiB)\n{text[-LOG_CHARS:].partition(chr(10))[2]}"


def save(files: Mapping[str, str], path: Path) -> None:
    """Write a .tar.gz that only its owner reads. Raises OSError."""
    now = int(time.time())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    # A file that was there keeps its mode otherwise.
    os.fchmod(descriptor, 0o600)
    # tarfile's own types know no plain binary file.
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=cast("Any", file), mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            info = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            info.size, info.mtime, info.mode = len(content), now, 0o600
            archive.addfile(info, io.BytesIO(content))


def _output(target: Target, server: Server, command: Sequence[str]) -> str:
    try:
        result = target.transport.exec(server.target, command, timeout_s=QUERY_TIMEOUT_S)
    except (Unreachable, TimeoutError) as error:
        return f"error: {error}\n"
    return result.output + (f"exit code {result.exit_code}\n" if result.exit_code else "")


def _store(target: Target) -> dict[str, str]:
    keys = [
        *target.store.keys(PREFIX),
        *target.store.keys(pointers.REJECTED),
        pointers.POINTER,
        pointers.MANUAL_CHANGES,
    ]
    return {f"store/{key}": (target.store.read(key) or b"").decode(errors="replace") for key in keys}


def _host() -> str:
    lines = [f"{platform.platform()}, Python {platform.python_version()}"]
    for command in (
        ["pulumi", "version"],
        ["lxc", "version"],
        ["git", "describe", "--always", "--dirty"],
        ["df", "-h"],
    ):
        try:
            result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
            lines.append(f"$ {' '.join(command)}\n{result.stdout.strip() or result.stderr.strip()}")
        except (OSError, subprocess.TimeoutExpired) as error:
            lines.append(f"$ {' '.join(command)}\n{error}")
    return "\n".join(lines) + "\n"


def _readme(target: Target, unreachable: Sequence[str]) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [
        f"Application {target.app} of stack {target.stack}, {now}.",
        "Secrets that the stack gives the application, its own key and the key of SSH are replaced by [removed].",
        "Read it before you send it: the logs contain addresses, paths and requests of clients.",
    ]
    if unreachable:
        lines.append(
            "Unreachable, so secrets that only these servers know may not be removed from this bundle: "
            f"{', '.join(unreachable)}."
        )
    return "\n".join(lines) + "\n"


def bundle(
    stack: StackOption = None,
    app: AppOption = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="The file; the default is named by stack and time.",
        ),
    ] = None,
) -> None:
    """Collect what support needs, without secrets.

    Status, the store's journal, the machines' logs and units, and the proxy's configuration, as one .tar.gz.
    """
    target = find(stack, app)
    now = datetime.now(UTC)
    path = from_user(output or Path(f"fleet-{target.stack}-{target.app}-{now:%Y%m%dT%H%M%S}.tar.gz"))
    files = collect(target)
    try:
        save(files, path)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}; name another file with --output", code=2) from error
    typer.echo(f"{path}: {len(files)} files; read it before you send it")
