"""The virtualenv of a release: what makes another one, how it is made, and what is said where it cannot be."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import installers
import pytest
import requirement_files
import virtualenv
import wheels
from installers import InstallError
from requirement_files import RequirementError, join_lines

SYNC = "sync --frozen --no-dev --no-editable --python {python} --project {code}"
PYPROJECT = '[build-system]\nrequires = ["setuptools"]\n[project]\nname = "shop"\n'
NO_POETRY_PACKAGE, NO_UV_PACKAGE = "[tool.poetry]\npackage-mode = false\n", "[tool.uv]\npackage = false\n"


RUN = subprocess.run


class Server:
    """What stands in for an app server with one release. calls: commands, each as one line. result: of each.

    writes: what uv writes into the code. Shells and tar run for real.
    """

    def __init__(self, root: Path) -> None:
        self.place, self.venvs, self.calls = root / "releases" / "r1", root / "venvs", list[str]()
        self.environments: list[dict[str, str]] = []
        self.result = subprocess.CompletedProcess("", 0, "", "")
        self.manifest: dict[str, Any] = {"requirements_path": "requirements.txt", "tar_sha256": "x"}
        self.manifest |= {"stage_timeout_s": 40, "environment": {}}
        self.secrets: dict[str, str] = {}
        self.writes = ""
        (self.place / "code").mkdir(parents=True)
        self.venvs.mkdir()
        self.write("requirements.txt", "flask")

    def write(self, name: str, content: str | bytes) -> None:
        path = self.place / "code" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def run(self, command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        user = options.get("user")
        if user:
            assert 0 < options["timeout"] <= 40
            assert options["cwd"] == self.place / "code"
            if "compileall" not in command:
                self.environments.append(options["env"])
        self.calls.append(" ".join([*command, *([f"as {user}"] if user else [])]))
        if "compileall" in command:
            # Of a file of Python 2.
            return subprocess.CompletedProcess(command, 1, "SyntaxError", "")
        if command[0] in ("sh", "tar"):
            return RUN(command, check=True, cwd=options["cwd"], text=True)
        if command[0] == str(installers.UV) and self.writes:
            # The kernel's clock for files has ticks of some milliseconds.
            time.sleep(0.05)
            self.write(self.writes, "made\n")
        return self.result

    def release(self) -> virtualenv.Release:
        (self.place / "manifest.json").write_text(json.dumps(self.manifest))
        (self.place / "secrets.json").write_text(json.dumps(self.secrets))
        return virtualenv.Release(self.place, Path(tempfile.mkdtemp(dir=self.venvs.parent)))

    def build(self) -> Path:
        return virtualenv.build_venv(self.release(), self.venvs)

    def key(self) -> str:
        return self.release().key()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server(tmp_path)
    monkeypatch.setattr(subprocess, "run", made.run)
    monkeypatch.setattr(shutil, "chown", lambda path, *who: made.calls.append(f"own {path.name} {' '.join(who)}"))  # pyright: ignore
    return made


def test_requirements_that_do_not_install_are_told_with_their_last_lines_and_without_secrets(server: Server) -> None:
    server.secrets = {"TOKEN": "hunter2/"}
    output = "".join(f"line {number}\n" for number in range(12))
    errors = "a hunter2/\nb hunter2%2F\nc https://me:word@host/x\nd\n"
    server.result = subprocess.CompletedProcess([], 1, output, errors)
    found = [f"line {number}" for number in range(1, 12)]
    found += ["a [removed]", "b [removed]", "c https://[removed]@host/x", "d"]
    with pytest.raises(InstallError) as error:
        server.build()
    head, *lines = str(error.value).splitlines()
    assert head == f"the requirements do not install with Python {platform.python_version()}:"
    assert lines == [f"    {line}" for line in found]
    assert list(server.venvs.iterdir()) == []


def test_an_index_that_rejects_its_credentials_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # As uv 0.13.9 says it, with either strategy.
    none = "error: No solution found when resolving dependencies\n  cause: Because x was not found"
    rejected = "hint: An index (https://host/simple) returned a 403 Forbidden error"

    def run(command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        is_asked = options.get("env", {}).get("UV_INDEX_STRATEGY") == "first-index"
        assert is_asked == ("--dry-run" in command)
        lines = f"{none}\n{rejected}" if is_asked else none
        server.result = subprocess.CompletedProcess([], "install" in command, lines, "")
        return server.run(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(InstallError) as error:
        server.build()
    assert str(error.value).splitlines()[1:] == [f"    {line}" for line in [*none.splitlines(), rejected]]


def test_a_virtualenv_is_made_without_root_and_belongs_to_root_when_it_is_done(server: Server) -> None:
    venv = server.build()
    own, _, make, install, compile_, give = server.calls
    assert own == f"own {venv.name} app app"
    assert make == f"/usr/bin/python3 -m venv --without-pip {venv} as app"
    assert install.startswith(f"{installers.UV} pip install --python {venv}/bin/python -r ")
    assert install.endswith("/0.txt as app")
    # It fails here, and nothing else does for that.
    assert compile_.endswith(f" -m compileall -qq -j 0 {venv}/lib as app")
    assert give == f"chown -R root:root {venv}"
    assert server.build() == venv
    assert len(server.calls) == 6


def test_a_virtualenv_that_a_killed_run_left_half_made_is_made_anew(server: Server) -> None:
    venv = server.build()
    (venv / ".complete").unlink()
    (venv / "half").touch()
    server.build()
    assert [each.name for each in venv.iterdir()] == [".complete"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("uv.lock", 'source = { virtual = "." }', SYNC),
        ("uv.lock", 'source = { editable = "." }', SYNC),
        ("pylock.toml", 'lock-version = "1.0"', "pip install --python {python} -r {code}/pylock.toml"),
        ("pyproject.toml", "[project]\n", "pip install --python {python} -r {code}/pyproject.toml"),
        ("pyproject.toml", PYPROJECT, "pip install --python {python} {code}"),
        ("pyproject.toml", PYPROJECT + NO_POETRY_PACKAGE, "pip install --python {python} -r {code}/pyproject.toml"),
        ("pyproject.toml", PYPROJECT + NO_UV_PACKAGE, "pip install --python {python} -r {code}/pyproject.toml"),
    ],
)
def test_each_lock_file_is_installed_by_what_reads_it(server: Server, name: str, content: str, expected: str) -> None:
    server.manifest["requirements_path"] = name
    server.write(name, content)
    venv = server.build()
    code = server.place / "code"
    assert expected.format(python=venv / "bin" / "python", code=code) in next(
        line for line in server.calls if str(installers.UV) in line
    )
    # What is built from the code may write it meanwhile.
    is_built = "editable" in content or content == PYPROJECT
    assert [line for line in server.calls if line.endswith(str(code))] == (
        [f"chown -R app:app {code}", f"chown -R root:root {code}"] if is_built else []
    )


def test_requirements_that_the_release_brings_are_in_the_place_of_those_in_the_code(server: Server) -> None:
    folder = server.place / "install"
    folder.mkdir()
    (folder / "requirements.txt").write_text("-r requirements-1.txt\nflask==3.1.3 --hash=sha256:00\n")
    (folder / "requirements-1.txt").write_text("./libs/near\n")
    server.manifest["requirements_path"] = "../poetry.lock"
    files = server.release().files
    assert files
    assert files.file.read_text() == f"-r {files.file.parent}/1.txt\nflask==3.1.3 --hash=sha256:00\n"


def test_installers_get_their_variables_and_what_files_name_and_no_other(server: Server) -> None:
    server.write("requirements.txt", "--index-url https://me:${TOKEN}@host/simple\nflask")
    server.manifest["environment"] = {"UV_HTTP_TIMEOUT": "9", "MODE": "x", "https_proxy": "http://p:1"}
    server.secrets = {"TOKEN": "hunter2", "PASSWORD": "hunter3", "NETRC": "machine host login me password hunter4"}
    venv = server.build()
    environment = server.environments[-1]
    assert {"UV_HTTP_TIMEOUT", "https_proxy", "TOKEN", "NETRC"} <= environment.keys()
    assert environment.keys().isdisjoint({"MODE", "PASSWORD"})
    assert Path(environment["NETRC"]).read_text() == "machine host login me password hunter4\n"
    assert "hunter" not in " ".join(server.calls)
    # A new token gives the same packages, another index others.
    server.secrets["TOKEN"] = "hunter5"
    assert server.build() == venv
    server.manifest["environment"]["UV_INDEX"] = "https://other"
    assert server.build() != venv


def test_no_variable_moves_an_installation_or_takes_another_python(server: Server) -> None:
    before = server.key()
    names = ("UV_PROJECT_ENVIRONMENT", "UV_CACHE_DIR", "UV_PYTHON", "UV_SYSTEM_PYTHON", "PIP_TARGET", "PIP_REQUIREMENT")
    server.manifest["environment"] = dict.fromkeys(names, "/elsewhere")
    assert server.key() == before
    server.build()
    assert "/elsewhere" not in server.environments[-1].values()
    # Where packages come from is the application's choice.
    chosen = {"UV_INDEX_STRATEGY": "first-index", "SSL_CERT_FILE": "/own.pem"}
    server.manifest["environment"] = {"UV_NO_CONFIG": "0"} | chosen
    server.build()
    assert (chosen | {"UV_NO_CONFIG": "1"}).items() <= server.environments[-1].items()


def test_a_variable_of_pip_makes_pip_the_installer(server: Server) -> None:
    server.secrets = {"PIP_INDEX_URL": "https://me:hunter2@host/simple"}
    venv = server.build()
    install = next(line for line in server.calls if str(installers.PIP_RUNNER) in line)
    assert install.startswith(f"{venv}/bin/python {installers.PIP_RUNNER} install --no-cache-dir")
    assert server.environments[-1]["PIP_INDEX_URL"] == "https://me:hunter2@host/simple"


def test_one_hash_makes_uv_ask_for_all_of_them_but_where_a_lock_has_packages_without(server: Server) -> None:
    server.write("requirements.txt", "flask==3 --hash=sha256:00\nclick==8")
    server.build()
    assert "--require-hashes" in server.calls[3]
    (server.place / "install").mkdir()
    (server.place / "install" / "requirements.txt").write_text("flask==3 --hash=sha256:00\n./libs/near\n")
    server.manifest["requirements_path"] = "Pipfile.lock"
    server.calls.clear()
    server.build()
    assert [line for line in server.calls if "--require-hashes" in line] == []


@pytest.mark.parametrize("option", ["--config-settings=--build-option=x", "--global-option x", "\n--pre"])
def test_pip_installs_what_has_options_that_uv_does_not_read(server: Server, option: str) -> None:
    server.write("requirements.txt", f"flask==3 {option}")
    server.build()
    assert str(installers.PIP_RUNNER) in server.calls[3]
    server.manifest["environment"] = {"UV_INDEX_URL": "https://host/simple", "UV_INDEX_STRATEGY": "first-index"}
    with pytest.raises(
        InstallError, match=rf"have {option.strip()[:9]}.*pip does not read UV_INDEX_URL; set PIP_INDEX_URL"
    ):
        server.build()


@pytest.mark.parametrize("option", ["-e ", "-e", "--editable=", "--editable "])
def test_uv_gets_a_package_by_git_without_the_option_that_it_refuses(server: Server, option: str) -> None:
    server.write("requirements.txt", f"{option}git+https://host/x.git@abc#egg=x\n{option}./libs/x")
    files = server.release().files
    assert files
    assert files.file.read_text() == f"git+https://host/x.git@abc#egg=x\n{option}./libs/x\n"


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]
INCLUDES = ["-r sub/base.txt", "--requirement=sub/base.txt", "-c sub/base.txt", "-rsub/base.txt", '-r "sub/base.txt"']


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("include", INCLUDES)
def test_what_requirements_include_makes_another_virtualenv(server: Server, include: str, encoding: str) -> None:
    server.write("requirements.txt", f"# first\r\n{include}\r\n".encode(encoding))
    server.write("sub/base.txt", "flask==1\n")
    before = server.key()
    server.manifest["tar_sha256"] = "y"
    assert server.key() == before
    server.write("sub/base.txt", "flask==2\n")
    assert server.key() != before


PATHS = ["./libs/x", "x @ file:./libs/x", "libs/x", "x @ ./libs/x", "x[y]@libs/x; python_version > '3'"]


@pytest.mark.parametrize("line", ["-e .", ".", "--editable=.", "-f wheels", *PATHS])
def test_code_that_is_installed_makes_another_virtualenv_when_it_changes(server: Server, line: str) -> None:
    server.write("libs/x", "")
    server.write("requirements.txt", f"{line}\n")
    before = server.key()
    server.manifest["tar_sha256"] = "y"
    assert server.key() != before


@pytest.mark.parametrize(
    "text",
    [
        '[tool.uv.sources]\nx = {path = "x"}',
        "[tool.uv.sources]\nx = [{workspace = true}]",
        '[project]\ndynamic = ["dependencies"]',
    ],
)
def test_code_that_a_project_names_makes_another_virtualenv_when_it_changes(server: Server, text: str) -> None:
    server.manifest["requirements_path"] = "pyproject.toml"
    server.write("pyproject.toml", text)
    before = server.key()
    server.manifest["tar_sha256"] = "y"
    assert server.key() != before


def test_the_project_of_a_uv_lock_makes_another_virtualenv(server: Server) -> None:
    server.manifest["requirements_path"] = "uv.lock"
    server.write("uv.lock", "version = 1")
    keys = {server.key()}
    for groups in ("a", "b"):
        server.write("pyproject.toml", f'[tool.uv]\ndefault-groups = ["{groups}"]\n')
        keys.add(server.key())
    assert len(keys) == 3


def test_a_password_in_a_url_is_taken_out_by_itself(server: Server) -> None:
    server.secrets = {"PIP_INDEX_URL": "https://me:hunter2@host/simple"}
    assert "hunter2" in set(server.release().forms(["PIP_INDEX_URL"]))
    assert server.release().redact("401 for hunter2") == "401 for [removed]"


def test_code_that_is_used_as_it_is_is_that_of_one_release(server: Server) -> None:
    server.write("requirements.txt", "-e .")
    before = server.key()
    server.place = server.place.rename(server.place.with_name("r2"))
    assert server.key() != before


def test_every_installer_reads_utf_8_and_the_copies_of_other_files(server: Server) -> None:
    server.write("requirements.txt", b"\xef\xbb\xbf-r b.txt # it\r\nflask \\\r\n  --hash=sha256:00\r\n")
    server.write("b.txt", b"# caf\xe9\n-r requirements.txt\n-c https://host/c.txt\nx @ https://host/x#egg=x\n")
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requirement_files, "download", lambda url: asked.append(url) or b"a==1\n")  # pyright: ignore
        files = server.release().files
    assert files
    folder = files.file.parent
    texts = [(folder / f"{number}.txt").read_text() for number in range(3)]
    assert texts == [
        f"-r {folder}/1.txt\nflask    --hash=sha256:00\n\n",
        f"\n-r {folder}/0.txt\n-c {folder}/2.txt\nx @ https://host/x#egg=x\n",
        "a==1\n",
    ]
    assert asked == ["https://host/c.txt"]
    assert files.with_names(f"{folder}/1.txt, line 2; {folder}/0.txt") == "b.txt, line 2; requirements.txt"


def test_a_file_that_cannot_be_read_is_named(server: Server) -> None:
    key = str(server.place.parent / "key")
    (server.place.parent / "key").write_text("hunter2")
    for name, message in {
        "https://me:hunter2@127.0.0.1:9/c.txt": r"https://\[removed\]@127.0.0.1:9/c.txt: .*refused.*; it must be",
        '"http://127.0.0.1:9/a b.txt"': "http://127.0.0.1:9/a b.txt: URL can't contain control characters.*; it must",
        "it's.txt": "it's.txt: No closing quotation; write the name in double quotes",
        "gone.txt": "gone.txt: No such file or directory; it must be a file in the source",
        key: f"{re.escape(key)}: lies outside of the source; it must be a file in the source",
    }.items():
        server.write("requirements.txt", f"# first\n-r {name}\n")
        with pytest.raises(RequirementError, match=rf"^requirements\.txt, line 2: {message}") as error:
            server.release()
        assert "hunter2" not in str(error.value)


def test_lines_are_joined_as_pip_joins_them() -> None:
    text = "a \\\n b\n# c \\\nd # e\n\nf \\\n# g\nh#i\nj \\"
    assert list(join_lines(text)) == [(1, "a   b"), (4, "d"), (6, "f"), (8, "h#i"), (9, "j")]


def test_what_an_installation_writes_into_the_code_is_in_the_code_of_each_release_with_that_virtualenv(
    server: Server,
) -> None:
    server.write("requirements.txt", ".\nflask")
    server.write("shop/__init__.py", "old\n")
    server.writes = "shop/_version.py"
    venv = server.build()
    # Not what stood there before, and not into the code that it was written in.
    assert not any("--extract" in line for line in server.calls)
    server.place = server.place.with_name("r2")
    (server.place / "code").mkdir(parents=True)
    server.write("requirements.txt", ".\nflask")
    server.write("shop/__init__.py", "new\n")
    assert server.build() == venv
    assert sum(str(installers.UV) in line for line in server.calls) == 1
    folder = server.place / "code" / "shop"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "__init__.py": "new\n",
        "_version.py": "made\n",
    }
    # Root gives the code away and takes it back, and writes nothing itself.
    give, extract, take = server.calls[-3:]
    assert (give, take) == (f"chown -R app:app {folder.parent}", f"chown -R root:root {folder.parent}")
    assert extract == f"tar --extract --file={venv}/{virtualenv.WRITTEN} as app"


@pytest.fixture
def store_with_virtualenv(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Create a store that has the virtualenv, archived by another server, and return the URLs that are asked."""
    server.manifest["wheels"] = True
    (tmp_path / "store").write_text("file:///srv/store/hello\n")
    monkeypatch.setattr(virtualenv, "STORE", tmp_path / "store")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "flask.py").write_text("")
    archive, asked = tmp_path / "wheels.tar.gz", list[str]()
    RUN(["tar", "-czf", archive, "-C", tmp_path / "other", "."], check=True)

    def take(store: str, _venv: Path, unpack: Any) -> bool:
        asked.append(store)
        unpack(archive)
        return True

    monkeypatch.setattr(wheels, "take", take)
    return asked


