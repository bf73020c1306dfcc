"""Balancing on the level of processes: what may be set, what is rendered for whom, how a server changes over."""

from __future__ import annotations

import configparser
import gzip
import itertools
import json
import re
import subprocess
import time
import tomllib
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from unittest.mock import Mock

import app_status
import common
import local_nginx as on_server
import pytest
import release
import slot
import slot_layout
import staging
import symlinks
import yaml
from common import AppServerError
from typer.testing import CliRunner

from commands.__main__ import app as fleet_command
from components.balancer import upstreams
from gateways import GATEWAYS
from platforms.aws.instance import pack_user_data
from releases.manifest import make_manifest
from rendering.app_server import ProcessLayout, app_server_user_data, app_unit
from rendering.common import SCRIPTS, SUPERVISORD
from rendering.gateway_files import gateway_files
from settings import limits
from settings.application import APP_PORT, MAX_ISOLATED_PROCESSES, SLOT_PORTS, App
from tests.unit.app_server import AppServer, lay_out
from tests.unit.nginx_reader import args, find, parse
from tests.unit.source_archive import SOURCE
from tests.unit.test_stack_file import of_app

ROOT = Path(__file__).resolve().parents[2]
MANAGERS = ("systemd", "supervisord")


def app(kind: str = "uwsgi", manager: str = "systemd", processes: Any = 3, **gateway: Any) -> App:
    """Return an application whose processes are balanced."""
    fleet = {"local_proxy": True, "process_manager": manager}
    given = {"source": "x", "module": "app:app", "fleet": fleet}
    return App.model_validate_json(json.dumps(given | {"gateway": {"kind": kind, "processes": processes} | gateway}))


# What may be set.


@pytest.mark.parametrize(
    ("fleet", "processes", "message"),
    [
        ({"local_proxy": True}, "auto", 'gateway.processes: "auto": should be a number where'),
        ({"local_proxy": True}, 101, "gateway.processes: 101: should be 100 at most where"),
        (
            {"process_manager": "supervisord"},
            3,
            'fleet.process_manager: "supervisord": closes what it inherits before it starts a program',
        ),
        ({"process_manager": "upstart"}, 3, "`./fleet units --manager upstart` prints the job that it would get"),
        (
            {"local_proxy": True, "size": {"memory_mib": 256}},
            11,
            "gateway.processes: 11: should be 10 at most with fleet.size.memory_mib (256): each needs 12 MiB",
        ),
        ({"process_manager": "runit"}, 3, 'fleet.process_manager: "runit": should be'),
        ({"local_proxy": "yes"}, 3, 'fleet.local_proxy: "yes": should be true or false'),
    ],
)
def test_what_cannot_work_together_is_refused_with_the_reason(fleet: Any, processes: Any, message: str) -> None:
    (found,) = of_app(fleet=fleet, gateway={"processes": processes})
    assert message in found


@pytest.mark.parametrize("name", ["WSGI_FLEET_PORT", "NOTIFY_SOCKET"])
def test_a_variable_that_the_product_sets_cannot_be_set(name: str) -> None:
    assert f"['environment: {name}: is set by the product itself as well" in str(of_app(environment={name: "1"}))


# What is rendered.


def documents(kind: str, manager: Any, number: int = 3) -> dict[str, str]:
    """Return what a server boots with: path -> text."""
    text = app_server_user_data([], kind=GATEWAYS[kind], processes=ProcessLayout(manager, number))
    return {each["path"]: each["content"] for each in yaml.safe_load(text)["write_files"]}


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize("kind", GATEWAYS)
def test_the_document_says_what_the_server_is(kind: str, manager: Any) -> None:
    files = documents(kind, manager)
    assert files["/etc/wsgi-fleet/processes"] == f"{manager} 3\n"
    assert "/etc/systemd/system/app.socket" not in files
    install = files[f"{SCRIPTS}/install-gateway"]
    assert ("install supervisord supervisor==" in install) == (manager == "supervisord")


