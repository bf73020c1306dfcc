"""Packages that need another Python than servers have: found in files before anything is made, else one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from releases.cause import shorten
from releases.python_requirement import find_problems
from settings.operating_system import OPERATING_SYSTEMS

OLD, NEW = OPERATING_SYSTEMS["debian-12"], OPERATING_SYSTEMS["debian-13"]
DJANGO = 'name = "django"\nversion = "6.0.1"\ngroups = ["main"]\n'
TO_NEW = "and servers have 3.11.2; set `wsgi-fleet:os` to debian-13"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("pyproject.toml", '[project]\nrequires-python = ">=3.12"', f"it needs Python >=3.12, {TO_NEW}"),
        ("pyproject.toml", '[project]\nrequires-python = ">=3.11,<4"', ""),
        ("pyproject.toml", "[project]\nrequires-python = 3", ""),
        ("pyproject.toml", '[project]\nrequires-python = "^3.12"', ""),
        ("pyproject.toml", "[project", ""),
        ("pyproject.toml", "project = 1", ""),
        ("uv.lock", 'requires-python = "==3.13.*"', f"it needs Python ==3.13.*, {TO_NEW}"),
        (
            "pylock.toml",
            'requires-python = ">=3.99"',
            "it needs Python >=3.99, and servers have 3.11.2; no `wsgi-fleet",
        ),
        (
            "pylock.toml",
            f'[[packages]]\n{DJANGO}requires-python = ">=3.12"',
            f"django==6.0.1 needs Python >=3.12, {TO_NEW}",
        ),
        ("pylock.toml", f'[[packages]]\n{DJANGO}requires-python = ">=3.12"\nmarker = "python_version > \'3.11\'"', ""),
        ("pylock.toml", "packages = [1]", ""),
        (
            "poetry.lock",
            f'[[package]]\n{DJANGO}python-versions = ">=3.12"',
            f"django==6.0.1 needs Python >=3.12, {TO_NEW}",
        ),
        ("poetry.lock", f'[[package]]\n{DJANGO.replace("main", "dev")}python-versions = ">=3.12"', ""),
        ("poetry.lock", '[metadata]\npython-versions = "~3.13"', ""),
        ("poetry.lock", '[metadata]\npython-versions = ">=3.12"', f"it needs Python >=3.12, {TO_NEW}"),
    ],
)
@pytest.mark.parametrize("folder", ["", "deploy/"])
def test_files_of_the_source_say_which_python_it_needs(
    file: str, text: str, message: str, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / folder / file).write_text(text)
    installed = f"{folder}{file}" if folder else None
    found = find_problems(tmp_path, installed, OLD)
    assert [line[: len(f"{folder}{file}: {message}")] for line in found] == (
        [f"{folder}{file}: {message}"] if message else []
    )
    if TO_NEW in message:
        assert find_problems(tmp_path, installed, NEW) == []


def test_a_lock_that_is_not_installed_says_nothing_and_the_project_does(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").touch()
    for name in ("uv.lock", "poetry.lock"):
        (tmp_path / name).write_text('requires-python = ">=3.12"\n[metadata]\npython-versions = ">=3.12"')
    assert find_problems(tmp_path, None, OLD) == []
    (tmp_path / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.12"')
    assert find_problems(tmp_path, None, OLD)[0].startswith("pyproject.toml: it needs Python >=3.12")


# Of pip 26 and uv 0.13, shortened.
PIP = """\
    ERROR: Ignored the following versions that require a different python version: 6.0 Requires-Python >=3.12; 6.0.1 \
Requires-Python >=3.12; 7.0 Requires-Python >=3.14
    ERROR: Could not find a version that satisfies the requirement {0} (from versions: 5.2.8, 5.2.9)
    ERROR: No matching distribution found for {0}"""
SOURCE = "    ERROR: Package 'shop' requires a different Python: 3.11.2 not in '>=3.12'"
UV = """\
    error: No solution found when resolving dependencies
      cause: Because the current Python version (3.11.2) does not satisfy Python>=3.12 and django==6.0.1 depends on \
Python>=3.12, we can conclude that django==6.0.1 cannot be used."""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (PIP.format("Django==6.0.1"), f"Django==6.0.1 needs Python >=3.12, {TO_NEW}"),
        (
            PIP.format("Django>6"),
            "Django>6 needs Python >=3.14, and servers have 3.11.2; no `wsgi-fleet:os` has it: take",
        ),
        (SOURCE, f"shop needs Python >=3.12, {TO_NEW}"),
        (UV, f"django==6.0.1 needs Python >=3.12, {TO_NEW}"),
        ("    ERROR: No matching distribution found for nothing", ""),
        ("    error: gcc failed", ""),
    ],
    ids=["pip, pinned", "pip, range", "pip, source", "uv", "no such package", "another failure"],
)
def test_what_installers_say_of_another_python_is_one_line(lines: str, message: str) -> None:
    short = shorten(f"error: the requirements do not install with Python 3.11.2:\n{lines}")
    assert short.startswith(message or "error: the requirements do not install with Python 3.11.2:\n")
    assert ("\n" in short) == (not message)
