"""What a machine exports for Prometheus: its text, its access log as counters, and its own state."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import app_server_metrics
import app_status
import balancer_metrics
import balancer_status
import certificate
import metrics_writer
import pytest
import site_state
import wanted_release
from balancer_metrics import Balancer, Routes, VirtualHost
from exposition import Histogram, Metrics, escape
from hypothesis import given
from hypothesis import strategies as st
from log_tail import QUIET_S, LogTail
from metric_families import BUCKETS_S, BY_NAME, FAMILIES
from metrics_writer import Writer
from wanted_release import WantedRelease

from harness.promtool import check, promtool
from harness.stack import eventually
from rendering.monitoring import app_server_exporter, balancer_exporter
from rendering.templates import read_file
from settings.application import App
from tests.unit.listening import wait_until_listening

ADMIN_PATH = f"{os.environ['PATH']}:/usr/sbin"

needs_promtool = pytest.mark.skipif(promtool() is None, reason="needs promtool, of Debian's package prometheus")
HOSTILE = 'a"b\\c\nd{e="f"} 1\n# HELP x\r\x00é\ud800'
ONE, TWO = "10.0.0.1", "10.0.0.2"
SERVER = re.compile(r'^(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$')


class Clock:
    """A clock that a test moves, in seconds."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def always(value: Any) -> Callable[..., Any]:
    def answer(*_: Any) -> Any:
        return value

    return answer


def read_series(text: str) -> dict[str, float]:
    """Return the series of a text of metrics with their values."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def series_of(*parts: Any) -> dict[str, float]:
    metrics = Metrics()
    for part in parts:
        part(metrics)
    return read_series(metrics.text())


def request(uri: str = "/", host: str = "shop.example.org", status: int = 200, **changes: Any) -> str:
    """Return a line of the access log."""
    attempt = {"upstream": f"{ONE}:8000", "upstream_status": "200", "header_s": "0.1", "response_s": "0.1"}
    line = {"time": "2026-11-30T12:00:00+00:00", "host": host, "uri": uri, "status": status, "seconds": 0.02}
    return json.dumps(line | attempt | changes) + "\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the state of a balancer of two servers, one of them drained; without TLS."""
    upstream = {"servers": {ONE: "", TWO: ""}, "protocol": "uwsgi", "health_path": "/", "health_host": "", "probe": "/"}
    state: dict[str, Any] = {
        "site": {"parts": [], "upstreams": {"app_my_shop": upstream}, "https": False},
        "drained": [TWO],
        "unhealthy": [],
    }
    (tmp_path / "site.json").write_text(json.dumps(state))
    health = {ONE: {"healthy": True, "why": ""}, TWO: {"healthy": False, "why": "GET / was not 200"}}
    (tmp_path / "health.json").write_text(json.dumps({"at": time.time() - 7, "servers": health, "problem": ""}))
    monkeypatch.setattr(site_state, "STATE", tmp_path / "site.json")
    monkeypatch.setattr(site_state, "PAGE", tmp_path / "maintenance.html")
    monkeypatch.setattr(balancer_status, "HEALTH", tmp_path / "health.json")
    monkeypatch.setattr(certificate, "FILE", tmp_path / "site.pem")
    (tmp_path / "access.log").touch()
    return tmp_path


def balancer(folder: Path, clock: Clock | None = None) -> Balancer:
    hosts = [VirtualHost((), [["/", "my-shop"]]), VirtualHost(("api.example.org", "*.api.org"), [["/v1", "api"]])]
    routes = Routes(hosts, {"app_my_shop": "my-shop", "app_api": "api"})
    return Balancer(routes, LogTail(folder / "access.log", clock or Clock()))


def log(folder: Path, *lines: str) -> None:
    with (folder / "access.log").open("a") as file:
        file.write("".join(lines))


@given(st.text())
def test_a_label_is_read_back_as_it_was_whatever_is_in_it(value: str) -> None:
    escaped = escape(value)
    assert "\n" not in escaped
    plain = re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), escaped)
    assert plain == value.encode(errors="replace").decode()
    assert SERVER.match(f'name{{a="{escaped}"}} 1')


def test_a_metric_with_other_labels_than_its_family_has_is_refused() -> None:
    with pytest.raises(ValueError, match="has the labels"):
        Metrics().add("maintenance", 1, client="192.0.2.1")