def test_the_largest_document_fits_into_what_ec2_takes() -> None:
    layouts = [ProcessLayout("systemd", MAX_ISOLATED_PROCESSES), ProcessLayout("supervisord", MAX_ISOLATED_PROCESSES)]
    made = [
        app_server_user_data(["libpq5"] * 50, kind=kind, processes=each)
        for kind in GATEWAYS.values()
        for each in layouts
    ]
    # Raises where EC2 would not take it.
    assert pack_user_data(max(made, key=lambda text: len(gzip.compress(text.encode()))))


def test_servers_that_balance_no_processes_get_nothing_of_it() -> None:
    files = yaml.safe_load(app_server_user_data([]))["write_files"]
    assert [each["path"] for each in files if "processes" in each["path"] or "nginx.service" in each["path"]] == []


def nginx(given: App, slot_: str, folder: Path) -> list[dict[str, Any]]:
    """Return the local Nginx's configuration as its reader sees it."""
    file = folder / "nginx.conf"
    file.write_text(gateway_files(given)[f"gateway/nginx-{slot_}.conf"])
    return parse(file)


@pytest.mark.parametrize(("kind", "prefix"), [("uwsgi", "uwsgi"), ("tornado", "proxy")])
@pytest.mark.parametrize("slot_", SLOT_PORTS)
def test_the_local_nginx_spreads_by_least_connections_over_the_ports_of_its_slot(
    kind: str, prefix: str, slot_: str, tmp_path: Path
) -> None:
    read = nginx(app(kind, request_timeout_s=30), slot_, tmp_path)
    (upstream,) = find(read, "upstream")
    first = SLOT_PORTS[slot_]
    ports = [server[0] for server in args(upstream["block"], "server")]
    assert ports == [f"127.0.0.1:{first + number}" for number in range(3)]
    assert [each["directive"] for each in upstream["block"]][:2] == ["zone", "least_conn"]
    assert [listen[0] for listen in args(read, "listen")] == [str(APP_PORT)]
    assert args(read, f"{prefix}_pass") == [["processes" if prefix == "uwsgi" else "http://processes"]]
    assert args(read, f"{prefix}_next_upstream") == [["error"]]
    assert args(read, f"{prefix}_read_timeout") == [[f"{limits.read_timeout_s(30)}s"]]
    assert args(read, "worker_shutdown_timeout") == [["45s"]]
    assert set(range(first, first + MAX_ISOLATED_PROCESSES)) <= set(app_status.PROCESS_PORTS)


def test_only_a_request_that_no_process_had_may_go_to_another_server(tmp_path: Path) -> None:
    found = next(
        each for each in find(nginx(app(), "blue", tmp_path), "map") if each["args"][0] == "$upstream_bytes_sent"
    )
    pattern = next(each["directive"] for each in found["block"] if each["directive"].startswith("~"))
    matched = {sent: bool(re.search(pattern[1:], sent)) for sent in ("0", "0, 0, 0", "-", "217", "0, 217", "217, 0")}
    assert matched == {"0": True, "0, 0, 0": True, "-": True, "217": False, "0, 217": False, "217, 0": False}


def test_the_balancer_speaks_http_with_a_servers_nginx_whatever_the_gateway() -> None:
    made = upstreams({"a": app(), "b": app("tornado"), "c": App(source="x", module="app:app")}, {})
    assert [each.protocol for each in made] == ["http", "http", "uwsgi"]


@pytest.mark.parametrize("kind", GATEWAYS)
def test_supervisord_numbers_ports_and_stops_each_gateway_by_its_own_word(kind: str) -> None:
    made = gateway_files(app(kind, "supervisord", request_timeout_s=30))
    parser = configparser.RawConfigParser()
    parser.read_string(made["gateway/supervisord-green.conf"])
    program = dict(parser["program:app"])
    assert (program["numprocs"], program["stopsignal"], program["stopasgroup"]) == ("3", "TERM", "false")
    assert program["stopwaitsecs"] == "45"
    assert program["environment"] == 'WSGI_FLEET_PORT="82%(process_num)02d"'
    assert "/run/app-green-%(process_num)d/http.sock" in program["command"]
    assert "82%(process_num)02d" in program["command"]
    assert parser["group:green"]["programs"] == "app"
    # The folders of these sockets.
    unit = app_unit(GATEWAYS[kind], ProcessLayout("supervisord", 3), proof=False)
    assert "RuntimeDirectory=app-%i app-%i-0 app-%i-1 app-%i-2\n" in unit


