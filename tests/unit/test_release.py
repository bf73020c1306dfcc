"""A release is named by all that it is made of, and by nothing else."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from releases.archive import SourceError
from releases.manifest import make_manifest
from releases.release import Release, build, release_id
from releases.source import Source
from settings.application import App
from tests.unit.source_archive import tar

KEY = "k" * 64


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "wsgi.py").write_text("app = None\n")
    (folder / "requirements.txt").write_text("flask\n")
    return folder


def app(**changes: Any) -> App:
    return App.model_validate_json(json.dumps({"source": "app", "module": "package.wsgi:app"} | changes))


def manifest(source: Path, secrets: dict[str, str] | None = None, key: str = KEY, **changes: Any) -> bytes:
    return make_manifest(app(**changes), Source.read(source, app(**changes)), key=key, secrets=secrets or {})


def id_of(source: Path, secrets: dict[str, str] | None = None, **changes: Any) -> str:
    return release_id(manifest(source, secrets, **changes))


def test_the_same_files_make_the_same_bytes_whoever_owns_them_and_whenever_they_were_written(source: Path) -> None:
    before = tar(source)
    os.utime(source / "requirements.txt", (1, 1))
    (source / "requirements.txt").chmod(0o600)
    for path in ("__pycache__/wsgi.pyc", ".git/HEAD", "env/pyvenv.cfg"):
        (source / path).parent.mkdir()
        (source / path).touch()
    assert tar(source) == before


def test_an_archive_holds_the_files_with_normal_modes_and_other_contents_of_one_length_get_other_times(
    source: Path,
) -> None:
    def members() -> dict[str, tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(tar(source))) as archive:
            return {member.name: member for member in archive}

    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("package/wsgi.py")
    before = members()
    modes = {"link": 0o777, "package": 0o755, "package/wsgi.py": 0o644, "requirements.txt": 0o644, "run": 0o755}
    assert {name: member.mode for name, member in before.items()} == modes
    assert before["link"].linkname == "package/wsgi.py"
    (source / "package" / "wsgi.py").write_text("app = 1234\n")
    assert members()["package/wsgi.py"].mtime != before["package/wsgi.py"].mtime


def test_what_must_not_leave_is_refused_with_every_reason_at_once(source: Path) -> None:
    for path in (".env", "package/.env.production", ".env.example"):
        (source / path).touch()
    (source / "out").symlink_to("../../etc")
    (source / "absolute").symlink_to(source / "requirements.txt")
    os.mkfifo(source / "pipe")
    with pytest.raises(SourceError) as error:
        tar(source)
    lines = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]]
    assert lines == [".env", "absolute", "out", "package/.env.production", "pipe"]


def test_each_thing_a_release_is_made_of_changes_its_id_and_the_number_of_servers_does_not(source: Path) -> None:
    environments: list[dict[str, Any]] = [{"environment": {"A": "1"}}, {"environment": {"A": "2"}}]
    others: list[dict[str, Any]] = [{"gateway": {"threads": 2}}, {"health_path": "/"}, {"module": "package.wsgi:other"}]
    ids = [id_of(source, **changes) for changes in ({}, *environments, *others)]
    ids += [id_of(source, secrets={"S": value}) for value in "12"]
    assert id_of(source, fleet={"servers": 5}) == ids[0]
    (source / "requirements.txt").write_text("django\n")
    ids.append(id_of(source))
    assert len(set(ids)) == len(ids)


def test_a_manifest_says_nothing_of_a_secret_that_could_be_checked_without_the_key(source: Path) -> None:
    def digest(key: str) -> str:
        made = manifest(source, {"PIN": "1234"}, key)
        assert b"1234" not in made
        return json.loads(made)["secrets_digest"]

    assert digest(KEY) != digest("x" * 64)


def test_a_release_is_built_of_its_manifest_and_the_source_that_the_manifest_names(
    source: Path, tmp_path: Path
) -> None:
    given, file = manifest(source), tmp_path / "code.tar.gz"
    made = build(source, given, file)
    assert (made, made.id) == (Release(given, file), id_of(source))
    assert gzip.decompress(file.read_bytes()) == tar(source)
    (source / "new").touch()
    with pytest.raises(SourceError, match="changed while `pulumi up` ran"):
        build(source, given, file)


def test_a_source_says_its_commit_and_whether_it_differs_and_writes_nothing(source: Path) -> None:
    def git(*arguments: str) -> None:
        options = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(source), *options, *arguments], check=True, capture_output=True)

    assert Source.read(source, app()).revision == ""
    git("init")
    git("add", ".")
    git("commit", "--message=first")
    # Git would take the new time into its index.
    os.utime(source / "requirements.txt", (1, 1))
    index = (source / ".git" / "index").read_bytes()
    assert re.fullmatch("[0-9a-f]{7,}", Source.read(source, app()).revision)
    assert (source / ".git" / "index").read_bytes() == index
    (source / "new").touch()
    assert Source.read(source, app()).revision.endswith("+changes")


def test_requirements_may_lie_outside_of_the_source_in_its_repository_or_project(tmp_path: Path) -> None:
    source = tmp_path / "top" / "app"
    source.mkdir(parents=True)
    (source.parent / "r.txt").touch()
    outside = app(requirements="../r.txt")
    with pytest.raises(SourceError, match=r"/r\.txt: lies outside of"):
        Source.read(source, outside, project=tmp_path / "other")
    found = [Source.read(source, outside, project=source.parent)]
    subprocess.run(["git", "init", "-q", source.parent], check=True)
    found.append(Source.read(source, outside))
    assert [each.requirements.files for each in found] == [{"requirements.txt": ""}] * 2


def test_a_release_says_whether_its_packages_are_kept(source: Path) -> None:
    assert json.loads(manifest(source))["wheels"] is True
    assert "wheels" not in json.loads(manifest(source, release={"wheels": False}))
