"""Stage a release: fetch, build and start it on a private socket. Traffic is not touched."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Any, cast

import background
from common import CONFIG, RELEASES, SLOTS, USER, AppServerError, log, manifest_of, run, store_url
from fetch import fetch, fetch_file, fetch_secrets
from slot import PROOF, UNUSED_S, start_and_gate, stop
from symlinks import atomic_symlink

RETRY_UNIT = "app-boot-retry"


def stage(release: str, secrets: dict[str, str] | None, *, with_task: bool = False) -> None:
    """Fetch a release, optionally run its task, and check that it starts and is healthy. Traffic is not affected."""
    # The rollout does what a boot was going to retry.
    run("systemctl", "stop", f"{RETRY_UNIT}*.timer")
    start_s, place = time.monotonic(), RELEASES / release
    if (place / ".staged").exists():
        log(f"{release} is staged already")
        return
    for leftover in RELEASES.glob(".*.partial"):
        shutil.rmtree(leftover)
    shutil.rmtree(place, ignore_errors=True)
    partial = RELEASES / f".{release}.partial"
    partial.mkdir()
    text = fetch(store_url(), f"releases/{release}/manifest.json")
    if hashlib.sha256(text).hexdigest()[: len(release)] != release:
        raise AppServerError(f"the manifest in the store is not that of {release}; publish it again with `pulumi up`")
    manifest = json.loads(text)
    check_compatible(release, manifest)
    (partial / "manifest.json").write_bytes(text)
    unpack(release, manifest, partial)
    write_runtime_files(release, manifest, partial, secrets)
    background.write_commands(release, manifest, partial)
    partial.rename(place)
    try:
        build_venv(place, manifest["stage_timeout_s"])
        if "build" in manifest:
            build(place, manifest["build"], manifest["stage_timeout_s"] - (time.monotonic() - start_s))
        if with_task:
            run_task(place)
        atomic_symlink(SLOTS / PROOF, place)
        start_and_gate(PROOF, manifest)
        stop(PROOF, UNUSED_S)
    except BaseException:
        # The journal may contain these secrets: `./fleet bundle` must know what to remove (commands/bundle.py).
        (place / "secrets.json").replace(CONFIG / "failed.json")
        shutil.rmtree(place, ignore_errors=True)
        raise
    (place / ".staged").touch()
    log(f"{release} is staged: {manifest['health_path']} responds with status 200")


def check_compatible(release: str, manifest: dict[str, Any]) -> None:
    """Raise AppServerError unless the release is made for this server's gateway, and for its number of them."""
    made_for, here = manifest["gateway"], (CONFIG / "gateway").read_text().strip()
    if made_for != here:
        raise AppServerError(
            f"{release} is made for the gateway {made_for}, and this server runs {here}; "
            f"set gateway.kind to {made_for} and run `pulumi up`, which brings servers that run it"
        )
    file, one = CONFIG / "processes", "one gateway"
    made_for, here = manifest.get("processes", one), file.read_text().strip() if file.exists() else one
    if made_for != here:
        raise AppServerError(
            f"{release} is made for servers with {made_for}, and this one has {here}; set fleet.local_proxy, "
            "fleet.process_manager and gateway.processes as it had them and run `pulumi up`, which brings such servers"
        )


def unpack(release: str, manifest: dict[str, Any], partial: Path) -> None:
    """Unpack the application's files, checked against the manifest. The sha256 is that of the uncompressed tar."""
    archive = partial / "code.tar.gz"
    fetch_file(store_url(), f"releases/{release}/code.tar.gz", archive)
    try:
        # In parts: it may be larger than this server's memory.
        with gzip.open(archive) as content:
            digest = hashlib.file_digest(cast("Any", content), "sha256").hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise AppServerError(
            f"the archive of {release} is damaged ({error}); publish it again with `pulumi up`"
        ) from error
    if digest != manifest["tar_sha256"]:
        raise AppServerError(
            f"the archive of {release} is damaged (sha256 {digest}); publish it again with `pulumi up`"
        )
    (partial / "code").mkdir()
    result = run("tar", "-xzf", str(archive), "-C", str(partial / "code"), "--no-same-owner", timeout_s=300)
    if result.returncode:
        raise AppServerError(f"the archive does not unpack: {result.stderr.strip()}")
    archive.unlink()


def build_venv(place: Path, limit_s: float) -> None:
    """Build the release's virtualenv, or find one of the same requirements, by the release's own script."""
    script = place / "install" / "virtualenv.py"
    if not script.exists():
        raise AppServerError(
            f"{place.name} is of another version of wsgi-fleet; run `pulumi up`, which makes another release"
        )
    # What it says appears at once. It has a limit of its own for each step; this one is for what hangs all the same.
    command = ["/usr/bin/python3", "-I", str(script), str(place)]
    try:
        done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, timeout=limit_s + 30)
    except subprocess.TimeoutExpired:
        raise AppServerError(
            f"the virtualenv was not made in {limit_s + 30:.0f} s; raise rollout.stage_timeout_s"
        ) from None
    if done.returncode:
        raise AppServerError(done.stderr.strip())