def test_a_process_of_systemd_has_its_port_and_its_slot_from_the_release() -> None:
    made = gateway_files(app())
    assert {name: text for name, text in made.items() if name.endswith(".env")} == {
        f"gateway/{slot_}-{number}.env": f"WSGI_FLEET_PORT={first + number}\nWSGI_FLEET_SLOT={slot_}\n"
        for slot_, first in SLOT_PORTS.items()
        for number in range(3)
    }
    unit = app_unit(processes=ProcessLayout("systemd", 3), proof=False)
    assert "EnvironmentFile=/srv/app/slots/%i/gateway/%i.env\n" in unit
    assert "--processes 1 --socket 127.0.0.1:${WSGI_FLEET_PORT}" in unit
    assert "app.socket" not in unit


def test_a_release_says_for_how_many_processes_of_whom_it_is_made() -> None:
    for manager in MANAGERS:
        manifest = json.loads(make_manifest(app(manager=manager), SOURCE, key="", secrets={}))
        assert (manifest["gateway"], manifest["processes"]) == ("uwsgi", f"{manager} 3")
        assert "uwsgi.ini" in manifest["gateway_files"]


def test_what_machines_and_tests_run_as_supervisord_is_one_version() -> None:
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    assert set(SUPERVISORD["supervisord"]) <= set(dev)


