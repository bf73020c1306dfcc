"""The image that stacks share, on a made-up LXD, and what takes away all that an owner has."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import mock_engine
from platforms.lxd import build, cleanup, image, label, machine, network, prebuild
from platforms.lxd.client import Client, LxdError
from platforms.lxd.recipe import ImageRecipe
from platforms.registry import create
from settings.stack_file import read
from tests.unit.lxd_daemon import Daemon, Refused, Thing

METADATA, ROOT = b"metadata\r\n", b"--root\r\n\r\n\0\xff\r\n--"
FINGERPRINT = hashlib.sha256(METADATA + ROOT).hexdigest()
ALIAS, PATH = "wsgi-fleet-d1", f"/1.0/images/{FINGERPRINT}"


@pytest.fixture
def client(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Return a client of a daemon without images; building one gives two small files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def ensure(recipe: ImageRecipe, digest: str, say: Callable[[str], None]) -> Path:
        assert (recipe, digest) == (ImageRecipe(), "d1")
        say("built")
        folder = build.cache() / digest
        folder.mkdir(exist_ok=True)
        (folder / build.METADATA).write_bytes(METADATA)
        (folder / build.ROOT).write_bytes(ROOT)
        return folder

    monkeypatch.setattr(build, "ensure", ensure)
    assert daemon.calls == []
    return Client()


def ensure(client: Client, owner: str) -> list[str]:
    """Ensure the image for the owner, and return what was logged on the way."""
    output: list[str] = []
    assert image.ensure(client, owner, ImageRecipe(), "d1", output.append) == ALIAS
    return output


def owners(daemon: Daemon) -> str:
    return daemon.things["images"][FINGERPRINT]["properties"]["user.wsgi-fleet.owners"]


def test_an_image_is_built_imported_and_named_once_and_shared(daemon: Daemon, client: Client) -> None:
    assert ensure(client, "b") == ["built"]
    assert daemon.calls == ["POST /1.0/images", "POST /1.0/images/aliases", f"PUT {PATH}"]
    assert ensure(client, "a") == ensure(client, "a") == []
    assert daemon.calls[3:] == [f"PUT {PATH}"]
    assert owners(daemon) == "a,b"
    assert image.is_owned(client, ALIAS, "a")
    assert not image.is_owned(client, ALIAS, "c")
    assert not image.is_owned(client, "wsgi-fleet-gone", "a")


def test_an_image_that_a_killed_run_imported_is_not_sent_again(daemon: Daemon, client: Client) -> None:
    daemon.refuse("POST /1.0/images/aliases", 500, "killed")
    with pytest.raises(LxdError, match="killed"):
        ensure(client, "a")
    daemon.calls.clear()
    ensure(client, "a")
    assert daemon.calls == ["POST /1.0/images/aliases", f"PUT {PATH}"]


def test_an_equal_image_that_another_user_named_first_is_used(daemon: Daemon, client: Client) -> None:
    theirs: Thing = {"fingerprint": "00", "properties": {"user.wsgi-fleet.owners": "b"}}

    def import_theirs(_body: object) -> None:
        daemon.things["images"]["00"] = theirs
        daemon.things["images/aliases"][ALIAS] = {"name": ALIAS, "target": "00"}
        raise Refused(409, f'Alias "{ALIAS}" already exists')

    daemon.before("POST /1.0/images/aliases", import_theirs)
    ensure(client, "a")
    assert [*daemon.things["images"]] == ["00"]
    assert daemon.things["images"]["00"]["properties"]["user.wsgi-fleet.owners"] == "a,b"


def test_the_same_image_that_another_user_imports_meanwhile_is_used(daemon: Daemon, client: Client) -> None:
    def import_it(_body: object) -> None:
        daemon.things["images"][FINGERPRINT] = {"fingerprint": FINGERPRINT, "aliases": [], "properties": {}}
        raise Refused(500, "Image with same fingerprint already exists")

    daemon.before("POST /1.0/images", import_it)
    ensure(client, "a")
    assert owners(daemon) == "a"


def test_a_failed_import_names_the_files_that_may_be_damaged(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    daemon.refuse("POST /1.0/images", 400, "unexpected EOF")
    with pytest.raises(LxdError) as error:
        ensure(client, "a")
    assert str(error.value) == (
        "importing the machine image failed: LXD: POST /1.0/images: unexpected EOF. "
        f"If {tmp_path}/wsgi-fleet/images/d1 is damaged, remove it; the next run builds it again."
    )


def test_the_last_owner_takes_the_image_along_and_the_built_files_stay(daemon: Daemon, client: Client) -> None:
    ensure(client, "a")
    ensure(client, "b")
    image.release(client, ALIAS, "a")
    assert owners(daemon) == "b"
    image.release(client, ALIAS, "b")
    assert (daemon.things["images"], daemon.things["images/aliases"]) == ({}, {})
    assert (build.cache() / "d1" / build.ROOT).read_bytes() == ROOT
    image.release(client, ALIAS, "b")


def test_an_image_that_goes_while_it_is_released_is_released(daemon: Daemon, client: Client) -> None:
    ensure(client, "a")
    daemon.before(f"GET {PATH}", lambda _body: daemon.things["images"].pop(FINGERPRINT))
    image.release(client, ALIAS, "a")
    assert daemon.calls[-1] == f"PUT {PATH}"


def instance(owner: str, name: str, of_network: str) -> Thing:
    nic = {"type": "nic", "network": of_network, "ipv4.address": "10.0.0.2"}
    return {"name": name, "status": "Running", "config": label.labels(owner, name), "devices": {"eth0": nic}}


@pytest.fixture
def three_owners(daemon: Daemon, client: Client) -> Daemon:
    """Create three owners, each with a machine, a network and a share of the image, and things without owner."""
    for owner in ("local-1", "local-2", "prod-1"):
        name, _ = network.ensure(client, owner, "app", [])
        daemon.things["instances"][f"{owner}-m"] = instance(owner, f"{owner}-m", name)
        ensure(client, owner)
    daemon.things["instances"]["theirs"] = instance("", "theirs", "eth0") | {"config": {}}
    daemon.things["networks"]["eth0"] = {"name": "eth0"}
    daemon.calls.clear()
    return daemon


def list_owned(daemon: Daemon) -> list[str]:
    """Return a line for each owner that has a machine, a network and an ACL."""
    kinds = [daemon.things[kind].values() for kind in ("instances", "networks", "network-acls")]
    owned = [[each["config"][label.OWNER] for each in kind if label.OWNER in each.get("config", {})] for kind in kinds]
    return [" ".join(owners) for owners in zip(*owned, strict=True)]


def test_a_prefix_takes_all_that_its_owners_have_and_nothing_of_anybody_else(
    three_owners: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cleanup.owners() == ["local-1", "local-2", "prod-1"]
    assert cleanup.main(["local-"]) == 0
    assert capsys.readouterr().out == "removed what local-1 had\nremoved what local-2 had\n"
    assert (list_owned(three_owners), owners(three_owners), cleanup.owners()) == (
        ["prod-1 prod-1 prod-1"],
        "prod-1",
        ["prod-1"],
    )
    assert {"theirs", "eth0"} <= {*three_owners.things["instances"], *three_owners.things["networks"]}


@pytest.mark.parametrize("arguments", [[], [""], ["a", "b"]])
def test_everybody_is_no_prefix(arguments: list[str], three_owners: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert cleanup.main(arguments) == 2
    assert capsys.readouterr().err == "usage: python -m platforms.lxd.cleanup OWNER_PREFIX\n"
    assert three_owners.calls == []


def test_what_cannot_be_removed_is_told(
    three_owners: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "REMOVE_TIMEOUT_S", 0.3)
    three_owners.refuse("DELETE /1.0/instances/.*", 400, "the pool is gone", times=99)
    assert cleanup.main(["prod"]) == 1
    assert capsys.readouterr().err == "LXD: DELETE /1.0/instances/prod-1-m: the pool is gone\n"


def test_what_points_apt_into_the_image_outlives_its_scripts() -> None:
    """Check that mmdebstrap's file stays. Without it the last `apt-get update`, with no sources, is the host's."""
    last = ImageRecipe().all_scripts()[-1]
    assert "/tmp/*" not in last.replace("/var/tmp/*", "")
    assert "find /tmp -mindepth 1 -maxdepth 1 ! -name 'mmdebstrap.*'" in last


def test_what_make_sets_for_its_own_python_does_not_reach_the_packages_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that each package's compiled Python lands beside its source. Else each first boot compiles it again."""
    (tmp_path / "bin").mkdir()
    for name, text in (("mmdebstrap", f"env >{tmp_path}/environment"), ("mksquashfs", 'touch "$2"')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "/home/ann/fleet/.state/pycache")
    with build.lock_images():
        build.ensure(ImageRecipe(), "d1", print)
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert {name for name in names if name.startswith("PYTHON")} == set()
    assert {"PATH", "XDG_CACHE_HOME"} <= names


