"""The virtualenv of a release: what makes another one, how it is made, and what is said where it cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import virtualenv
from virtualenv import InstallError


class Server:
    """What stands in for an app server. place: of a release. calls: commands, each as one line. result: of each."""

    def __init__(self, root: Path) -> None:
        self.place, self.venvs, self.calls = root / "releases" / "r1", root / "venvs", list[str]()
        self.result = subprocess.CompletedProcess("", 0, "", "")
        (self.place / "code").mkdir(parents=True)
        self.venvs.mkdir()
        self.write("requirements.txt", "flask")
        manifest = {"requirements_path": "requirements.txt", "tar_sha256": "x", "stage_timeout_s": 40}
        (self.place / "manifest.json").write_text(json.dumps(manifest))

    def write(self, name: str, text: str) -> None:
        (self.place / "code" / name).write_text(text)

    def run(self, *command: str, timeout_s: float = 60, user: str | None = None) -> subprocess.CompletedProcess[str]:
        assert 0 < timeout_s <= 60
        self.calls.append(" ".join([*command, *([f"as {user}"] if user else [])]))
        return self.result

    def build(self) -> Path:
        return virtualenv.build_venv(self.place, self.venvs)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server(tmp_path)
    monkeypatch.setattr(virtualenv, "run", made.run)
    monkeypatch.setattr(shutil, "chown", lambda path, *who: made.calls.append(f"own {path.name} {' '.join(who)}"))  # pyright: ignore
    return made


def test_requirements_that_do_not_install_are_told_with_their_last_lines(server: Server) -> None:
    output = "".join(f"line {number}\n" for number in range(12))
    server.result = subprocess.CompletedProcess([], 1, output, "ERROR: a\nERROR: b\nERROR: c\nERROR: d\n")
    lines = "".join([f"\n    line {number}" for number in range(1, 12)] + [f"\n    ERROR: {char}" for char in "abcd"])
    with pytest.raises(InstallError, match=f"^the requirements do not install with Python [0-9.]+:{lines}$"):
        server.build()
    assert list(server.venvs.iterdir()) == []


def test_a_virtualenv_is_made_without_root_and_belongs_to_root_when_it_is_done(server: Server) -> None:
    venv = server.build()
    own, make, install, give = server.calls
    assert own == f"own {venv.name} app app"
    assert make == f"/usr/bin/python3 -m venv --without-pip {venv} as app"
    assert install.startswith(f"{venv}/bin/python {virtualenv.PIP_RUNNER} install ")
    assert install.endswith(f"-r {server.place}/code/requirements.txt as app")
    assert give == f"chown -R root:root {venv}"
    assert server.build() == venv
    assert len(server.calls) == 4


def test_a_virtualenv_that_a_killed_run_left_half_made_is_made_anew(server: Server) -> None:
    venv = server.build()
    (venv / ".complete").unlink()
    (venv / "half").touch()
    server.build()
    assert [each.name for each in venv.iterdir()] == [".complete"]
    assert len(server.calls) == 8


def key(folder: Path, requirements: str, *, base: str = "flask==1\n", code: str = "1") -> str:
    (folder / "requirements").mkdir(exist_ok=True)
    (folder / "requirements" / "base.txt").write_text(base)
    (folder / "requirements.txt").write_text(requirements)
    return virtualenv.venv_key(folder / "requirements.txt", folder, code)


@pytest.mark.parametrize("include", ["-r requirements/base.txt", "--requirement=requirements/base.txt"])
def test_what_requirements_include_makes_another_virtualenv(tmp_path: Path, include: str) -> None:
    assert key(tmp_path, include) == key(tmp_path, include)
    assert key(tmp_path, include) != key(tmp_path, include, base="flask==2\n")
    assert key(tmp_path, include) == key(tmp_path, include, code="2")
    assert key(tmp_path, "flask") == key(tmp_path, "flask", base="flask==2\n", code="2")


@pytest.mark.parametrize("line", ["-e .", "./package", ".", "mine @ file:./package", "--editable=."])
def test_code_that_is_installed_makes_another_virtualenv_when_it_changes(tmp_path: Path, line: str) -> None:
    assert key(tmp_path, line, code="1") != key(tmp_path, line, code="2")


def test_requirements_that_include_each_other_or_what_is_outside_end(tmp_path: Path) -> None:
    text = "-r requirements/base.txt\n-r ../outside.txt\n-c gone.txt\n"
    (tmp_path / "code").mkdir()
    (tmp_path / "outside.txt").write_text("1")
    before = key(tmp_path / "code", text, base="-r ../requirements.txt\n")
    (tmp_path / "outside.txt").write_text("2")
    assert key(tmp_path / "code", text, base="-r ../requirements.txt\n") == before
