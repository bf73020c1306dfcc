"""Which files of an application's source belong into a release."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

# Never part of a release.
VERSION_CONTROL = frozenset({".git", ".hg", ".svn"})
CACHES = frozenset({"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox"})
# Part of it in the folder of static files alone: elsewhere it is what a build on the operator's machine needs.
NODE_MODULES = "node_modules"
# Files such as .env and prod.env usually contain secrets, which must not be copied to the store. These do not.
HARMLESS_ENDINGS = frozenset({".example", ".sample", ".template", ".dist"})
# The end of such a name, with what editors and people add to copies. Others, such as config.env.js, are code.
_ENV_FILE = re.compile(r"\.env(\W(bak|backup|copy|local|old|orig|save|swp)|[\W\d])*$")
IGNORE_FILE = ".fleetignore"
GIT_IGNORE_FILE = ".gitignore"
REMEDY = "remove it, or make it readable"
# Git calls no program that a repository names, with any owner of the files.
_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "safe.directory=*")
# The beginning of its complaint about a folder, which it then leaves out.
_UNREADABLE = "warning: could not open directory '"


@dataclass(frozen=True)
class Found:
    """paths: folders and files below a source, sorted, a folder before its content. problems: lines, with paths."""

    paths: Sequence[Path] = ()
    problems: list[str] = field(default_factory=list[str])


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    """Run git in a folder; return None if there is no git, or it fails."""
    command = [*_GIT, "-C", str(folder), *arguments]
    # A hook that runs `pulumi` has a repository of its own in its environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}
    try:
        result = subprocess.run(command, check=False, capture_output=True, env=environment)
    except OSError:
        return None
    return result if result.returncode == 0 else None


def find_files(source: Path, *, static: str = "", state: Path | None = None) -> Found:
    """Find what belongs into a release: what git would keep, and what .fleetignore says of the rest.

    static: folder of the files that the balancer serves, inside source; it is taken with what git ignores. state: a
    folder that never belongs to a release.
    """
    problems: list[str] = []
    files = _SourceFiles(source, static, state, problems)
    paths = {path for path in files.walk() if path != source}
    # Git lists files alone.
    for path in list(paths):
        paths.update(parent for parent in path.parents if parent != source and parent.is_relative_to(source))
    usable: list[Path] = []
    for path in sorted(paths, key=lambda each: each.parts):
        try:
            problem = _problem(path, source)
        except OSError as error:
            problem = f"{error.strerror}; {REMEDY}"
        if problem:
            problems.append(describe(path, source, problem))
        else:
            usable.append(path)
    return Found(usable, sorted(set(problems)))


def describe(path: Path, source: Path, problem: str) -> str:
    """Return a problem with its path as one line, with any characters of the name."""
    name = str(path.relative_to(source))
    return f"{name if name.isprintable() else ascii(name)}: {problem}"


class _SourceFiles:
    """Lists the paths of one source. problems: gets a line for each folder that cannot be read."""

    def __init__(self, source: Path, static: str, state: Path | None, problems: list[str]) -> None:
        self.source, self.state, self.problems = source, state, problems
        self.static = source / static if static else None
        self.is_virtualenv = cache(lambda folder: _mode(folder / "pyvenv.cfg") != 0)  # pyright: ignore
        self.ignore_spec = self._read_spec(source / IGNORE_FILE)

    def walk(self) -> Iterator[Path]:
        """Yield the paths that belong into a release; .fleetignore has the last word."""
        for path in self._walk_by_git(self.source):
            if self._matches(path) is not True:
                yield path
        if self.static and self.static.is_dir():
            yield from (path for path in self._walk(self.static, None) if self._matches(path) is not True)
        if any(pattern.include is False for pattern in self.ignore_spec.patterns):
            yield from (path for path in self._walk(self.source, None) if self._matches(path) is False)

    def _matches(self, path: Path) -> bool | None:
        """Return what .fleetignore says: True to leave it out, False to take it, None for nothing."""
        is_folder = stat.S_ISDIR(_mode(path))
        return self.ignore_spec.check_file(f"{_name(path, self.source)}{'/' if is_folder else ''}").include

    def _walk_by_git(self, folder: Path) -> Iterator[Path]:
        """Yield what git lists below a folder; walk where it is in no repository, or in one that ignores it."""
        result = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = [os.fsdecode(name) for name in result.stdout.split(b"\0") if name] if result else []
        if not result or not names:
            yield from self._walk(folder, [])
            return
        for line in os.fsdecode(result.stderr).splitlines():
            if line.startswith(_UNREADABLE):
                name, _, why = line.removeprefix(_UNREADABLE).rpartition("': ")
                self.problems.append(describe(folder / name.rstrip("/"), self.source, f"{why}; {REMEDY}"))
        for name in names:
            path = folder / name
            if not self._belongs(path):
                continue
            mode = _mode(path)
            # What is deleted and still in the index is no longer there.
            if mode:
                yield path
            # A submodule, or a repository inside of this one.
            if stat.S_ISDIR(mode):
                yield from self._walk_by_git(path)

    def _walk(self, folder: Path, specs: list[tuple[Path, GitIgnoreSpec]] | None) -> Iterator[Path]:
        """Yield what is below a folder. specs: .gitignore files of folders above; None to ignore no path."""
        if specs is not None and (folder / GIT_IGNORE_FILE).is_file():
            specs = [*specs, (folder, self._read_spec(folder / GIT_IGNORE_FILE))]
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            self.problems.append(describe(folder, self.source, f"{error.strerror}; {REMEDY}"))
            return
        for path in found:
            is_folder = stat.S_ISDIR(_mode(path))
            if not self._belongs(path) or _is_ignored(path, is_folder=is_folder, specs=specs or ()):
                continue
            yield path
            if is_folder:
                yield from self._walk(path, specs)

    def _read_spec(self, file: Path) -> GitIgnoreSpec:
        """Return the patterns of a file, none if it is missing; an unreadable file is a problem."""
        # Here, because most providers read no source.
        from pathspec import GitIgnoreSpec  # noqa: PLC0415

        text = ""
        try:
            if file.is_file():
                # A mark at its beginning would be a part of the first pattern.
                text = file.read_text("utf-8-sig")
        except OSError as error:
            self.problems.append(describe(file, self.source, f"{error.strerror}; {REMEDY}"))
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            self.problems.append(describe(file, self.source, "not UTF-8, so it would ignore nothing; save it so"))
        return GitIgnoreSpec.from_lines(text.splitlines())

    def _belongs(self, path: Path) -> bool:
        """Return whether a path may belong to a release at all."""
        if path.suffix == ".pyc" or (self.state and path.is_relative_to(self.state)):
            return False
        parts = PurePosixPath(_name(path, self.source)).parts
        if not (VERSION_CONTROL | CACHES).isdisjoint(parts):
            return False
        if NODE_MODULES in parts and not (self.static and path.is_relative_to(self.static)):
            return False
        folders = [each for each in (path, *path.parents) if each != self.source and each.is_relative_to(self.source)]
        return not any(map(self.is_virtualenv, folders))


def _is_ignored(path: Path, *, is_folder: bool, specs: Iterable[tuple[Path, GitIgnoreSpec]]) -> bool:
    """Return whether .gitignore files leave a path out; that of the nearest folder counts."""
    verdict = False
    for folder, spec in specs:
        is_included = spec.check_file(f"{_name(path, folder)}{'/' if is_folder else ''}").include
        verdict = verdict if is_included is None else is_included
    return verdict


def _mode(path: Path) -> int:
    """Return the type and mode of a path itself, 0 if it is missing or unreadable."""
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _problem(path: Path, source: Path) -> str:
    """Return why a path cannot be released; "" where it can. Raises OSError."""
    if path.is_symlink():
        try:
            path.stat()
        except OSError as error:
            if error.errno == errno.ELOOP:
                return "a symlink to itself; remove it"
        # Servers unpack nothing that leads out of the tree, not even what leads back into it.
        target = os.path.normpath(path.relative_to(source).parent / path.readlink())
        if target == ".." or target.startswith(("/", "../")) or not path.resolve().is_relative_to(source.resolve()):
            return "a symlink out of the source; copy what it points at"
    elif path.is_dir():
        return ""
    elif not path.is_file():
        return "neither file nor folder nor symlink; remove it"
    if may_contain_secrets(path.relative_to(source)):
        return (
            "may contain secrets; set them with `pulumi config set --secret --path` and move it away, or name it in "
            f"{IGNORE_FILE}"
        )
    return ""


def may_contain_secrets(path: Path) -> bool:
    """Return whether files of this name usually contain secrets: .env, prod.env, prod.env.bak, and all in .envs/."""
    *folders, name = (part.lower() for part in path.parts)
    if any(part.startswith(".env") or part.endswith(".env") for part in folders):
        return True
    stem, _, ending = name.rpartition(".")
    if f".{ending}" in HARMLESS_ENDINGS or f".{stem}" in HARMLESS_ENDINGS:
        return False
    return name.startswith(".env") or bool(_ENV_FILE.search(name))
