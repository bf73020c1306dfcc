"""Install the packages of a release by uv or pip: which of an application's variables they get, and their command."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtualenv import Release

PIP, UV = Path("/srv/gateway/pip"), Path("/srv/gateway/uv/bin/uv")
# What `pip --python` starts, without the second pip that would only start it.
PIP_RUNNER = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(PIP)})) / "pip" / "__pip-runner__.py"
# Address space of each process that compiles: the smallest machine has 512 MiB, and the application runs there.
COMPILER_KIB = 400 << 10
# Of the application's environment, installers get these, and what requirement files name.
_FOR_INSTALLERS = re.compile(r"(PIP|UV)_\w+|(?i:(https?|all|no)_proxy)|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|NETRC")
# But not what says which files are installed, where, and with which Python.
_OURS = re.compile(
    r"UV_(PROJECT(_ENVIRONMENT)?|WORKING_DIR(ECTORY)?|CACHE_DIR|LINK_MODE|FROZEN|LOCKED|TARGET|PREFIX|PYTHON\w*"
    r"|SYSTEM_PYTHON|(NO_)?MANAGED_PYTHON)"
    r"|PIP_(REQUIREMENTS?|EDITABLE|TARGET|PREFIX|ROOT|USER|SRC|CACHE_DIR|LOG(_FILE)?|REPORT|DRY_RUN|PYTHON\w*|PLATFORM"
    r"|IMPLEMENTATION|ABI)"
)
# uv's own words for an index that rejects it.
_REJECTED = re.compile(r"^\s*hint: .*\b(?:401|403)\b.*$", re.MULTILINE)
# Where uv finds packages, and pip does not look.
_INDEX_OF_UV = re.compile(r"UV_(DEFAULT_INDEX|INDEX(_URL)?|EXTRA_INDEX_URL|FIND_LINKS)")


class InstallError(Exception):
    """The requirements do not install."""


def is_for_installers(name: str) -> bool:
    """Return whether installers get a variable of the application, though no file names it."""
    return bool(_FOR_INSTALLERS.fullmatch(name)) and not _OURS.fullmatch(name)


def install(release: Release, venv: Path, cache: Path) -> None:
    """Install a release's requirements into a new virtualenv. Packages may run code of their own: not as root."""
    uses_pip = _uses_pip(release)
    # pip uses the best version of all indexes; uv would use the first index with any version.
    strategy = release.variables.get("UV_INDEX_STRATEGY", "unsafe-best-match")
    variables = {
        "UV_CACHE_DIR": str(cache),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "UV_PROJECT_ENVIRONMENT": str(venv),
        # As pip, it reads nothing but the file.
        **({"UV_INDEX_STRATEGY": strategy, "UV_NO_CONFIG": "1"} if release.files else {}),
    }
    python = str(venv / "bin" / "python")
    release.run("/usr/bin/python3", "-m", "venv", "--without-pip", str(venv), variables={})
    if release.files and uses_pip:
        flags = ("--no-cache-dir", "--no-input", "--progress-bar=off", "-r", str(release.files.file))
        release.run(python, str(PIP_RUNNER), "install", *flags, variables={})
    elif release.files:
        flags = ["--require-hashes"] if release.files.has_hashes and not release.is_converted else []
        words = (str(UV), "pip", "install", "--python", python, *flags, "-r", str(release.files.file))
        try:
            release.run(*words, variables=variables)
        except InstallError as error:
            raise InstallError(f"{error}{_ask_why(release, words, variables, str(error))}") from None
    elif release.source.name == "uv.lock":
        flags = ("--frozen", "--no-dev", "--no-editable", "--python", python, "--project", str(release.source.parent))
        release.run(str(UV), "sync", *flags, variables=variables)
    else:
        # A project that says how it is built is installed; of any other, what it depends on.
        what = str(release.source.parent) if release.is_project and release.source.name == "pyproject.toml" else ""
        words = [what] if what else ["-r", str(release.source)]
        release.run(str(UV), "pip", "install", "--python", python, *words, variables=variables)


def compile_packages(release: Release, venv: Path) -> None:
    """Compile all packages to bytecode, once.

    Later, processes may not write into the virtualenv, so each of them would compile again what it imports.

    What does not compile stays as it is, such as a file of Python 2, or one that takes more memory than COMPILER_KIB.
    """
    limited = ("sh", "-c", 'ulimit -v "$1"; shift; exec "$@"', "sh", str(COMPILER_KIB))
    compiler = ("/usr/bin/python3", "-I", "-m", "compileall", "-qq", "-j", "0", str(venv / "lib"))
    with suppress(InstallError):
        release.run(*limited, *compiler, variables={})


def _uses_pip(release: Release) -> bool:
    """Return whether pip installs, as a variable or an option asks for it, and not uv. Raises InstallError."""
    if not release.files:
        return False
    if any(name.startswith("PIP_") for name in release.variables):
        return True
    option = release.files.option_of_pip
    unread = next(filter(_INDEX_OF_UV.fullmatch, sorted(release.variables)), "")
    if option and unread:
        why = f"requirements have {option}, for which pip installs them, and pip does not read {unread}"
        raise InstallError(f"{why}; set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL in its place, or remove the option")
    return bool(option)


def _ask_why(release: Release, words: Sequence[str], variables: Mapping[str, str], failure: str) -> str:
    """Return lines that name the indexes that reject their credentials; "" where a failure has another cause.

    uv says that only with its own strategy; with the other one, it takes such an index for one without the package.
    """
    if "No solution found" not in failure:
        return ""
    try:
        release.run(*words, "--dry-run", variables={**variables, "UV_INDEX_STRATEGY": "first-index"})
    except InstallError as error:
        return "".join(f"\n{line}" for line in _REJECTED.findall(str(error)) if line not in failure)
    return ""
