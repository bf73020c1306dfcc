"""Build the virtualenv of a release, as root: `python3 -I PLACE/install/virtualenv.py PLACE`. Standard library only.

It is a part of the release, so that each release is installed by what it was made with. It leaves the symlink
PLACE/venv. Releases with the same requirements share a virtualenv. On failure the last lines on standard error say why.

    virtualenv.py PLACE              build it, or take what another server has installed from the release store
    virtualenv.py PLACE pack         pack it for other servers, and print what there is to know about the archive
    virtualenv.py PLACE send OFFSET  print a piece of that archive
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent))
import wheels
from installers import InstallError, compile_packages, install, is_for_installers
from requirement_files import RequirementError, RequirementFiles, without_credentials

USER = "app"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# Lock files and projects by name; any other file is of pip's format. uv reads each of these by itself.
LOCKED = re.compile(r"uv\.lock|pyproject\.toml|pylock(\.[^.]+)?\.toml")
CONVERTED = {"poetry.lock", "Pipfile.lock"}
# A package of the code itself in uv.lock (one that is `virtual` is not installed) or pylock.toml.
LOCKED_FOLDER = re.compile(r"source = \{ (editable|directory|path) = |\bdirectory\s*[]=]")
# All virtualenvs share uv's cache, and link to its files. Above this size it is emptied.
CACHE_MIB = 2048
STORE = Path("/etc/wsgi-fleet/store")
# What the operator's side waits for, to read it and to let other servers begin (releases/wheels.py).
READY = "virtualenv is ready: "
# In a virtualenv: what its installation wrote into the code, such as a file with the version, or compiled modules.
WRITTEN = ".written.tar"
# What a virtualenv has beside packages, so that one that was made before is made again.
CONTENT = "compiled"
# A shorter secret would be found in every other word.
SECRET_LENGTH = 4
# What a netrc file has beside its secrets.
NETRC_WORDS = {"machine", "default", "login", "account", "password"}


class Release:
    """What a release's folder says of its installation. folder: of temporary files, which installers read."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.place, self.code, self.folder = place, place / "code", folder
        self.manifest: dict[str, Any] = json.loads((place / "manifest.json").read_text())
        self.secrets: dict[str, str] = json.loads((place / "secrets.json").read_text())
        self.app_variables: dict[str, str] = self.manifest["environment"] | self.secrets
        pinned = place / "install" / "requirements.txt"
        # Of a lock that no installer here reads, or from outside of the code (releases/requirements.py).
        self.source = pinned if pinned.exists() else self.code / self.manifest["requirements_path"]
        # Such locks have no hash for what comes by git or from the code.
        self.is_converted = Path(self.manifest["requirements_path"]).name in CONVERTED
        is_locked = LOCKED.fullmatch(self.source.name)
        self.files = None if is_locked else RequirementFiles(self.source, self.code, folder, self.app_variables)
        self.variables = self._variables()
        self.deadline = time.monotonic() + self.manifest["stage_timeout_s"]

    @property
    def is_project(self) -> bool:
        """Return whether the project in the code is installed itself: it says how it is built, and is a package."""
        project = self._project()
        tools = project.get("tool", {})
        switches = {"poetry": "package-mode", "uv": "package"}
        return "build-system" in project and all(tools.get(tool, {}).get(key, True) for tool, key in switches.items())

    @property
    def is_local(self) -> bool:
        """Return whether something of the code is installed. A lock may name other folders of the code (workspaces)."""
        if self.files:
            return self.files.is_local
        if self.source.name == "pyproject.toml" and names_code(self._project()):
            return True
        return self.is_project or bool(LOCKED_FOLDER.search(self.source.read_text("utf-8")))

    def _project(self) -> dict[str, Any]:
        """Return what the project beside the requirements says; nothing where a file of pip's format is installed."""
        file = self.source.parent / "pyproject.toml"
        if self.files or not file.exists():
            return {}
        try:
            return tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InstallError(f"{file.name} does not read: {error}") from None

    def _variables(self) -> dict[str, str]:
        """Return what installers get of the application's variables: their own, and what files name.

        Writes the file that NETRC names: before anything of the application runs.
        """
        names = self.files.names if self.files else set[str]()
        installer_variables = {
            name: value for name, value in self.app_variables.items() if name in names or is_for_installers(name)
        }
        if "machine " in installer_variables.get("NETRC", ""):
            # The secret contains the text, but programs need a file.
            netrc = self.folder / "netrc"
            netrc.write_text(installer_variables["NETRC"] + "\n")
            netrc.chmod(0o600)
            shutil.chown(netrc, USER, USER)
            installer_variables["NETRC"] = str(netrc)
        return installer_variables

    def key(self) -> str:
        """Return a hash of what a virtualenv is made from: the system, all files that are read, and the settings.

        Where something of the code is installed, all of the code counts; where it is used as it is, its folder, too.
        Secrets do not count: a new token gives the same packages.
        """
        plain = {name: value for name, value in self.variables.items() if name not in self.secrets}
        # Servers of one system with other security updates use the same packages.
        system = platform.freedesktop_os_release()
        parts = [system["ID"], system.get("VERSION_ID", ""), platform.machine(), sysconfig.get_config_var("SOABI")]
        parts += [json.dumps(plain, sort_keys=True), CONTENT]
        if self.files:
            parts.append(self.files.digest())
        else:
            # uv reads beside its lock which groups of packages a project needs.
            project = self.source.parent / "pyproject.toml"
            read = {self.source, *([project] if self.source.name == "uv.lock" and project.exists() else [])}
            parts += [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sorted(read)]
        if self.is_local:
            parts.append(self.manifest["tar_sha256"])
        if self.files and self.files.is_editable:
            parts.append(self.place.name)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def run(self, *command: str, variables: Mapping[str, str]) -> None:
        """Run a program as the application's user, in the code. Raises InstallError with its last lines."""
        limit_s = max(self.deadline - time.monotonic(), 1)
        base = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": str(self.folder)}
        # Installers have certificates of their own; machines trust those of the system.
        base |= {"PIP_CERT": CA_BUNDLE, "SSL_CERT_FILE": CA_BUNDLE, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        try:
            result = subprocess.run(
                command, check=False, capture_output=True, text=True, errors="replace", timeout=limit_s,
                env={**base, **self.variables, **variables}, cwd=self.code, user=USER, group=USER, extra_groups=[],
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            limit = self.manifest["stage_timeout_s"]
            problem = f"{Path(command[0]).name} did not finish in {limit} s; raise rollout.stage_timeout_s"
            raise InstallError(problem) from None
        if result.returncode:
            output = self.redact(result.stdout + result.stderr)
            lines = (self.files.with_names(output) if self.files else output).strip().splitlines()[-15:]
            head = f"the requirements do not install with Python {platform.python_version()}:\n"
            raise InstallError(head + "\n".join(f"    {line}" for line in lines))

    def redact(self, text: str) -> str:
        """Return a text without secrets, as they are and as URLs have them, and without credentials in URLs."""
        for form in self.forms(self.secrets):
            if len(form) >= SECRET_LENGTH:
                text = text.replace(form, "[removed]")
        return without_credentials(text)

    def forms(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the secrets of these names as they are and in URLs, with their lines, passwords and words of netrc."""
        for name in names:
            value = self.secrets[name]
            parts = set(value.split()) - NETRC_WORDS if name == "NETRC" else set(value.splitlines())
            passwords = re.findall(r"://[^/\s:@]*:([^/\s@]+)@", value)
            yield from {value, quote(value, safe=""), *parts, *passwords}


def names_code(project: Mapping[str, Any]) -> bool:
    """Return whether dependencies of a project are in other files of the code, or are code themselves."""
    sources: dict[str, Any] = project.get("tool", {}).get("uv", {}).get("sources", {})
    is_dynamic = "dependencies" in project.get("project", {}).get("dynamic", ())
    # One source, or a list of them by markers; as text, both are the same.
    return is_dynamic or any(re.search(r"'(path|workspace)':", str(each)) for each in sources.values())


@contextmanager
def writable(release: Release) -> Generator[None]:
    """Let the application's user write the code while it is built, where some of it is installed."""
    if release.is_local:
        change_owner(release.code, USER)
    try:
        yield
    finally:
        if release.is_local:
            change_owner(release.code, "root")


def change_owner(path: Path, user: str) -> None:
    """Give a folder and all in it to a user. Follows no symlink."""
    subprocess.run(["chown", "-R", f"{user}:{user}", str(path)], check=True)


def limit_cache(cache: Path) -> None:
    """Create the cache, and empty it if it has grown above its limit."""
    used = sum(path.lstat().st_size for path in cache.rglob("*")) if cache.exists() else 0
    if used > CACHE_MIB << 20:
        shutil.rmtree(cache)
    cache.mkdir(exist_ok=True)
    shutil.chown(cache, USER, USER)


def build_venv(release: Release, venvs: Path) -> Path:
    """Return the virtualenv for the requirements of a release; build it below venvs if there is none."""
    venv, is_built = venvs / release.key(), False
    if not (venv / wheels.COMPLETE).exists():
        try:
            is_built = not take_from_store(release, venv)
            if is_built:
                build(release, venv)
        except BaseException:
            shutil.rmtree(venv, ignore_errors=True)
            raise
        change_owner(venv, "root")
        (venv / wheels.COMPLETE).touch()
    if (venv / WRITTEN).exists() and not is_built:
        with writable(release):
            release.run("tar", "--extract", f"--file={venv / WRITTEN}", variables={})
    return venv


def make_empty(venv: Path) -> None:
    """Make the folder of a virtualenv, which the application's user may write."""
    shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir()
    shutil.chown(venv, USER, USER)


def take_from_store(release: Release, venv: Path) -> bool:
    """Take the virtualenv from the release store; return False if it has no usable one."""
    if not (release.manifest.get("wheels") and STORE.exists()):
        return False
    make_empty(venv)
    extract = ("tar", "--extract", "--gzip", f"--directory={venv}")
    store = STORE.read_text().strip()
    try:
        return wheels.take(store, venv, lambda archive: release.run(*extract, f"--file={archive}", variables={}))
    except (wheels.WheelsError, InstallError) as error:
        print(f"packages in the release store cannot be used: {error}", flush=True)
        return False


def build(release: Release, venv: Path) -> None:
    """Build the virtualenv, with what its installation writes into the code."""
    print(f"building a virtualenv from {Path(release.manifest['requirements_path']).name}", flush=True)
    make_empty(venv)
    cache = venv.parents[1] / "uv-cache"
    limit_cache(cache)
    with writable(release):
        # After the code has changed hands, which changes the time of each file.
        (start_mark := release.folder / "begun").touch()
        install(release, venv, cache)
        compile_packages(release, venv)
        if release.is_local:
            find = 'find . -type f -cnewer "$1" -print0 | tar --create --null --files-from=- --file="$2"'
            release.run("sh", "-c", find, "sh", str(start_mark), str(venv / WRITTEN), variables={})


def main(place: Path, verb: str = "build", offset: str = "0") -> None:
    """Build the virtualenv of the release in a folder, and leave the symlink to it; or do what the verb says."""
    link = place / "venv"
    if verb == "send":
        wheels.print_piece(link.resolve(), int(offset))
        return
    with tempfile.TemporaryDirectory(prefix="wsgi-fleet-") as folder:
        # Copies of requirement files, which the application's user reads; it may write there: it is its HOME.
        shutil.chown(folder, USER, USER)
        release = Release(place, Path(folder))
        if verb == "pack":
            words = release.forms(release.variables.keys() & release.secrets.keys())
            print(json.dumps(wheels.pack(link.resolve(), words)))
        else:
            link.symlink_to(build_venv(release, place.parents[1] / "venvs"))
            print(f"{READY}{link.resolve().name}", flush=True)


if __name__ == "__main__":
    # The application's user reads what is installed here.
    os.umask(0o022)
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except (InstallError, RequirementError, wheels.WheelsError, OSError) as error:
        sys.exit(str(error))
