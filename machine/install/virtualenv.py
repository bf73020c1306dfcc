"""Build the virtualenv of a release, as root: `python3 -I PLACE/install/virtualenv.py PLACE`. Standard library only.

It is a part of the release, so that each release is installed by what it was made with. It leaves the symlink
PLACE/venv. Releases with the same requirements share a virtualenv. On failure the last lines on standard error say why.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

USER = "app"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PIP = Path("/srv/gateway/pip")
# What `pip --python` starts, without the second pip that would only start it.
PIP_RUNNER = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(PIP)})) / "pip" / "__pip-runner__.py"
# Lines of a requirements file: of another such file, and of something in the source itself.
INCLUDES = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(\S+)")
LOCAL = re.compile(r"\s*(?:-e|--editable|\.|/|file:|[^#]*@\s*file:)")


class InstallError(Exception):
    """The requirements do not install."""


def run(*command: str, timeout_s: float = 60, user: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program and return its result, with its output. Raises InstallError after timeout_s seconds."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    # pip has certificates of its own; machines trust those of the system.
    environment |= {"PIP_CERT": CA_BUNDLE, "SSL_CERT_FILE": CA_BUNDLE, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        return subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=timeout_s,
            env=environment, cwd="/", user=user, group=user, extra_groups=[] if user else None,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InstallError(f"{Path(command[0]).name} {command[1]} did not finish in {timeout_s:.0f} s") from None


def venv_key(requirements: Path, code: Path, tar_sha256: str) -> str:
    """Return a hash of what a virtualenv is made from: this Python, and all that pip would read.

    Files that requirements include count, and the whole code where it is itself installed (`-e .`, `./package`).
    """
    parts, todo, seen = [sys.version], [requirements], set[Path]()
    while todo:
        file = todo.pop().resolve()
        if file in seen or not file.is_relative_to(code.resolve()) or not file.is_file():
            continue
        seen.add(file)
        parts.append(file.read_text())
        for line in parts[-1].splitlines():
            if included := INCLUDES.match(line):
                todo.append(file.parent / included[1])
            elif LOCAL.match(line):
                parts.append(tar_sha256)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def build_venv(place: Path, venvs: Path) -> Path:
    """Return the virtualenv for the requirements of the release in place; build it below venvs where there is none."""
    manifest: dict[str, Any] = json.loads((place / "manifest.json").read_text())
    code = place / "code"
    requirements = code / manifest["requirements_path"]
    venv = venvs / venv_key(requirements, code, manifest["tar_sha256"])
    if (venv / ".complete").exists():
        return venv
    print(f"building a virtualenv from {requirements.name}", flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir()
    shutil.chown(venv, USER, USER)
    # Packages may run code of their own while they install: not as root. pip is the gateway's, so none is copied.
    deadline = time.monotonic() + manifest["stage_timeout_s"]
    install = ("install", "--no-cache-dir", "--no-input", "--progress-bar=off", "-r", str(requirements))
    for command in (
        ("/usr/bin/python3", "-m", "venv", "--without-pip", str(venv)),
        (str(venv / "bin" / "python"), str(PIP_RUNNER), *install),
    ):
        result = run(*command, timeout_s=max(deadline - time.monotonic(), 1), user=USER)
        if result.returncode:
            shutil.rmtree(venv, ignore_errors=True)
            lines = (result.stdout + result.stderr).strip().splitlines()[-15:]
            head = f"the requirements do not install with Python {platform.python_version()}:\n"
            raise InstallError(head + "\n".join(f"    {line}" for line in lines))
    run("chown", "-R", "root:root", str(venv))
    (venv / ".complete").touch()
    return venv


if __name__ == "__main__":
    release = Path(sys.argv[1])
    try:
        (release / "venv").symlink_to(build_venv(release, release.parents[1] / "venvs"))
    except (InstallError, OSError) as error:
        sys.exit(str(error))
