"""What machines get, read back by its readers. cloud-init, systemd and Nginx themselves read it in tests/e2e."""

from __future__ import annotations

import ast
import configparser
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from staging import escape_quotes

from rendering.app_server import app_server_user_data, app_unit
from rendering.balancer import balancer_user_data
from rendering.common import SCRIPTS
from rendering.gateway_files import gateway_files
from rendering.upstream import Upstream
from rendering.user_data import without_comments
from settings.application import App
from settings.balancer import Balancer
from tests.unit.nginx_reader import args, directives, find, location
from tests.unit.site_text import site_text

ROOT = Path(__file__).resolve().parents[2]
addresses = st.lists(st.ip_addresses(v=4).map(str), max_size=5, unique=True)


@given(addresses=addresses)
def test_the_upstream_read_back_names_exactly_the_members(addresses: list[str], tmp_path_factory: Any) -> None:
    text = site_text(Balancer(), [Upstream("my-app", addresses, 60, "/healthz")])
    block = directives(text, tmp_path_factory.mktemp("nginx"))
    # Connections are counted by all workers together.
    does = [
        (each["directive"], each["args"][0]) for up in find(block, "upstream") for each in up["block"] if each["args"]
    ]
    # The only one is there twice: a request is tried again in another of its processes.
    servers = [("server", f"{address}:8000") for address in addresses] * (2 if len(addresses) == 1 else 1)
    assert does == ([("zone", "app_my_app"), *servers] if addresses else [])
    assert args(block, "least_conn") == [[]] * bool(addresses)
    served = location(block, "/")
    assert (args(served, "uwsgi_pass"), args(served, "return")) == (
        ([["app_my_app"]], []) if addresses else ([], [["503"]])
    )


def test_nginx_waits_longer_than_the_gateway_and_repeats_nothing_that_may_have_run(tmp_path: Path) -> None:
    block = directives(site_text(Balancer(), [Upstream("a", ["10.0.0.1"], 60, "/healthz")]), tmp_path)
    assert args(block, "uwsgi_read_timeout") == [["65s"]]
    assert args(block, "uwsgi_next_upstream") == [["error", "timeout"]]


def test_limits_are_off_unless_they_are_set(tmp_path: Path) -> None:
    upstream = Upstream("a", ["10.0.0.1"], 60, "/healthz")
    off = directives(site_text(Balancer(), [upstream]), tmp_path)
    on = directives(site_text(Balancer(requests_per_second=50, connections=9), [upstream]), tmp_path)
    for name in ("limit_req", "limit_req_zone", "limit_conn", "limit_conn_zone"):
        assert (len(find(off, name)), len(find(on, name))) == (0, 1)


# Of a machine's own: no file of the project as it is.
MADE = {
    "app@.service", "app-proof.service", "app.socket", "nginx.service", "apache2.service", "52wsgi-fleet",
    "wsgi-fleet.conf", "wsgi-fleet", "install-gateway", "gateway", "proxy",
}  # fmt: skip


@pytest.mark.parametrize(
    "document", [app_server_user_data(["libpq5"]), balancer_user_data(), balancer_user_data(proxy="apache")]
)
def test_user_data_carries_every_file_to_the_letter(document: str) -> None:
    assert document.startswith("#cloud-config\n")
    for file in yaml.safe_load(document)["write_files"]:
        path, content = file["path"], file["content"]
        name = Path(path).name
        sources = [*(ROOT / "machine").rglob(name), *(ROOT / "templates").rglob(name)]
        expected = [source.read_text() for source in sources if source.is_file()]
        if path.startswith("/etc/systemd/system/app"):
            expected = [without_comments(text) for text in expected]
        if name.endswith(".py"):
            assert read_as_python(content) == read_as_python(expected[0]), path
        else:
            assert content in expected if expected else name in MADE, path


def read_as_python(script: str) -> tuple[str, list[int]]:
    """Return what Python reads in a script except docstrings, and the lines of its statements."""
    tree = ast.parse(script)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body.pop(0)
    return ast.dump(tree), [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]


def test_scripts_on_machines_keep_their_line_numbers_and_lose_their_comments() -> None:
    files = {each["path"]: each["content"] for each in yaml.safe_load(app_server_user_data([]))["write_files"]}
    sent = files[f"{SCRIPTS}/fetch.py"]
    assert '"""' not in sent
    assert [text for text in sent.splitlines() if text.lstrip().startswith("#")] == [
        "# machine/common/fetch.py of wsgi-fleet without its comments; lines as there"
    ]
    assert files[f"{SCRIPTS}/release.py"].startswith('#!/usr/bin/env python3\n"""Install releases')


def test_system_packages_are_arguments_and_nothing_else_changes() -> None:
    document = yaml.safe_load(app_server_user_data(["libpq5", "git"]))
    assert document["runcmd"] == [["/usr/local/lib/wsgi-fleet/setup-app-server", "libpq5", "git"]]
    assert document | {"runcmd": 0} == yaml.safe_load(app_server_user_data([])) | {"runcmd": 0}