def test_a_virtualenv_that_the_store_has_is_unpacked_without_root_and_without_an_index(
    server: Server, store_with_virtualenv: list[str]
) -> None:
    venv = server.build()
    assert store_with_virtualenv == ["file:///srv/store/hello"]
    assert [each.name for each in sorted(venv.iterdir())] == [".complete", "flask.py"]
    own, extract, give = server.calls
    assert (own, give) == (f"own {venv.name} app app", f"chown -R root:root {venv}")
    assert extract == f"tar --extract --gzip --directory={venv} --file={server.venvs.parent}/wheels.tar.gz as app"
    assert server.build() == venv
    assert len(store_with_virtualenv) == 1


@pytest.mark.usefixtures("store_with_virtualenv")
@pytest.mark.parametrize("error", [wheels.WheelsError("they are damaged (x)"), InstallError("tar did not finish")])
def test_where_the_store_has_nothing_that_can_be_used_the_index_is_asked(
    server: Server, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half(_store: str, venv: Path, _unpack: Any) -> bool:
        (venv / "half").touch()
        raise error

    monkeypatch.setattr(wheels, "take", half)
    venv = server.build()
    assert any(str(installers.UV) in line for line in server.calls)
    assert not (venv / "half").exists()
    message = f"packages in the release store cannot be used: {error}\nbuilding a virtualenv from requirements.txt\n"
    assert capsys.readouterr().out == message


def test_a_release_that_keeps_nothing_does_not_ask_the_store(server: Server, store_with_virtualenv: list[str]) -> None:
    del server.manifest["wheels"]
    server.build()
    assert store_with_virtualenv == []


def test_servers_of_another_system_have_another_virtualenv_and_those_with_other_updates_the_same(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = server.key()
    monkeypatch.setattr("sys.version", "3.13.99")
    assert server.key() == before
    for name, other in {"machine": "aarch64", "freedesktop_os_release": {"ID": "debian", "VERSION_ID": "99"}}.items():
        with monkeypatch.context() as patch:
            patch.setattr(platform, name, lambda other=other: other)
            assert server.key() != before


def test_a_cache_that_has_grown_begins_anew(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = server.venvs.parent / "uv-cache" / "kept"
    server.build()
    kept.write_text("x")
    server.write("requirements.txt", "django")
    server.build()
    assert kept.exists()
    monkeypatch.setattr(virtualenv, "CACHE_MIB", -1)
    server.write("requirements.txt", "kinto")
    server.build()
    assert not kept.exists()
