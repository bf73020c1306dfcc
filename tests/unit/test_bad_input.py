"""Whatever is written into a stack file, a source folder or a command line: taken, or refused in words."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner, Result

from commands import stack
from commands.__main__ import app as fleet
from components.balancer import upstreams
from gateways import GATEWAYS
from harness.mock_aws import fill_placeholders
from releases.archive import SourceError
from rendering.app_server import ProcessLayout, app_server_user_data
from rendering.balancer import balancer_user_data
from rendering.gateway_files import background_units, gateway_files
from settings.stack import SecurityUpdates, Settings
from settings.stack_file import SettingsError, parse, read
from tests.unit.fake_stack import make
from tests.unit.nginx_reader import directives
from tests.unit.site_text import site_text
from tests.unit.source_archive import names as names_in
from tests.unit.source_archive import tar
from tests.unit.stack_blocks import ROOT

STACK_FILES, SEED = 1200, 11
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63, -(2**70), 1.5, float("nan"), float("inf"), "", " ", "a", "\0", "\n", "a\nb", "a;b",
    "}", "{", "$x", "${x}", "%n", "\\", '"', "'", "../..", "/", "//", "/..", "https://[::1", "0.0.0.0/0",
    "256.1.1.1/33", "::/0", "*", "*.", "é", "\u2028", "\ud800", "a" * 300, "a/" * 3000, [], {}, [[]], {"": ""},
    {"a": {}}, [None], ["a", "a"], "25:00", "[", "(", "^(a+)+$", "-", "--help", {"secure": "x"}, "1e3", "yes", "auto",
]  # fmt: skip
ODD_PIECES = [*"\0\n;{}$ \"'\\#%é/.*=([", "\ud800"]
ODD_WORDS = [
    "", " ", "-", "--", "-1", "0", "1", "9" * 20, "1.5", "nan", "1e999", "\n", "a\nb", "é", "\u2028", "/", "/nope/nope",
    "../../etc/passwd", "a" * 300, "$(reboot)", "; ls", "'", '"', "--help=1", "-x", "on", "hello-1", "balancer",
    "hello", "aaaaaaaaaaaa", "*", "json", "\udcff",
]  # fmt: skip


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()  # pyright: ignore
    for key, value in list(items):  # pyright: ignore
        yield node, key
        yield from places(value)


def with_an_odd_character(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    document = copy.deepcopy(document)
    parent, key = rng.choice([(parent, key) for parent, key in places(document) if isinstance(parent[key], str)])
    at = rng.randrange(len(parent[key]) + 1)
    parent[key] = parent[key][:at] + rng.choice(ODD_PIECES) + parent[key][at:]
    return document


def mutate(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parent, key = rng.choice(list(places(document)))
        how = rng.choice(("value", "value", "gone", "renamed", "moved"))
        if how == "gone":
            del parent[key]
        elif how == "renamed" and isinstance(parent, dict):
            parent[rng.choice((f"{key}x", "", "a.b", "1", 1, None, "é"))] = parent[key]
        elif how == "moved":
            other, name = rng.choice(list(places(document)))
            parent[key] = copy.deepcopy(other[name])
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return document


def given(document: dict[str, Any]) -> dict[str, str]:
    return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in document.items()}


@functools.cache
def renders_user_data(
    security_updates: str, kind: Any, packages: tuple[str, ...] | None, processes: ProcessLayout | None
) -> bool:
    """Return whether user-data is read back. It depends on few settings, so few calls see new user-data."""
    updates = SecurityUpdates.model_validate_json(security_updates)
    if packages is None:
        text = balancer_user_data(updates, kind)
    else:
        text = app_server_user_data(packages, updates, GATEWAYS[kind], processes)
    return "write_files" in yaml.safe_load(text)


def assert_it_renders(settings: Settings, folder: Path) -> None:
    updates, balancer = settings.security_updates.model_dump_json(), settings.balancer
    for app in settings.apps.values():
        assert renders_user_data(updates, app.gateway.kind, tuple(app.system_packages), ProcessLayout.of(app))
        for text in (gateway_files(app) | background_units(app)).values():
            assert "\0" not in text.encode().decode()
    assert renders_user_data(updates, balancer.proxy.kind, None, None)
    addresses = {name: ["10.0.0.1"] for name in settings.apps}
    site = site_text(balancer, upstreams(settings.apps, addresses), settings.hostnames)
    if balancer.proxy.kind == "nginx":
        directives(site, folder)


def test_a_mutated_stack_file_is_taken_and_renders_or_is_refused_with_a_path(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    files = (ROOT / "stacks").glob("Pulumi.*.yaml")
    seeds = [fill_placeholders(yaml.safe_load(file.read_text())["config"]) for file in files]
    # The example, with every setting, is the longest.
    seeds.sort(key=lambda seed: len(str(seed)))
    # Lines of Nginx's own as they are: the machine's Nginx tests them before it takes them.
    del seeds[-1]["wsgi-fleet:balancer"]["proxy"]["snippets"]
    taken = 0
    for number in range(STACK_FILES):
        document = mutate(rng, rng.choice(seeds)) if number % 2 else with_an_odd_character(rng, seeds[-1])
        try:
            settings = parse(given(document), project=ROOT)
        except SettingsError as error:
            for line in error.problems:
                assert ": " in line, document
                assert line.isprintable(), document
        else:
            taken += 1
            assert_it_renders(settings, tmp_path)
    # Neither is nearly everything refused, nor taken.
    assert STACK_FILES * 0.04 < taken < STACK_FILES * 0.5


@pytest.mark.parametrize(
    "content",
    [
        b"", b"5", b"- 1", b"config: [1]", b"config: {", b"config:\0", b"config:\n\tx: y", b"a: 1\n---\nb: 2",
        b"config:\n  wsgi-fleet:platform: l\xe9d", b"config: &a\n  wsgi-fleet:apps: *a",
        b"config:\n  wsgi-fleet:apps: &a [*a]", b"config:\n  wsgi-fleet:apps: !!python/object:os.system x",
        b"config:\n  wsgi-fleet:apps: {2020-01-01: {}}", b"config:\n  1: x\n  null: y",
        b"config:\n  wsgi-fleet:apps: {? [1, 2] : x}", b"config:\n  wsgi-fleet:apps: " + b"[" * 3000 + b"]" * 3000,
        b"config:\n  wsgi-fleet:lxd: {port: " + b"9" * 5000 + b"}", b'config:\n  wsgi-fleet:apps: "\\ud800"',
    ],
)  # fmt: skip
def test_a_file_that_is_no_stack_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        read(file, project=ROOT)
    assert all(line.isprintable() for line in error.value.problems)


@pytest.mark.parametrize("name", ["\0", "a" * 300, "a/" * 3000, "", ".", "..", "/etc/passwd", "é", "README.md/x"])
def test_a_name_that_no_file_can_have_is_no_file(name: str) -> None:
    app = {"source": name, "module": "a:b", "requirements": "a" * 300, "static": {"folder": "b" * 300}}
    blocks = {"apps": {"hello": app}, "balancer": {"proxy": {"snippets": [{"file": name, "scope": "http"}]}}}
    with pytest.raises(SettingsError) as error:
        parse({f"wsgi-fleet:{key}": json.dumps(value) for key, value in blocks.items()}, project=ROOT)
    assert any("no such file" in line for line in error.value.problems)


def make_symlink_loop(source: Path) -> None:
    (source / "bad").symlink_to("other")
    (source / "other").symlink_to("bad")


def make_deep_folders(source: Path) -> None:
    """Create folders so deep that their path is longer than a path may be."""
    at = os.open(source, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("bad" * 80, dir_fd=at)
        below = os.open("bad" * 80, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def of_a_socket(source: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(source)
        made.bind("bad")


BAD: dict[str, Callable[[Path], object]] = {
    "a symlink that leads to itself": make_symlink_loop,
    "a symlink out": lambda source: (source / "bad").symlink_to("../../etc"),
    "a symlink out by another": lambda source: ((source / "bad").symlink_to("b"), (source / "b").symlink_to("../x")),
    "a symlink out and in again": lambda source: (source / "bad").symlink_to(f"../{source.name}/app.py"),
    "an absolute symlink": lambda source: (source / "bad").symlink_to(source / "app.py"),
    "a device": lambda source: os.mknod(source / "bad", 0o600 | 0o020000, os.makedev(1, 3)),
    "a pipe": lambda source: os.mkfifo(source / "bad"),
    "a pipe whose name is no text": lambda source: os.mkfifo(os.fsencode(source) + b"/bad\n\xff"),
    "a socket": of_a_socket,
    "a file that usually holds secrets": lambda source: (source / "bad.env").write_text("PASSWORD=x"),
    "a folder that usually does": lambda source: (
        (source / ".envs").mkdir(),
        (source / ".envs" / "bad").write_text("x"),
    ),
    "a folder that is too deep": make_deep_folders,
}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "app.py").write_text("app = None\n")
    return folder


@pytest.mark.parametrize("what", BAD)
def test_a_source_that_cannot_be_released_is_refused_with_the_path(source: Path, what: str) -> None:
    try:
        BAD[what](source)
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(SourceError) as error:
        tar(source)
    lines = str(error.value).splitlines()[1:]
    assert any("bad" in line or ".envs" in line for line in lines)
    assert all(line.isprintable() and ": " in line for line in lines)


def test_what_cannot_be_read_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "folder").mkdir()

    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(path) if path.name == "folder" else real(path))  # pyright: ignore
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: refuse(source))  # pyright: ignore
    with pytest.raises(SourceError) as error:
        tar(source)
    assert [line.split(";")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        "app.py: Permission denied",
        "folder: Permission denied",
    ]


def test_odd_names_come_through(source: Path) -> None:
    names = {b"a\nb", b"\xff\xfe", b"-rf", b" ", b"a\\b", b"n" * 255, "é".encode(), b"example.env"}
    for name in names:
        Path(os.fsdecode(os.fsencode(source) + b"/" + name)).write_text("x")
    (source / "here").symlink_to(".")
    (source / "nowhere").symlink_to("missing")
    assert {os.fsencode(name) for name in names_in(tar(source))} == names | {b"app.py", b"here", b"nowhere"}


def words(rng: random.Random, command: Any) -> list[str]:
    """Return arguments for a command, most of them nonsense, but none with which it runs for ever."""
    found: list[str] = [command.name]
    for each in command.params:
        if each.name in {"watch", "following"} or rng.random() < (0.8 if each.name == "stack" else 0.4):
            continue
        if each.param_type_name == "argument":
            found.append(rng.choice(ODD_WORDS))
        else:
            found += [rng.choice(each.opts), *([] if each.is_flag else [rng.choice(ODD_WORDS)])]
    return found + ([rng.choice(ODD_WORDS)] if rng.random() < 0.1 else [])


@pytest.mark.parametrize("name", sorted(get_command(fleet).commands))  # pyright: ignore
def test_nonsense_on_the_command_line_is_refused_in_words(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = random.Random(f"{SEED} {name}")
    make(monkeypatch)
    monkeypatch.chdir(tmp_path)
    known = stack.pulumi

    def pulumi(*arguments: str) -> str:
        try:
            return known(*arguments)
        except AssertionError:
            raise stack.CommandError("no stack named so") from None

    monkeypatch.setattr(stack, "pulumi", pulumi)
    for _ in range(10):
        arguments = words(rng, get_command(fleet).commands[name])  # pyright: ignore
        result: Result = CliRunner().invoke(fleet, arguments, input=b"")
        assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
        if result.exit_code:
            assert result.output.strip(), arguments
            assert "Traceback" not in result.output, arguments


@pytest.mark.parametrize(
    "arguments", [("config", "-s", "a" * 300), ("units", "-s", "a" * 300), ("doctor", "--app", "\udcff")]
)
def test_a_name_that_cannot_be_is_an_error_of_one_line(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(fleet, list(arguments))
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert sum("rror: " in line for line in result.output.splitlines()) == 1