def unit(*, proof: bool) -> dict[str, list[str]]:
    """Return a unit's sections as lists of lines: a key may appear more than once."""
    sections: dict[str, list[str]] = {}
    for line in app_unit(proof=proof).splitlines():
        if line.startswith("["):
            sections[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            list(sections.values())[-1].append(line)
    return sections


def test_slots_share_the_socket_and_nothing_that_one_could_delete_under_the_other() -> None:
    assert {"Sockets=app.socket", "RuntimeDirectory=app-%i"} <= {*unit(proof=False)["Service"]}


@pytest.mark.parametrize(
    ("restarts", "seconds_ago", "slept"),
    [(0, None, ""), (3, 1, ""), (4, 1, "1"), (8, 1, "5"), (13, 1, "10"), (5000, 1, "10"), (5000, 61, ""),
     (5000, None, "")],
)  # fmt: skip
def test_what_ends_again_and_again_waits_longer_each_time_and_is_never_given_up(
    tmp_path: Path, restarts: int, seconds_ago: float | None, slept: str
) -> None:
    assert "StartLimitIntervalSec=0" in unit(proof=False)["Unit"]
    (command,) = [line for line in unit(proof=False)["Service"] if line.startswith("ExecStartPre=")]
    command = command.removeprefix("ExecStartPre=+/bin/sh -c ").strip("'").replace("$$", "$")
    command = command.replace("/run/", f"{tmp_path}/").replace("%n", "app@blue.service").replace("%N", "app@blue")
    start_s, waited = tmp_path / "start-app@blue", tmp_path / "slept"
    waited.touch()
    for name, does in {
        "systemctl": f"[ \"$*\" = 'show -P NRestarts app@blue.service' ]; echo {restarts}",
        "sleep": f'printf %s "$1" >{waited}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    if seconds_ago is not None:
        start_s.touch()
        os.utime(start_s, (time.time() - seconds_ago, time.time() - seconds_ago))
    subprocess.run(["sh", "-c", command], check=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert waited.read_text() == slept
    assert time.time() - start_s.stat().st_mtime < 10


def test_proof_and_slot_are_hardened_alike_and_a_proof_has_no_public_socket() -> None:
    different = {
        "Sockets", "Restart", "RestartSec", "ExecStartPre", "WorkingDirectory", "Environment", "EnvironmentFile",
        "ExecStart", "RuntimeDirectory", "KillSignal",
    }  # fmt: skip
    slot, proof = (
        [line for line in unit(proof=proof)["Service"] if line.partition("=")[0] not in different]
        for proof in (False, True)
    )
    assert slot == proof
    assert "NoNewPrivileges=yes" in slot
    assert "app.socket" not in str(unit(proof=True))
    assert "Install" not in unit(proof=True)


def test_logs_of_requests_are_kept_for_two_weeks() -> None:
    for proxy in ("nginx", "apache"):
        files = {
            each["path"]: each["content"] for each in yaml.safe_load(balancer_user_data(proxy=proxy))["write_files"]
        }
        lines = [line.strip() for line in files["/etc/logrotate.d/wsgi-fleet"].splitlines()]
        assert {"daily", "rotate 14", "maxsize 64M"} <= {*lines}


@pytest.mark.parametrize(("processes", "written"), [("auto", "$(WSGI_FLEET_PROCESSES)"), (3, "3")])
def test_the_ini_reads_back_as_it_was_set(processes: int | str, written: str) -> None:
    gateway = {"processes": processes, "threads": 7, "request_timeout_s": 9, "reload_on_rss_mib": 96}
    app = App.model_validate_json(json.dumps({"source": "x", "module": "bare:app", "gateway": gateway}))
    text = gateway_files(app)["uwsgi.ini"]
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(text)
    section = parser["uwsgi"]
    assert "set-placeholder = application=bare:app\n" in text
    assert "set-placeholder = request-timeout-s=9\n" in text
    assert section["set-placeholder"] == "reload-on-rss-mib=96"
    assert (section["processes"], section["threads"]) == (written, "7")
    assert section["worker-reload-mercy"] == "9"
    # An option that uWSGI does not know ends it; tests/processes/ starts it with all of them.
    assert section["strict"] == "true"
    # Without an application it ends, so that a release which cannot be imported fails.
    assert section["need-app"] == "true"
    assert {"die-on-term", "lazy-apps"}.isdisjoint(section)


@settings(max_examples=200)
@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_an_environment_value_survives_systemds_quoting(value: str) -> None:
    # systemd.exec(5), EnvironmentFile=: within double quotes a backslash keeps one of "\`$ as it is.
    text, read, escaped = escape_quotes(value), "", False
    for char in text:
        if escaped:
            read += char if char in '"\\`$' else "\\" + char
        elif char != "\\":
            assert char not in '"`$'
            read += char
        escaped = char == "\\" and not escaped
    assert read == value