def test_a_histogram_counts_a_duration_in_each_bucket_that_it_fits() -> None:
    histogram, metrics = Histogram(), Metrics()
    for seconds in (0.0, 0.005, 0.0051, 60.0, 61.0):
        histogram.observe(seconds)
    metrics.add_histogram("request_duration_seconds", histogram, app="a")
    found = read_series(metrics.text())
    name = "wsgi_fleet_request_duration_seconds"
    bounds = {bound: found[f'{name}_bucket{{app="a",le="{bound}"}}'] for bound in ("0.005", "0.01", "60", "+Inf")}
    assert bounds == {"0.005": 2, "0.01": 3, "60": 4, "+Inf": 5}
    assert (found[f'{name}_count{{app="a"}}'], round(found[f'{name}_sum{{app="a"}}'], 4)) == (5, 121.0101)


@needs_promtool
def test_promtool_accepts_every_family_with_hostile_labels() -> None:
    metrics = Metrics()
    for family in FAMILIES:
        labels = dict.fromkeys(family.labels, HOSTILE)
        short = family.name.removeprefix("wsgi_fleet_")
        if family.kind == "histogram":
            metrics.add_histogram(short, Histogram(), **labels)
        else:
            metrics.add(short, 1.5, **labels)
    assert check("check", "metrics", stdin=metrics.text()) == ""
    assert metrics.text().count("# TYPE") == len(FAMILIES)


def test_each_request_is_counted_once_by_application_and_status(site: Path) -> None:
    log(site, request())
    found = balancer(site)
    log(site, request(), request(status=404), request("/v1/x?y", "API.example.org"), request("/v2", "a.api.org"))
    log(
        site,
        request("/x", "b.a.api.org", 503, upstream="", upstream_status=""),
        '{"status": 0, "problem": "x"}\n',
        "no\n",
    )
    series: Mapping[str, float] = {}
    for _ in range(2):
        series = series_of(found.add_requests)
        counted = {name: value for name, value in series.items() if "requests_total" in name and value}
        assert counted == {
            'wsgi_fleet_requests_total{app="my-shop",code="200"}': 1,
            'wsgi_fleet_requests_total{app="my-shop",code="404"}': 1,
            'wsgi_fleet_requests_total{app="api",code="200"}': 1,
            'wsgi_fleet_requests_total{app="",code="200"}': 1,
            'wsgi_fleet_requests_total{app="",code="503"}': 1,
        }
    assert series['wsgi_fleet_request_duration_seconds_count{app="my-shop"}'] == 2


@pytest.mark.parametrize(
    ("uri", "app"),
    [
        ("/v1", "api"), ("/v1/", "api"), ("//v1/x", "api"), ("/%76%31/x", "api"), ("/a/../v1/x", "api"),
        ("/../v1", "api"), ("/v1/../x", ""), ("/v1%2f..%2fx", ""), ("/v1#/..", "api"), ("/v11", ""), ("", ""),
        ("*", ""), ("/a?/../v1", ""),
    ],
)  # fmt: skip
def test_a_url_counts_for_the_application_that_got_it_however_a_client_writes_it(uri: str, app: str) -> None:
    assert Routes([VirtualHost(("a.org",), [["/v1", "api"]])], {}).app_of("a.org", uri) == app


def test_words_of_clients_and_odd_codes_make_no_labels(site: Path) -> None:
    found = balancer(site)
    before = len(series_of(found.add_requests, found.add_servers))
    lines = [
        request(f"/{HOSTILE}{number}", f"{number}.{HOSTILE}", 600 + number, upstream=f"10.9.9.{number}:80")
        for number in range(99)
    ]
    log(site, *lines)
    assert len(series_of(found.add_requests, found.add_servers)) == before + 1
    assert balancer_metrics.label_of("499") == "499"
    assert {balancer_metrics.label_of(each) for each in ("999", "x", "200, 502")} == {"other"}
    assert {balancer_metrics.label_of(each) for each in ("-", "", "0", "000")} == {"000"}


