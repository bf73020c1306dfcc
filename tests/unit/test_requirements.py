"""The file that says what an application needs: which one is taken, and locks that become pinned requirements."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from releases.archive import SourceError
from releases.requirements import Requirements, find_requirements

POETRY = """
[[package]]
name = "Flask"
version = "3.1.3"
optional = false
{main}
files = [{{file = "flask.whl", hash = "sha256:aa"}}, {{file = "flask.tar.gz", hash = "sha256:bb"}}]
[package.dependencies]
click = ">=8"

[[package]]
name = "click"
version = "8.3.0"
optional = false
{main}
{markers}
files = []

[[package]]
name = "pytest"
version = "9.0"
optional = false
{dev}
files = []

[[package]]
name = "ours"
version = "0"
optional = false
{main}
files = []
[package.source]
type = "git"
url = "https://host/ours.git"
reference = "main"
resolved_reference = "abc"
subdirectory = "py"

[[package]]
name = "near"
version = "0"
optional = false
{main}
files = []
[package.source]
type = "directory"
url = "libs/near"

[metadata]
lock-version = "2.1"
"""
PROJECT = "[tool.poetry.dependencies]\npython = '^3.11'\nflask = '*'\nours = '*'\nnear = '*'\n"
PIPFILE = {
    "_meta": {
        "sources": [{"name": "a", "url": "https://a/simple"}, {"name": "b", "url": "https://$USER:${WORD}@b/simple"}]
    },
    "default": {
        "flask": {"version": "==3.1.3", "hashes": ["sha256:aa"], "markers": "python_version >= '3.9'"},
        "ours": {"git": "https://host/ours.git", "ref": "abc", "subdirectory": "py"},
        "near": {"path": "./libs/near", "editable": True},
        "redis": {"version": "==5.0", "extras": ["hiredis"]},
        "colorama": {"version": "*", "markers": "os_name == 'posix'"},
        "six": {},
    },
    "develop": {"pytest": {"version": "==9.0"}},
}


def write(source: Path, *names: str, text: str = "") -> None:
    for name in names:
        (source / name).write_text(text)


def test_the_first_file_there_is_is_taken_unless_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has none of requirements\.txt, uv\.lock, .*; make requirements\.txt"):
        find_requirements(tmp_path, None)
    for name in ("pyproject.toml", "pylock.toml", "uv.lock", "requirements.txt"):
        write(tmp_path, name, text="[project]\n" if name == "pyproject.toml" else "")
        assert find_requirements(tmp_path, None) == Requirements(name)
    assert find_requirements(tmp_path, "uv.lock") == Requirements("uv.lock")


@pytest.mark.parametrize(
    ("main", "dev", "markers", "marker"),
    [
        ('groups = ["main"]', 'groups = ["dev"]', "markers = \"os_name == 'posix'\"", " ; os_name == 'posix'"),
        ('category = "main"', 'category = "dev"', "", ""),
        ("", "", "", ""),
    ],
    ids=["2.1", "1", "2.0"],
)
def test_a_lock_of_poetry_becomes_the_requirements_of_its_main_group(
    tmp_path: Path, main: str, dev: str, markers: str, marker: str
) -> None:
    write(tmp_path, "poetry.lock", text=POETRY.format(main=main, dev=dev, markers=markers))
    write(tmp_path, "pyproject.toml", text=PROJECT)
    assert find_requirements(tmp_path, None).files["requirements.txt"].splitlines() == [
        "Flask==3.1.3 --hash=sha256:aa --hash=sha256:bb",
        f"click==8.3.0{marker}",
        "ours @ git+https://host/ours.git@abc#subdirectory=py",
        "./libs/near",
    ]


def test_a_lock_of_pipenv_becomes_the_requirements_of_its_packages(tmp_path: Path) -> None:
    write(tmp_path, "Pipfile.lock", text=json.dumps(PIPFILE))
    assert find_requirements(tmp_path, None).files["requirements.txt"].splitlines() == [
        "--index-url https://a/simple",
        "--extra-index-url https://${USER}:${WORD}@b/simple",
        "flask==3.1.3 ; python_version >= '3.9' --hash=sha256:aa",
        "ours @ git+https://host/ours.git@abc#subdirectory=py",
        "./libs/near",
        "redis[hiredis]==5.0",
        "colorama ; os_name == 'posix'",
        "six",
    ]


@pytest.mark.parametrize(("name", "text"), [("poetry.lock", "["), ("Pipfile.lock", "{"), ("Pipfile.lock", "[]")])
def test_a_lock_that_is_none_is_named(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text=text)
    with pytest.raises(SourceError, match=rf"{re.escape(name)}: cannot be read \(.*\); create it again"):
        find_requirements(tmp_path, None)


@pytest.mark.parametrize(
    ("text", "files", "remedy"),
    [
        ("[tool.poetry.dependencies]", [], "run `poetry lock`"),
        ("[tool.black]", [], "make requirements.txt"),
        ("[tool.black]", ["setup.py"], ""),
        ("[tool.poetry]\n[build-system]", [], ""),
        ("[tool.poetry]\npackage-mode = false\n[build-system]", [], "run `poetry lock`"),
        ("[project]", [], ""),
        ("[", [], "mend it, or make requirements.txt"),
    ],
)
def test_a_project_in_which_no_installer_finds_packages_is_named(
    tmp_path: Path, text: str, files: list[str], remedy: str
) -> None:
    write(tmp_path, "pyproject.toml", *files, text=text)
    with pytest.raises(SourceError, match=rf"pyproject\.toml: .*; {remedy}$") if remedy else nullcontext():
        assert find_requirements(tmp_path, None).path == "pyproject.toml"


@pytest.mark.parametrize("url", ["git+ssh://git@host/x.git", "-e git+git@host:x.git", "x @ git+ssh://host/x"])
def test_what_needs_a_key_of_ssh_is_refused_with_its_file(tmp_path: Path, url: str) -> None:
    (tmp_path / "requirements.txt").write_text("-r base.txt\n-r requirements.txt\n", "utf-16")
    write(tmp_path, "base.txt", text=f"flask\n{url}\n")
    with pytest.raises(SourceError, match=r"base\.txt, line 2: a package by git over SSH needs a key, which servers"):
        find_requirements(tmp_path, None)


UV_LOCK = """
[[package]]
name = "shop"
source = {{ virtual = "." }}
dependencies = [{{ name = "a" }}]
[package.dev-dependencies]
{group} = [{{ name = "b" }}]
[[package]]
name = "a"
source = {{ registry = "https://host" }}
[[package]]
name = "b"
source = {{ git = "ssh://git@host/b.git?rev=main#abc" }}
"""


@pytest.mark.parametrize(
    ("name", "text", "is_refused"),
    [
        ("requirements.txt", "# get it by git clone git@github.com:me/b.git\nflask # ssh://git@host\n", False),
        ("requirements.txt", "b @ git+https://git@host:8443/b.git\n", False),
        ("pyproject.toml", '[project.urls]\nRepository = "ssh://git@host/b.git"\n', False),
        ("pyproject.toml", '[project]\ndependencies = ["b@git+ssh://git@host/b.git"]\n', True),
        ("pyproject.toml", '[tool.uv.sources]\nb = { git = "ssh://git@host/b.git" }\n', True),
        ("pylock.toml", '[[packages]]\nname = "b"\n[packages.vcs]\nurl = "ssh://git@host/b.git"\n', True),
        ("uv.lock", UV_LOCK.format(group="dev"), False),
        ("uv.lock", UV_LOCK.format(group="deploy"), True),
        ("Pipfile.lock", json.dumps({"default": {"b": {"git": "git@host:b.git", "ref": "a"}}}), True),
        ("Pipfile.lock", json.dumps({"develop": {"b": {"git": "git@host:b.git", "ref": "a"}}}), False),
    ],
)
def test_only_packages_that_are_installed_need_a_key(tmp_path: Path, name: str, text: str, is_refused: bool) -> None:
    write(tmp_path, name, text=text)
    if is_refused:
        with pytest.raises(SourceError, match=rf"{re.escape(name)}: b: a package by git over SSH"):
            find_requirements(tmp_path, None)
    else:
        assert find_requirements(tmp_path, None).path == name


def make_outside(project: Path) -> Path:
    """Create a project whose requirement files lie beside its source and in it, and return the source."""
    source = project / "shop" / "src"
    source.mkdir(parents=True)
    write(project / "shop", "requirements.txt", text="-r src/extra.txt # it\n-c https://host/c.txt\nflask==3 # \xc5\n")
    write(source, "extra.txt", text="-r ../../base.txt\n./libs/near\n")
    (project / "base.txt").write_text("click==8 \\\n  --hash=sha256:00\n", "utf-8-sig")
    return source


def test_requirement_files_outside_of_the_source_are_brought_by_the_release(tmp_path: Path) -> None:
    source = make_outside(tmp_path)
    found = find_requirements(source, "../requirements.txt", tmp_path)
    assert found == Requirements(
        "../requirements.txt",
        {
            "requirements.txt": "-r requirements-1.txt\n-c https://host/c.txt\nflask==3 # \xc5\n",
            "requirements-1.txt": "-r requirements-2.txt\n./libs/near\n",
            "requirements-2.txt": "click==8 \\\n  --hash=sha256:00\n",
        },
    )
    # A file of the source may include them as well.
    assert find_requirements(source, "extra.txt", tmp_path).files["requirements-1.txt"].startswith("click")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shop/requirements.txt": "-r ../../outside.txt"}, r"/outside\.txt: lies outside of /.*; copy it"),
        ({"shop/requirements.txt": "-r ../link.txt"}, r"/link\.txt: lies outside of"),
        ({"shop/requirements.txt": "\n-r gone.txt"}, r"/requirements\.txt, line 2: \.\./gone\.txt: no such file in"),
        ({"shop/requirements.txt": "-r prod.env", "shop/prod.env": ""}, r"/prod\.env: may contain secrets"),
        ({"base.txt": "-i https://me:hunter2@host/simple"}, r"/base\.txt: has a password in a URL; write \${NAME}"),
        ({"base.txt": "caf\xe9"}, r"/base\.txt: not UTF-8"),
    ],
)
def test_a_release_brings_no_file_that_is_not_the_projects_or_may_hold_secrets(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    project = tmp_path / "project"
    source = make_outside(project)
    write(tmp_path, "outside.txt")
    (project / "link.txt").symlink_to(tmp_path / "outside.txt")
    for name, text in change.items():
        (project / name).write_text(text, "latin-1")
    with pytest.raises(SourceError, match=message):
        find_requirements(source, "../requirements.txt", project)


def test_a_lock_with_a_project_must_lie_in_the_source(tmp_path: Path) -> None:
    source = make_outside(tmp_path)
    write(tmp_path, "uv.lock")
    with pytest.raises(SourceError, match=r"/uv\.lock: must lie in the source, as its project does"):
        find_requirements(source, "../../uv.lock", tmp_path)