def test_cloud_init_of_the_image_reads_yaml_by_libyaml(tmp_path: Path) -> None:
    [program] = [file for file in ImageRecipe().base_files() if file.path == "/usr/bin/cloud-init"]
    assert program.mode == 0o755
    (tmp_path / "cloudinit" / "cmd").mkdir(parents=True)
    (tmp_path / "cloudinit" / "cmd" / "main.py").write_text(
        "import sys, yaml\n\n\ndef main():\n"
        "    print(sys.argv[1:], yaml.safe_load('[1]'), yaml.SafeLoader.__mro__[1])\n"
        "    return 3\n"
    )
    code = program.content.removeprefix("#!/usr/bin/python3\n")
    run = subprocess.run(
        [sys.executable, "-c", code, "init"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (3, "['init'] [1] <class 'yaml._yaml.CParser'>\n", "")


@pytest.mark.parametrize(("settings", "os_"), [("", "trixie"), ("  wsgi-fleet:os: debian-12\n", "bookworm")])
def test_setup_builds_the_image_that_the_first_up_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, os_: str
) -> None:
    (tmp_path / "stacks").mkdir()
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "requirements.txt").touch()
    (tmp_path / "app" / "wsgi.py").write_text("app = None\n")
    apps = "  wsgi-fleet:apps: {hello: {source: app, module: wsgi:app}}\n"
    file = tmp_path / "stacks" / "Pulumi.local.yaml"
    file.write_text(f"config:\n  wsgi-fleet:platform: lxd\n{settings}{apps}")
    built: list[tuple[str, str]] = []

    def ensure(recipe: ImageRecipe, digest: str, log: Callable[[str], None]) -> Path:
        del log
        built.append((recipe.suite, digest))
        return tmp_path

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(prebuild, "PROJECT", tmp_path)
    monkeypatch.setattr(build, "ensure", ensure)
    prebuild.main("local")

    def program() -> None:
        create(read(file, project=tmp_path), stack="local", project=tmp_path, project_name="wsgi-fleet")

    [registered] = [each for each in mock_engine.build(program).resources if each.name == "image"]
    assert built == [(os_, registered.inputs["digest"])]