def test_attempts_are_counted_for_the_server_and_forgotten_with_it(site: Path) -> None:
    found = balancer(site)
    saved: Mapping[str, Any] = {
        "upstream": f"{ONE}:8000, {TWO}:8000",
        "upstream_status": "502, 200",
        "header_s": "-, 0.1",
    }
    log(site, request(**saved, response_s="0.0, 0.1"))
    series = series_of(found.add_requests, found.add_servers)
    attempts = {name: value for name, value in series.items() if "upstream" in name}
    assert attempts == {
        f'wsgi_fleet_upstream_requests_total{{app="my-shop",server="{ONE}",code="502"}}': 1,
        f'wsgi_fleet_upstream_requests_total{{app="my-shop",server="{TWO}",code="200"}}': 1,
    }
    state = json.loads((site / "site.json").read_text())
    del state["site"]["upstreams"]["app_my_shop"]["servers"][TWO]
    (site / "site.json").write_text(json.dumps(state))
    assert not [name for name in series_of(found.add_servers) if TWO in name]


def test_servers_maintenance_and_the_age_of_the_health_agent_are_told(site: Path) -> None:
    (site / "maintenance.html").touch()
    series = series_of(balancer(site).add_servers)
    assert series[f'wsgi_fleet_server_healthy{{app="my-shop",server="{ONE}"}}'] == 1
    assert series[f'wsgi_fleet_server_healthy{{app="my-shop",server="{TWO}"}}'] == 0
    assert series[f'wsgi_fleet_server_drained{{app="my-shop",server="{TWO}"}}'] == 1
    assert series["wsgi_fleet_maintenance"] == 1
    assert time.time() - series["wsgi_fleet_health_agent_timestamp_seconds"] == pytest.approx(7, abs=2)


@pytest.mark.parametrize(("state", "active"), [("active", 1), ("reloading", 1), ("activating", 0), ("failed", 0)])
def test_a_proxy_that_does_not_run_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch, state: str, active: int
) -> None:
    systemctl = site / "systemctl"
    systemctl.write_text(f'#!/bin/sh\n[ "$*" = "is-active nginx" ] && echo {state}\nexit 3\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(site))
    assert series_of(balancer(site).add_proxy) == {"wsgi_fleet_proxy_active": active}


def test_the_end_of_a_certificate_is_told_and_read_again_when_its_file_is_another(site: Path) -> None:
    found, name = balancer(site), "wsgi_fleet_certificate_not_after_timestamp_seconds"
    assert name not in series_of(found.add_certificate)
    for number, days in enumerate((2, 9)):
        key = ("-addext", "subjectAltName=DNS:a", "-keyout", "-", "-out", "-")
        pem = certificate.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc",
                                  "-batch", "-days", str(days), "-subj", "/CN=a", *key)  # fmt: skip
        certificate.FILE.write_text(pem)
        os.utime(certificate.FILE, (number + 1, number + 1))
        assert series_of(found.add_certificate)[name] == pytest.approx(time.time() + days * 86400, abs=60)


