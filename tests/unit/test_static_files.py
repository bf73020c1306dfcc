"""Static files on the balancer: what comes there from a server, what is served of it, and what is refused."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
import pytest
import release as app_server
import static_files
from static_files import StaticFilesError

from tests.unit.app_server import lay_out
from tests.unit.script_input import call_with_input


@pytest.fixture(autouse=True)
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of application hello on a balancer that has served nothing yet."""
    monkeypatch.setattr(static_files, "ROOT", tmp_path / "static")
    monkeypatch.setattr(static_files, "LOCK", tmp_path / "lock")
    return tmp_path / "static" / "hello"


def archive(**files: str) -> bytes:
    """Return a tar as an app server sends it; names have __ in the place of /."""
    return tar(*((name.replace("__", "/"), content.encode(), tarfile.REGTYPE) for name, content in files.items()))


def tar(*members: tuple[str, bytes, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mtime = kind, len(content), 17
            info.linkname = "/etc/passwd"
            made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


call = partial(call_with_input, static_files.main)


def put(release: str, **files: str) -> None:
    call("put", "hello", release, stdin=archive(**files))


def roll_out(release: str, **files: str) -> None:
    put(release, **files)
    call("point", "hello", release)


def served_files(app: Path) -> dict[str, str]:
    """Return all files that Nginx finds: path -> content."""
    root = app / "served"
    return {str(file.relative_to(root)): file.read_text() for file in root.rglob("*") if file.is_file()}


def test_files_of_a_release_that_comes_are_served_beside_those_that_are_live(app: Path) -> None:
    roll_out("r1", static__a="1", static__app="old")
    put("r2", static__b="2", static__app="new")
    assert served_files(app) == {"static/a": "1", "static/b": "2", "static/app": "old"}
    call("point", "hello", "r2")
    assert served_files(app) == {"static/a": "1", "static/b": "2", "static/app": "new"}


def test_what_was_rejected_is_served_no_more(app: Path) -> None:
    roll_out("r1", static__a="1")
    put("r2", static__b="2")
    call("drop", "hello")
    assert served_files(app) == {"static/a": "1"}
    call("drop", "another")


def test_a_release_that_serves_again_has_its_files_first_and_those_of_the_one_that_was_left_beside_them(
    app: Path,
) -> None:
    roll_out("r1", static__app="one", static__a="1")
    roll_out("r2", static__app="two", static__b="2")
    call("put", "hello", "r1")
    assert served_files(app)["static/app"] == "two"
    call("point", "hello", "r1")
    assert served_files(app) == {"static/app": "one", "static/a": "1", "static/b": "2"}


def test_each_verb_may_be_run_again(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roll_out("r1", static__a="1")
    for _ in range(2):
        put("r2", static__b="2")
        put("r2", static__b="ignored, for it is here")
    for _ in range(2):
        call("point", "hello", "r2")
    put("r2")
    assert served_files(app) == {"static/a": "1", "static/b": "2"}
    capsys.readouterr()
    call("status", "hello")
    assert json.loads(capsys.readouterr().out) == {"live": "r2", "next": None, "before": "r1", "releases": ["r1", "r2"]}


def test_a_balancer_that_has_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    call("status", "hello")
    assert json.loads(capsys.readouterr().out) == {"live": None, "next": None, "before": None, "releases": []}
    with pytest.raises(StaticFilesError, match="the static files of r1 are not here; `pulumi up` brings them"):
        call("point", "hello", "r1")


def test_what_two_releases_call_a_file_and_a_folder_is_that_of_the_first(app: Path) -> None:
    roll_out("r1", static__x="file", static__y__z="deep")
    put("r2", static__x__a="deep", static__y="file")
    assert served_files(app) == {"static/x": "file", "static/y/z": "deep"}


def test_nginx_finds_a_file_of_both_releases_at_every_moment(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roll_out("r1", static__both="1", static__old="1")
    put("r2", static__both="2", static__new="2")
    resolved = (app / "served").resolve()
    rename, seen = Path.rename, list[set[str]]()

    def rename_and_look(self: Path, target: Path) -> Path:
        seen.append({path.removeprefix("static/") for path in served_files(app)})
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_and_look)
    call("point", "hello", "r2")
    assert seen
    assert all(each == {"both", "old", "new"} for each in seen)
    # A request that was on its way into the last folder still gets there.
    assert (resolved / "static" / "old").exists()


def test_pruning_keeps_what_is_named_and_what_is_served(app: Path) -> None:
    for release in ("r1", "r2", "r3", "r4"):
        roll_out(release, static__a=release)
    (app / "releases" / ".r5.partial").mkdir()
    call("prune", "hello", "r1")
    assert sorted(each.name for each in (app / "releases").iterdir()) == ["r1", "r3", "r4"]
    assert len(list(app.glob("served-*"))) == 2


def test_a_file_keeps_its_time_over_releases_and_another_content_has_another(app: Path) -> None:
    roll_out("r1", static__same="x", static__other="a")
    times = {path: (app / "served" / path).stat().st_mtime for path in served_files(app)}
    roll_out("r2", static__same="x", static__other="b")
    again = {path: (app / "served" / path).stat().st_mtime for path in served_files(app)}
    assert times["static/same"] == again["static/same"]
    assert times["static/other"] != again["static/other"]
    assert all(1_000_000_000 <= moment < 1_450_000_000 for moment in again.values())


@pytest.mark.parametrize("name", ["../x", "/etc/x", "static/../../x", "static/.git/x", ".x"])
def test_a_name_that_leads_elsewhere_or_begins_with_a_dot_is_refused(app: Path, name: str) -> None:
    with pytest.raises(StaticFilesError, match="plain files without a dot in front; this is none"):
        call("put", "hello", "r1", stdin=tar((name, b"x", tarfile.REGTYPE)))
    assert not (app / "releases" / "r1").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_what_is_no_plain_file_is_refused(kind: bytes) -> None:
    with pytest.raises(StaticFilesError, match="static/x: static files are plain files"):
        call("put", "hello", "r1", stdin=tar(("static/x", b"", kind)))


def test_an_archive_that_did_not_come_whole_is_refused_and_leaves_what_is_served(app: Path) -> None:
    roll_out("r1", static__a="1")
    whole = archive(static__b="2" * 9999)
    damaged = bytearray(whole)
    damaged[-6] ^= 1
    for content in (b"", whole[:-1], whole[:40], b"no gzip", bytes(damaged), gzip.compress(b"")):
        with pytest.raises(StaticFilesError, match=r"the archive of r2 arrived incomplete .* run `pulumi up` again"):
            call("put", "hello", "r2", stdin=content)
        assert served_files(app) == {"static/a": "1"}
        assert [each.name for each in (app / "releases").iterdir()] == ["r1"]
    put("r2", static__b="2")
    assert sorted(each.name for each in (app / "releases").iterdir()) == ["r1", "r2"]


@pytest.mark.parametrize(
    "files", [{"a": "x" * 6000, "b": "x" * 5000}, dict.fromkeys("abc", "x")], ids=["bytes", "files"]
)
def test_more_than_there_is_room_for_is_refused(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_files, "MAX_MIB", 1)
    monkeypatch.setattr(static_files, "BLOCK", 400_000)
    with pytest.raises(StaticFilesError, match="static files take more than 1 MiB; large ones belong elsewhere"):
        put("r1", **{name: content * 100 for name, content in files.items()})


@pytest.fixture
def write_static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes static files to folder `out` of release r1, and returns the code folder."""
    host = lay_out(tmp_path / "server", monkeypatch)

    def make(**files: str) -> Path:
        code = host.place("r1", static={"folder": "out", "url_path": "/a/static/"}) / "code"
        for name, content in files.items():
            file = code / "out" / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return code

    return make


def read_sent(capsys: pytest.CaptureFixture[str]) -> bytes:
    """Return what the server prints, as the rollout reads it."""
    capsys.readouterr()
    app_server.main(["static", "r1"])
    return b"".join(base64.b64decode(line, validate=True) for line in capsys.readouterr().out.split())


def test_a_server_sends_what_the_balancer_takes(
    write_static: Callable[..., Path], app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = write_static(
        **{"css__app.css": "body {}", "large": "0123456789" * 50_000, ".hidden": "x", ".git__config": "x"}
    )
    (code / "out" / "empty").mkdir()
    call("put", "hello", "r1", stdin=read_sent(capsys))
    assert served_files(app) == {"a/static/css/app.css": "body {}", "a/static/large": "0123456789" * 50_000}


def test_a_folder_without_files_is_no_mistake(
    write_static: Callable[..., Path], app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (write_static() / "out").mkdir(parents=True)
    call("put", "hello", "r1", stdin=read_sent(capsys))
    assert served_files(app) == {}


def test_a_server_follows_no_link_that_a_build_made(write_static: Callable[..., Path]) -> None:
    code = write_static(a="1")
    (code.parent / "environment").write_text("PASSWORD=opensesame")
    (code / "out" / "x").symlink_to("../../environment")
    with pytest.raises(common.AppServerError, match="out/x: is not a regular file; remove it, or replace it by a file"):
        app_server.print_static("r1")
    (code / "out" / "x").unlink()
    (code / "out").rename(code / "real")
    for target in ("real", "..", "/etc"):
        (code / "out").symlink_to(target)
        with pytest.raises(common.AppServerError, match=r"static\.folder: out: no such folder in the release"):
            app_server.print_static("r1")
        (code / "out").unlink()


def test_a_server_refuses_what_the_balancer_would(
    write_static: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_static(a="x" * 600_000, b="x" * 600_000)
    monkeypatch.setattr(app_server, "STATIC_MIB", 1)
    with pytest.raises(common.AppServerError, match="static files take more than 1 MiB"):
        app_server.print_static("r1")


def test_both_ends_take_the_same() -> None:
    assert static_files.MAX_MIB == app_server.STATIC_MIB
