"""What of a source belongs into a release: what git would keep, what .fleetignore says, and what never leaves."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from releases.archive import SourceError, tar_sha256
from releases.source_files import find_files


def write(folder: Path, **files: str) -> None:
    """Write files; in a name "__" is a slash, and "_" before a name a dot."""
    for name, text in files.items():
        path = folder / re.sub(r"(^|/)_", r"\1.", name.replace("__", "/")).replace("_py", ".py").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def git(folder: Path, *arguments: str) -> None:
    options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", "-C", str(folder), *options, *arguments], check=True, capture_output=True)


@pytest.fixture(params=["repository", "folder"])
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Create a source, in a repository or in none."""
    folder = tmp_path / "project" / "app"
    write(folder, app_py="app = None\n")
    if request.param == "repository":
        git(tmp_path / "project", "init")
    return folder


def kept(source: Path, static: str = "") -> list[str]:
    found = find_files(source, static=static)
    assert not found.problems
    return [path.relative_to(source).as_posix() for path in found.paths if not path.is_dir()]


@pytest.mark.parametrize(
    ("files", "rules", "expected"),
    [
        ({"_gitignore": "big/\n*.log\n", "big__data": "", "x_log": ""}, {}, [".gitignore", "x_log"]),
        ({"sub___gitignore": "/made\n", "sub__made": "", "made": ""}, {}, ["made", "sub/.gitignore"]),
        ({"_fleetignore": "docs/\n", "docs__index": "", "sub__docs__x": ""}, {}, [".fleetignore"]),
        (
            {"_gitignore": "dist/\n", "_fleetignore": "!dist/\n", "dist__site": ""},
            {},
            [".fleetignore", ".gitignore", "dist/site"],
        ),
        (
            {"_gitignore": "node_modules\n", "static__node_modules__a": "", "node_modules__b": ""},
            {"static": "static"},
            [".gitignore", "static/node_modules/a"],
        ),
        ({"env__pyvenv.cfg": "", "env__bin__x": "", "_hg__x": "", "_svn__x": "", "__pycache____x": ""}, {}, []),
    ],
    ids=[".gitignore", "one in a folder", ".fleetignore", "taken all the same", "node_modules", "never"],
)
def test_a_release_has_what_git_would_keep_and_fleetignore_decides(
    source: Path, files: Mapping[str, str], rules: dict[str, str], expected: list[str]
) -> None:
    write(source, **files)
    assert kept(source, **rules) == sorted([*expected, "app.py"])


def test_what_is_committed_is_kept_though_it_is_ignored_and_what_is_deleted_is_not(tmp_path: Path) -> None:
    write(tmp_path, app_py="", gone="", _gitignore="app.py\n")
    git(tmp_path, "init")
    git(tmp_path, "add", "--force", ".")
    (tmp_path / "gone").unlink()
    assert kept(tmp_path) == [".gitignore", "app.py"]


@pytest.mark.parametrize("how", ["submodule", "clone"])
def test_a_repository_in_the_source_is_a_folder_of_it(source: Path, tmp_path: Path, how: str) -> None:
    inner = tmp_path / "inner"
    write(inner, _gitignore="/_state\n/made\n", lib_py="")
    git(inner, "init")
    git(inner, "add", ".")
    git(inner, "commit", "--message=first")
    if how == "submodule" and (tmp_path / "project" / ".git").exists():
        git(source, "submodule", "add", str(inner), "deploy")
    else:
        git(source, "clone", str(inner), "deploy")
    write(source, deploy__made="")
    assert kept(source) == ["app.py", "deploy/.gitignore", "deploy/lib.py"]


def test_what_this_project_remembers_changes_no_release(source: Path) -> None:
    state = source / "deploy" / ".state"
    write(source, deploy__stack="")
    before = tar_sha256(source, state=state)
    write(source, deploy___state__passphrase="secret", deploy___state__local__failed="")
    assert tar_sha256(source, state=state) == before


def test_a_source_that_its_repository_ignores_is_read_all_the_same(tmp_path: Path) -> None:
    git(tmp_path, "init")
    write(tmp_path, _gitignore="/app\n", app__app_py="")
    assert kept(tmp_path / "app") == ["app.py"]


def test_all_files_that_usually_hold_secrets_are_named_and_ignored_ones_are_no_problem(source: Path) -> None:
    refused = [".envs/.production/.pg", ".envs/dist.yaml", ".envs/template", "a/.ENV", "prod.env.bak~", "prod.env"]
    for name in (*refused, ".env", ".env.example", "a/.env.Sample", "example.env", "config.env.js", "env.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    write(source, _gitignore="/.env\n")
    with pytest.raises(SourceError) as error:
        tar_sha256(source)
    lines = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]]
    assert lines == refused
    write(source, _fleetignore=".envs/\n*.env\n.ENV\n*.bak~\n")
    tar_sha256(source)


@pytest.mark.parametrize("name", [".fleetignore", ".gitignore"])
def test_a_list_of_what_to_ignore_may_have_a_mark_and_is_refused_in_another_encoding(tmp_path: Path, name: str) -> None:
    write(tmp_path, app_py="", secret="")
    (tmp_path / name).write_text("secret\n", "utf-8-sig")
    assert kept(tmp_path) == [name, "app.py"]
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / name).write_text("secret\n", encoding)
        message = f"{name}: not UTF-8, so it would ignore nothing; save it so"
        assert find_files(tmp_path).problems == [message]


def test_a_source_that_is_too_large_names_its_largest_folders(source: Path) -> None:
    write(source, media__video__a="x" * (2 << 20), media__b="x" * (1 << 20), small="x")
    assert tar_sha256(source, max_mib=4)
    message = (
        "  files of 3 MiB, and release.max_mib is 2 (media/video: 2 MiB, media: 1 MiB, .: 0 MiB); name what servers do "
        "not need in .fleetignore, or raise release.max_mib"
    )
    with pytest.raises(SourceError, match=f"cannot be released:\n{re.escape(message)}$"):
        tar_sha256(source, max_mib=2)