def test_a_log_that_is_renamed_is_read_to_its_end_before_the_next_one(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "access.log"
    path.write_text("old\n")
    tail = LogTail(path, clock)
    with path.open("a") as file:
        file.write("1\n2")
        file.flush()
        assert [*tail.lines()] == [b"1"]
        path.rename(tmp_path / "access.log.1")
        file.write("2\n")
        file.flush()
        assert [*tail.lines()] == [b"22"]
        path.write_text("4\n")
        clock.now += QUIET_S - 1
        file.write("3\n")
    assert [*tail.lines()] == [b"3"]
    assert [*tail.lines()] == []
    clock.now += QUIET_S
    assert [*tail.lines()] == [b"4"]
    assert [*tail.lines()] == []


def test_a_log_that_is_emptied_or_comes_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "access.log"
    tail = LogTail(path, clock)
    clock.now += QUIET_S
    path.write_text("1\n")
    assert [*tail.lines()] == [b"1"]
    path.write_text("")
    assert [*tail.lines()] == []
    path.write_text("2\n")
    assert [*tail.lines()] == [b"2"]


def test_an_app_server_tells_its_release_workers_queue_and_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "releases" / "0a1b").mkdir(parents=True)
    (tmp_path / "live").symlink_to("releases/0a1b")
    (tmp_path / "slots").mkdir()
    (tmp_path / "slots" / "blue").symlink_to("../releases/0a1b")
    stats = {"workers_busy": 1, "workers_idle": 3, "threads": 8, "threads_busy": 2, "listen_queue": 0}
    states = {"blue": "active", "green": "inactive"}
    replaced: Mapping[str, Any] = {
        "LIVE": tmp_path / "live",
        "SLOTS": tmp_path / "slots",
        "slot_states": lambda: states,
        "process_layout": lambda: ("systemd", 0),
        "read_pointer": always("0a1b"),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(app_server_metrics, name, value)
    facts: Mapping[str, Any] = {
        "gateway_status": stats,
        "check_health": {"status": 503},
        "accept_queue": 4,
        "list_restarts": {"app@blue.service": 2},
    }
    for name, value in facts.items():
        monkeypatch.setattr(app_status, name, always(value))
    series = series_of(*app_server_metrics.AppServer("shop").parts.values())
    assert series.pop('wsgi_fleet_release_live_timestamp_seconds{app="shop"}') == pytest.approx(time.time(), abs=60)
    assert {name: value for name, value in series.items() if value or "slot_state" not in name} == {
        'wsgi_fleet_release_info{app="shop",release="0a1b",slot="blue"}': 1,
        'wsgi_fleet_slot_state{app="shop",slot="blue",state="active"}': 1,
        'wsgi_fleet_slot_state{app="shop",slot="green",state="inactive"}': 1,
        'wsgi_fleet_app_healthy{app="shop"}': 0,
        'wsgi_fleet_workers{app="shop",slot="blue",state="busy"}': 1,
        'wsgi_fleet_workers{app="shop",slot="blue",state="idle"}': 3,
        'wsgi_fleet_threads{app="shop",slot="blue",state="busy"}': 2,
        'wsgi_fleet_threads{app="shop",slot="blue",state="idle"}': 6,
        'wsgi_fleet_accept_queue_connections{app="shop"}': 4,
        'wsgi_fleet_restarts_total{app="shop",unit="app@blue.service"}': 2,
    }


@pytest.mark.parametrize(
    ("pointer", "links", "drift"),
    [
        ("1", {"live": "1", "slots/blue": "1"}, 0),
        ("2", {"live": "1", "slots/blue": "1"}, 1),
        # A switch that was killed: one of them serves on.
        ("2", {"live": "2", "slots/blue": "1", "slots/green": "2"}, 1),
        # Away while the first release was made.
        ("1", {}, 1),
        ("", {}, 0),
    ],
)
def test_an_app_server_tells_whether_it_runs_what_the_store_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pointer: str, links: Mapping[str, str], drift: int
) -> None:
    (tmp_path / "slots").mkdir()
    for name, release in links.items():
        (tmp_path / "releases" / release).mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / "releases" / release)
    states = {slot: "active" if f"slots/{slot}" in links else "inactive" for slot in ("blue", "green")}
    replaced: Mapping[str, Any] = {
        "LIVE": tmp_path / "live",
        "SLOTS": tmp_path / "slots",
        "slot_states": always(states),
        "read_pointer": always(pointer),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(app_server_metrics, name, value)
    monkeypatch.setattr(app_status, "gateway_status", always(None))
    monkeypatch.setattr(app_status, "check_health", always({"status": 200}))
    server = app_server_metrics.AppServer("shop")

    def drift_series() -> dict[str, float]:
        return {name: value for name, value in series_of(server.add_slots, server.add_drift).items() if "drift" in name}

    # Nothing is known before the store has responded.
    assert drift_series() == {}
    eventually(drift_series, timeout_s=5, message="the store has responded")
    assert drift_series() == {'wsgi_fleet_release_drift{app="shop"}': drift}


class SlowStore:
    """A store that responds when a test says so, by a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.asked, self.answers = Clock(), queue.Queue[None](), queue.Queue[str]()
        monkeypatch.setattr(wanted_release.time, "monotonic", self.clock)
        self.wanted = WantedRelease(self.ask)

    def ask(self) -> str:
        self.asked.put(None)
        if answer := self.answers.get(timeout=10):
            return answer
        raise OSError("no route")

    def look(self, release: str) -> bool | str | None:
        try:
            return self.wanted.is_drift({release})
        except OSError as error:
            return str(error)

    def respond(self, answer: str, release: str, expected: bool | str) -> None:
        """Expect that it was asked once, let it respond, and expect what a look says then."""
        self.asked.get(timeout=5)
        assert self.asked.empty()
        self.answers.put(answer)
        eventually(lambda: self.look(release) == expected, timeout_s=5, message=f"{answer} is read")


def test_a_slow_store_holds_up_nothing_and_is_asked_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SlowStore(monkeypatch)
    assert store.look("1") is None
    store.clock.now += wanted_release.PATIENCE_S
    # It is asked already.
    assert store.look("1") is None
    store.clock.now += 1
    assert store.look("1") == "no response of the release store for 300 s"
    # Once it has responded, it is due again.
    for answer, expected in (("1", False), ("", "no route"), ("1", False)):
        store.respond(answer, "1", expected)
        store.clock.now += wanted_release.EVERY_S
        # Until the next answer, the last one holds.
        assert store.look("1") == expected
    store.asked.get(timeout=5)
    store.answers.put("1")


def test_a_server_that_has_just_switched_is_not_taken_for_drifted_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SlowStore(monkeypatch)
    assert store.look("1") is None
    store.respond("1", "1", expected=False)
    assert store.look("2") is True
    store.clock.now += wanted_release.DRIFTED_EVERY_S - 1
    assert store.look("2") is True
    assert store.asked.empty()
    store.clock.now += 1
    assert store.look("2") is True
    store.respond("2", "2", expected=False)


def test_a_part_that_fails_takes_no_other_with_it_and_is_logged_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Metrics) -> None:
        raise ValueError("broken")

    file = tmp_path / "a.prom"
    writer = Writer({"bad": fails, "good": lambda metrics: metrics.add("maintenance", 0)}, file)
    writer.write()
    writer.write()
    assert read_series(file.read_text()) == {
        "wsgi_fleet_maintenance": 0,
        'wsgi_fleet_collection_success{part="bad"}': 0,
        'wsgi_fleet_collection_success{part="good"}': 1,
    }
    assert capsys.readouterr().err.count("broken") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.prom"]


def test_each_tier_finds_its_parts_by_what_the_step_writes(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer_metrics, "LOG", site / "access.log")
    shop = App(source="a", module="a:b", path="/shop")
    for text, parts in (
        (app_server_exporter("shop"), {"slots", "queue", "restarts", "drift"}),
        (balancer_exporter({"my-shop": shop}, "nginx"), {"proxy", "requests", "servers", "certificate"}),
    ):
        config = json.loads(json.loads(text)["files"]["/etc/wsgi-fleet/monitoring.json"][1])
        assert {*metrics_writer.find_parts(config)} == parts
    with pytest.raises(ValueError, match="pulumi up --replace"):
        metrics_writer.find_parts({})


def test_only_a_balancer_with_nginx_gets_the_exporter_of_nginx() -> None:
    for proxy in ("nginx", "apache"):
        spec = json.loads(balancer_exporter({}, proxy))
        assert ("prometheus-nginx-exporter" in spec["packages"]) == (proxy == "nginx")
        assert ("/etc/nginx/wsgi-fleet/exporter.conf" in spec["files"]) == (proxy == "nginx")


@pytest.mark.skipif(shutil.which("nginx", path=ADMIN_PATH) is None, reason="needs nginx")
def test_nginx_starts_again_after_it_was_killed_while_it_counted_for_its_exporter(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    listen = read_file("templates/nginx/exporter.conf").replace(":9114;", f":{port};")
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr;\nevents {{}}\nhttp {{\n{folders}{listen}\n}}\n"
    )
    for _ in range(2):
        command = ["nginx", "-e", "stderr", "-c", str(config)]
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True, env={"PATH": ADMIN_PATH}
        ) as nginx:
            try:
                wait_until_listening(nginx, port)
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
                    assert b"Active connections" in response.read()
            finally:
                os.killpg(nginx.pid, signal.SIGKILL)


def test_names_follow_the_conventions_of_prometheus() -> None:
    assert [*BUCKETS_S] == sorted(BUCKETS_S)
    for family in FAMILIES:
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.text.endswith("."), family.name
    assert len(BY_NAME) == len(FAMILIES)