@pytest.mark.parametrize("kind", ["plain", "local proxy", "local proxy, again"])
def test_a_server_boots_slot_blue_and_its_socket_or_has_an_nginx_that_a_release_starts(
    kind: str, tmp_path: Path
) -> None:
    text = (ROOT / "templates" / "scripts" / "setup-app-server").read_text()
    text = text.replace("/etc/", f"{tmp_path}/").replace("/srv/", f"{tmp_path}/").replace(SCRIPTS, str(tmp_path))
    (tmp_path / "wsgi-fleet").mkdir()
    (tmp_path / "nginx").mkdir()
    conf = tmp_path / "nginx" / "nginx.conf"
    if kind != "plain":
        (tmp_path / "wsgi-fleet" / "processes").write_text("systemd 3\n")
    if "again" in kind:
        conf.symlink_to("nginx-blue.conf")
    else:
        conf.write_text("the package's")
    for name in ("systemctl", "install-packages", "install-gateway", "setup-upgrades", "sysctl", "id"):
        (tmp_path / name).write_text(f'#!/bin/sh\n[ $0 != {tmp_path}/systemctl ] || echo "$*" >>{tmp_path}/log\n')
        (tmp_path / name).chmod(0o755)
    subprocess.run(["sh", "-c", text], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    report = (tmp_path / "log").read_text().splitlines()
    assert report == [
        "mask --quiet --now --no-reload tmp.mount",
        *{
            "plain": ["enable --quiet --no-reload app.socket app@blue.service"],
            "local proxy": ["disable --quiet --now --no-reload nginx.service"],
        }.get(kind, []),
        "enable --quiet --no-reload app-boot.service",
        # Once: each runs all generators.
        "daemon-reload",
    ]
    assert (conf.exists(), conf.is_symlink()) == (kind == "plain", "again" in kind)


@pytest.mark.parametrize(
    ("manager", "message"),
    [
        ("systemd", ["# === /etc/systemd/system/app@.service", "# === /etc/systemd/system/app.socket"]),
        ("supervisord", ["[program:app]", "numprocs = 2", "81%(process_num)02d", "app@.service"]),
        ("upstart", ["# === /etc/init/app.conf", "instance $PROCESS", "--socket 127.0.0.1:81$PROCESS"]),
    ],
)
def test_a_user_sees_what_each_process_manager_gets(manager: str, message: list[str]) -> None:
    output = CliRunner().invoke(fleet_command, ["units", "-s", "local", "--manager", manager])
    assert output.exit_code == 0, output.output
    assert [word for word in message if word not in output.output] == []
    assert output.output.endswith("\n")


# How a server changes over.


@pytest.fixture(params=MANAGERS)
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppServer:
    """Create a server with two processes. r1 serves, r2 is staged. Events contain what Nginx is told."""
    made = lay_out(tmp_path, monkeypatch)
    (common.CONFIG / "processes").write_text(f"{request.param} 2\n")
    for name in ("r1", "r2"):
        made.place(name)
    slot.assign_release("blue", common.RELEASES / "r1")
    symlinks.atomic_symlink(common.LIVE, common.RELEASES / "r1")
    made.states = dict.fromkeys(slot.units("blue"), "active")
    local(monkeypatch, made)
    return made


def local(monkeypatch: pytest.MonkeyPatch, host: AppServer, *supervised: dict[str, Any], fails: str = "") -> None:
    """Stand in for local_nginx.py. supervised: what supervisord reports, again and again."""

    def reported(_slot: str) -> list[dict[str, Any]]:
        return [{name: next(value) if name == "pid" else value for name, value in each.items()} for each in supervised]

    def record(*words: Any) -> None:
        if fails:
            raise AppServerError(fails)
        host.events.append(" ".join(map(str, words)))

    monkeypatch.setattr(on_server, "supervisord_processes", reported)
    monkeypatch.setattr(on_server, "start", partial(record, "start"))
    monkeypatch.setattr(on_server, "route_traffic", partial(record, "route to"))


def slot_units(name: str) -> str:
    """Return the units of a slot, as they are started together."""
    return " ".join(slot.units(name))


def test_nginx_is_led_to_a_slot_whose_processes_are_all_well_and_then_the_old_one_drains(host: AppServer) -> None:
    release.switch("r2")
    assert host.events == [
        f"start {slot_units('green')}, live r1",
        "route to green 75",
        f"stop {slot_units('blue')}, live r2",
    ]
    # One answered before, whether what is live is still well.
    assert host.asked == ["app-green-0"] * 3 + ["app-green-1"] * 3
    assert symlinks.link_target(common.SLOTS / "green-1") == symlinks.link_target(common.SLOTS / "green") == "r2"


def test_a_process_that_is_not_well_leaves_everything_as_it_was(host: AppServer) -> None:
    host.answers = [200, 200, 200, *[500] * 10_000]
    host.place("r3", start_timeout_s=0.2)
    with pytest.raises(AppServerError, match=r"GET /healthz was not 200 in 0.2 s but 500 app-green-1"):
        release.switch("r3")
    assert host.events == [f"start {slot_units('green')}, live r1", f"stop {slot_units('green')}, live r1"]
    assert symlinks.link_target(common.LIVE) == "r1"


def test_a_slot_is_healthy_when_each_of_its_processes_is(host: AppServer) -> None:
    manifest = json.loads((common.RELEASES / "r1" / "manifest.json").read_text())
    for responses, expected in (
        ([200, 200], True),
        ([200, 503], False),
        ([503, 200], False),
        ([200, OSError()], False),
    ):
        host.answers = [*responses]
        assert slot.is_healthy("blue", manifest) is expected


def test_a_slot_that_nginx_cannot_be_led_to_is_stopped(host: AppServer, monkeypatch: pytest.MonkeyPatch) -> None:
    local(monkeypatch, host, fails="Nginx cannot")
    with pytest.raises(AppServerError, match="Nginx cannot"):
        release.switch("r2")
    assert host.events == [f"start {slot_units('green')}, live r1", f"stop {slot_units('green')}, live r1"]
    assert symlinks.link_target(common.LIVE) == "r1"


def test_nginx_is_led_back_before_what_an_interrupted_switch_left_is_stopped(host: AppServer) -> None:
    slot.assign_release("green", common.RELEASES / "r2")
    host.states |= dict.fromkeys(slot.units("green"), "active")
    release.switch("r1")
    assert host.events == ["route to blue 75", f"stop {slot_units('green')}, live r1"]


def test_a_server_that_boots_has_nginx_ask_the_slot_that_boots(host: AppServer) -> None:
    host.states.clear()
    release.boot()
    assert host.events == ["start blue"]
    assert symlinks.link_target(common.SLOTS / "blue-1") == "r1"


@pytest.mark.usefixtures("host")
def test_a_release_for_other_servers_is_refused_with_how_to_get_them() -> None:
    here = (common.CONFIG / "processes").read_text().strip()
    for made_for in ("one gateway", "systemd 9"):
        manifest = {"gateway": "uwsgi"} | ({} if made_for == "one gateway" else {"processes": made_for})
        with pytest.raises(
            AppServerError, match=f"r9 is made for servers with {made_for}, and this one has {here}; set fleet"
        ):
            staging.check_compatible("r9", manifest)
    staging.check_compatible("r9", {"gateway": "uwsgi", "processes": here})
    (common.CONFIG / "processes").unlink()
    with pytest.raises(AppServerError, match=f"r9 is made for servers with {here}, and this one has one gateway"):
        staging.check_compatible("r9", {"gateway": "uwsgi", "processes": here})


def test_supervisord_has_a_program_that_ended_told_at_once(host: AppServer, monkeypatch: pytest.MonkeyPatch) -> None:
    if slot.process_layout()[0] == "systemd":
        pytest.skip("systemd tells by itself")
    host.journal = "ImportError: x\n"
    local(monkeypatch, host, {"statename": "BACKOFF", "pid": itertools.repeat(0)})
    with pytest.raises(AppServerError, match="wsgi:app did not start; its last lines:\n    ImportError: x"):
        release.switch("r2")
    assert host.asked == []


def test_a_process_that_was_started_anew_is_noticed_while_it_is_watched(
    host: AppServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if slot.process_layout()[0] == "systemd":
        host.restarts = iter([0, 0, 0, 1])
    else:
        local(monkeypatch, host, {"statename": "RUNNING", "pid": itertools.count()})
    with pytest.raises(AppServerError, match="ended while it served"):
        slot.bake_slot("blue", {"health_path": "/"}, 30)


def test_a_slot_is_as_its_best_unit_and_stopped_when_none_runs(host: AppServer) -> None:
    first, *others = slot.units("blue")
    host.states = dict.fromkeys(others, "failed") | {first: "active"}
    assert (slot_layout.slot_states()["blue"], slot.serving_slots()) == ("active", ["blue"])
    host.states[first] = "failed"
    assert (slot_layout.slot_states()["blue"], slot.serving_slots()) == ("failed", [])


def test_a_server_is_as_well_as_its_worst_process(host: AppServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(sock: Path, manifest: dict[str, Any], _timeout_s: float) -> tuple[int, str]:
        assert manifest["health_path"] == "/healthz"
        return 500 if "blue-1" in str(sock) else 200, "text"

    monkeypatch.setattr(app_status, "SLOTS", common.SLOTS)
    monkeypatch.setattr(app_status, "get", get)
    found = app_status.check_health("blue")
    assert (found["status"], found["line"]) == (500, "blue-1: text")
    assert host.states


class Nginx:
    """What stands in for the local Nginx: `run`, and workers that follow a reload."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[str] = []
        self.fails: set[str] = set()
        self.state = "active"
        self.conf = folder / "nginx.conf"
        self.seen: list[dict[int, bool]] = [{1: True}]
        monkeypatch.setattr(on_server, "CONF", self.conf)
        monkeypatch.setattr(on_server, "SLOTS", folder)
        monkeypatch.setattr(on_server, "run", self.run)
        monkeypatch.setattr(on_server, "state_of", self.state_of)
        monkeypatch.setattr(on_server, "workers", self.workers)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        self.commands.append(" ".join(command))
        return subprocess.CompletedProcess(command, int(command[-2] in self.fails), "", "because")

    def state_of(self, unit: str) -> str:
        assert unit == "nginx"
        return self.state

    def workers(self) -> dict[int, bool]:
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

    def asks(self) -> str:
        return str(self.conf.readlink().relative_to(self.conf.parent))


@pytest.fixture
def nginx_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nginx:
    """Create an Nginx that runs and passes requests to slot blue."""
    made = Nginx(tmp_path, monkeypatch)
    on_server.select_config("blue")
    return made


def test_a_reload_is_over_when_the_old_workers_have_ended(nginx_: Nginx) -> None:
    nginx_.seen = [{1: True}, {1: True}, {1: True, 2: True}, {1: False, 2: True}, {1: False, 2: True}, {2: True}]
    on_server.route_traffic("green", 30)
    assert nginx_.asks() == "green/gateway/nginx-green.conf"
    assert nginx_.commands == ["/usr/sbin/nginx -t -q", "systemctl reload nginx"]
    assert nginx_.seen == [{2: True}]


def test_old_workers_are_waited_for_as_long_as_a_slot_may_drain(
    nginx_: Nginx, capsys: pytest.CaptureFixture[str]
) -> None:
    nginx_.seen = [{1: True}, {1: False, 2: True}]
    on_server.route_traffic("green", 0.1)
    assert capsys.readouterr().out == "Nginx still waits for responses after 0 s\n"


@pytest.mark.parametrize("failing", ["-t", "reload", "nothing"])
def test_nginx_asks_whom_it_asked_when_it_cannot_be_led(
    nginx_: Nginx, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx_.fails, nginx_.seen = {failing}, [{1: True}]
    monkeypatch.setattr(on_server, "RELOAD_S", 0.1)
    with pytest.raises(AppServerError):
        on_server.route_traffic("green", 30)
    assert nginx_.asks() == "blue/gateway/nginx-blue.conf"


def test_an_nginx_that_cannot_start_is_left_stopped_without_a_configuration(nginx_: Nginx) -> None:
    nginx_.conf.unlink()
    nginx_.state, nginx_.fails = "inactive", {"start"}
    with pytest.raises(AppServerError, match="because"):
        on_server.route_traffic("blue", 30)
    assert nginx_.commands[-1] == "systemctl stop nginx"
    assert not nginx_.conf.is_symlink()


def test_the_port_opens_when_a_process_answers_and_not_before(nginx_: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    host = AppServer(nginx_.conf.parent, answers=[ConnectionRefusedError(), 500, 200])
    monkeypatch.setattr(on_server, "get", host.get)
    on_server.wait_for_process()
    assert host.answers == []
    monkeypatch.setattr(on_server, "WAIT_S", 0)
    with pytest.raises(SystemExit, match="no process of slot blue responds to GET / with 200: the port stays closed"):
        on_server.wait_for_process()
    assert nginx_.commands == []


def test_what_supervisord_gave_up_is_started_again_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"app_00": "FATAL", "app_01": "RUNNING", "app_02": "BACKOFF", "app_03": "STOPPED"}
    every = [{"group": "blue", "name": name, "statename": state} for name, state in states.items()]
    # One that ends at once is a fault: it is for the next look.
    ask = Mock(side_effect=ConnectionRefusedError)
    monkeypatch.setattr(on_server, "supervisord_processes", Mock(return_value=every))
    monkeypatch.setattr(on_server, "_ask_supervisord", ask)
    monkeypatch.setattr(time, "sleep", Mock(side_effect=[None, KeyboardInterrupt]))
    with pytest.raises(KeyboardInterrupt):
        on_server.start_again("blue")
    assert ask.call_args_list == [mock.call("blue", "supervisor.startProcess", "blue:app_00", False)]