def build(place: Path, command: str, limit_s: float) -> None:
    """Run the release's build: as the application, which may write its code now and never again."""
    code, start_s = place / "code", time.monotonic()
    # A run that was killed may have left it running.
    run("systemctl", "stop", "app-build.service")
    run("chown", "-R", f"{USER}:{USER}", str(code))
    try:
        run_command(place, command, "app-build", f"ReadWritePaths={code}", f"RuntimeMaxSec={max(limit_s, 1):.0f}")
    except AppServerError:
        if time.monotonic() - start_s >= limit_s:
            raise AppServerError(f"`{command}` did not finish in the {limit_s:.0f} s that staging had left") from None
        raise
    # Neither follows symlinks, of which a build may have made any.
    run("chown", "-R", "root:root", str(code))
    run("chmod", "-R", "u=rwX,go=rX", str(code))


def run_task(place: Path) -> None:
    """Run the release task, before the release serves."""
    run_command(place, manifest_of(place.name)["release_task"], "app-task")


def run_command(place: Path, command: str, unit: str, *more: str) -> None:
    """Run a shell command as the application, with the environment of a release, and print its output.

    Raises AppServerError.
    """
    paths = (f"WorkingDirectory={place}/code", f"EnvironmentFile={place}/environment")
    options = [f"--property={each}" for each in (*manifest_of(place.name)["properties"], *paths, *more)]
    # systemd would put variables for `${NAME}`, unquoted, before Bash sees it; `$$` is its `$`.
    words = ["bash", "-c", command.replace("$", "$$")]
    process = subprocess.Popen(
        ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}", *options, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    lines: deque[str] = deque(maxlen=15)
    for line in process.stdout or ():
        lines.append(f"    {line.rstrip()}")
        log(line.rstrip())
    if process.wait():
        raise AppServerError(
            "\n".join([f"`{command}` failed with exit code {process.returncode}; its last lines:", *lines])
        )


def write_runtime_files(release: str, manifest: dict[str, Any], partial: Path, secrets: dict[str, str] | None) -> None:
    """Write the gateway's configuration and the environment, readable by root and the application only."""
    if secrets is None:
        secrets = find_secrets(release, manifest["secrets_digest"])
    elif secrets_digest(secrets) != manifest["secrets_digest"]:
        raise AppServerError("the secrets that came are not those of the release; run `pulumi up` again")
    for name, text in manifest["gateway_files"].items():
        (partial / name).parent.mkdir(exist_ok=True)
        (partial / name).write_text(text)
    environment = manifest["environment"] | secrets | {
        "WSGI_FLEET_RELEASE": release,
        "WSGI_FLEET_SERVER": socket.gethostname(),
    }  # fmt: skip
    environment["PATH"] = f"{RELEASES / release}/venv/bin:{environment.get('PATH', '/usr/bin:/bin')}"
    if folders := manifest.get("python_path"):
        environment["PYTHONPATH"] = ":".join(str(RELEASES / release / "code" / each) for each in folders)
    if settings_file := manifest.get("settings_file"):
        file = partial / settings_file["name"]
        file.write_text(settings_file["text"], "utf-8")
        file.chmod(0o640)
        shutil.chown(file, "root", USER)
        environment[settings_file["variable"]] = str(RELEASES / release / settings_file["name"])
    for name, content in (
        ("secrets.json", json.dumps(secrets)),
        # systemd.exec(5), EnvironmentFile: in double quotes only these four need a backslash.
        ("environment", "".join(f'{key}="{escape_quotes(value)}"\n' for key, value in sorted(environment.items()))),
    ):
        with os.fdopen(os.open(partial / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)


def escape_quotes(value: str) -> str:
    """Return a value with backslashes, for double quotes in an EnvironmentFile."""
    return "".join(f"\\{char}" if char in '"\\`$' else char for char in value)


def secrets_digest(secrets: dict[str, str]) -> str:
    """Return a digest with the stack's own key, so that a digest in a manifest reveals nothing of the secrets."""
    key = (CONFIG / "key").read_bytes()
    return hmac.new(key, json.dumps(secrets, sort_keys=True).encode(), "sha256").hexdigest() if secrets else ""


def find_secrets(release: str, digest: str) -> dict[str, str]:
    """Return the secrets of an earlier release on this server, or those that the platform stores for boots."""
    if not digest:
        return {}
    for file in RELEASES.glob("*/secrets.json"):
        if manifest_of(file.parent.name)["secrets_digest"] == digest:
            return json.loads(file.read_text())
    secrets = fetch_secrets(store_url(), release)
    if secrets_digest(secrets) != digest:
        raise AppServerError("its secrets changed while this server was away; run `pulumi up` to bring them")
    return secrets
