"""The choice of a gateway: what may be set with which, what a release and the balancer's site get of it."""

from __future__ import annotations

import configparser
import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateways import GATEWAYS
from releases.manifest import make_manifest
from rendering.app_server import app_server_user_data, app_unit
from rendering.common import SCRIPTS, UV, prebuilt_scripts
from rendering.gateway_files import INSTALL_SCRIPTS, gateway_files
from rendering.upstream import Upstream
from settings.balancer import Balancer
from settings.gateway import Gateway
from settings.header import FORGEABLE
from tests.processes.gateway_process import app
from tests.unit.nginx_reader import directives, find, mapped, value_of
from tests.unit.site_text import site_text
from tests.unit.source_archive import SOURCE
from tests.unit.stack_blocks import of_app

APP = Upstream("a", ["10.0.0.1"], 60, "/healthz")
VALUES: dict[str, Any] = {
    "worker_class": "sync", "greenlets": 5, "threads": 4, "lazy_apps": False, "max_requests": 10_000,
    "reload_on_rss_mib": 512,
}  # fmt: skip


# Directives that either protocol has, without uwsgi_ or proxy_ in front.
ALIKE = [
    "connect_timeout", "send_timeout", "read_timeout", "next_upstream", "next_upstream_tries", "next_upstream_timeout",
    "buffer_size", "buffers", "busy_buffers_size", "socket_keepalive",
]  # fmt: skip


@pytest.mark.parametrize("kind", GATEWAYS.values(), ids=GATEWAYS)
def test_a_setting_without_a_meaning_is_refused_even_at_its_default_with_the_reason(kind: Any) -> None:
    assert set(kind.unused) < set(Gateway.model_fields)
    for name, value in VALUES.items():
        lines = of_app(gateway={"kind": kind.name, name: value})
        if name in kind.unused:
            (line,) = lines
            assert line.startswith(f"gateway.{name}: {json.dumps(value)}: {kind.title} does not support it: ")
            assert kind.unused[name] in line
        elif (kind.name, name) == ("gunicorn", "greenlets"):
            assert lines == ["gateway.greenlets: 5: a gthread worker has none; worker_class: gevent has"]
        else:
            assert lines == []


@pytest.mark.parametrize(
    ("gateway", "message"),
    [
        ({"kind": "unicorn"}, ['kind: "unicorn": should be']),
        ({"worker_class": "sync", "threads": 2}, ["threads: 2: a sync worker has one"]),
        ({"worker_class": "gevent", "threads": 2}, ["threads: 2: a gevent worker runs requests in greenlets"]),
        ({"worker_class": "gevent", "lazy_apps": True}, ["lazy_apps: true: gevent workers always import after fork"]),
        ({"kind": "gevent", "greenlets": 0}, ["greenlets: 0: should be"]),
        ({"kind": "gevent", "threads": 2, "max_requests": 8192}, ["max_requests: 8192: gevent", "threads: 2: gevent"]),
        ({"worker_class": "tornado"}, ['worker_class: "tornado": should be "sync", "gthread" or "gevent", or null']),
    ],
)
def test_a_choice_that_cannot_be_is_refused(gateway: dict[str, Any], message: list[str]) -> None:
    for line, start in zip(of_app(gateway={"kind": "gunicorn"} | gateway), message, strict=True):
        assert line.startswith(f"gateway.{start}")


@pytest.mark.parametrize(
    ("values", "worker_class", "at_a_time"),
    [
        ({"kind": "gunicorn"}, "gthread", 8),
        ({"kind": "gunicorn", "threads": 1}, "sync", 1),
        ({"kind": "gunicorn", "threads": 1, "worker_class": "gthread"}, "gthread", 1),
        ({"kind": "gunicorn", "worker_class": "sync"}, "sync", 1),
        ({"kind": "gunicorn", "worker_class": "gevent"}, "gevent", 100),
        ({"kind": "gunicorn", "worker_class": "gevent", "greenlets": 7}, "gevent", 7),
    ],
)
def test_gunicorns_worker_follows_the_threads_unless_it_is_named(
    values: dict[str, Any], worker_class: str, at_a_time: int, tmp_path: Path
) -> None:
    made = gateway_files(app(**values, processes=3))
    (tmp_path / "gunicorn.conf.py").write_text(made["gateway/gunicorn.conf.py"])
    config = runpy.run_path(str(tmp_path / "gunicorn.conf.py"))
    assert (config["wsgi_app"], config["workers"]) == ("app:app", 3)
    assert (config["worker_class"], config["worker_connections"]) == (worker_class, at_a_time)
    assert config["preload_app"] == (worker_class != "gevent")
    assert (config["timeout"], config["graceful_timeout"], config["max_requests"]) == (65, 75, 10_000)


@pytest.mark.parametrize(
    ("values", "threads"), [({}, 8), ({"processes": 2}, 8), ({"processes": 1}, 16), ({"processes": 1, "threads": 3}, 3)]
)
def test_a_server_runs_at_least_sixteen_requests_at_a_time_unless_it_is_told(
    values: dict[str, Any], threads: int
) -> None:
    for kind, line in (("uwsgi", "threads"), ("gunicorn", "threads"), ("tornado", "threads")):
        assert f"\n{line} = {threads}\n" in gateway_files(app(kind, **values))[GATEWAYS[kind].config]


def test_the_configurations_of_gevent_and_tornado_read_back_as_they_were_set() -> None:
    for kind, changes in (("gevent", {"greenlets": 9, "processes": 3}), ("tornado", {"threads": 9, "lazy_apps": True})):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(gateway_files(app(kind, request_timeout_s=8, **changes))[GATEWAYS[kind].config])
        set_ = {"module": "app:app", "processes": "auto", "request_timeout_s": 8} | changes
        assert dict(parser["gateway"]) == {name: str(value).lower() for name, value in set_.items()}


@pytest.mark.parametrize("kind", GATEWAYS.values(), ids=GATEWAYS)
def test_a_server_gets_one_gateway_and_takes_its_releases(kind: Any, tmp_path: Path) -> None:
    document = yaml.safe_load(app_server_user_data([], kind=kind))
    files = {each["path"]: each["content"] for each in document["write_files"]}
    manifest = json.loads(make_manifest(app(kind.name), SOURCE, key="", secrets={}))
    assert files["/etc/wsgi-fleet/gateway"] == f"{kind.name}\n" == f"{manifest['gateway']}\n"
    scripts = {f"gateway/{name}.py" for name in kind.scripts} | {f"install/{name}.py" for name in INSTALL_SCRIPTS}
    assert set(manifest["gateway_files"]) == {kind.config, *scripts}
    install = files[f"{SCRIPTS}/install-gateway"]
    lines = [line for line in install.splitlines() if line.startswith("install ")]
    assert lines == [f"install {kind.name} {' '.join(kind.packages)}", f"install uv {UV['uv'][0]}"]
    (tmp_path / "install").write_text(install)
    subprocess.run(["shellcheck", str(tmp_path / "install")], check=True)
    for proof in (False, True):
        (line,) = [line for line in app_unit(kind, proof=proof).splitlines() if line.startswith("ExecStart=")]
        assert line.endswith(f" {kind.proof_args}") == proof
        assert ("/srv/app/slots/proof/" in line, "/run/app-proof/http.sock" in line) == (proof, proof)


def test_every_gateway_is_in_the_prebuilt_image() -> None:
    scripts = "\n".join(prebuilt_scripts())
    assert [kind.name for kind in GATEWAYS.values() if " ".join(kind.packages) not in scripts] == []


def location(folder: Path, protocol: Any, **balancer: Any) -> list[dict[str, Any]]:
    upstream = Upstream("a", ["10.0.0.1", "10.0.0.2"], 60, "/healthz", protocol=protocol)
    block = directives(site_text(Balancer(**balancer), [upstream]), folder)
    return next(each["block"] for each in find(block, "location") if each["args"] == ["/"])


@pytest.mark.parametrize("balancer", [{}, {"trusted_proxies": ["10.1.0.0/16"]}])
def test_either_protocol_has_the_same_time_outs_retries_buffers_and_headers(
    balancer: dict[str, Any], tmp_path: Path
) -> None:
    http, uwsgi = (location(tmp_path, protocol, **balancer) for protocol in ("http", "uwsgi"))
    for name in ALIKE:
        assert find(http, f"proxy_{name}")[0]["args"] == find(uwsgi, f"uwsgi_{name}")[0]["args"]
    passed = dict(each["args"] for each in find(http, "proxy_set_header"))
    params = dict(each["args"][:2] for each in find(uwsgi, "uwsgi_param"))
    forwarded = (f"X-Forwarded-{name}" for name in ("For", "Proto", "Host", "Port", "Prefix"))
    for name in ("X-Real-IP", "X-Request-ID", "Proxy", "If-Match", *forwarded, *FORGEABLE):
        assert passed[name] == params["HTTP_" + name.upper().replace("-", "_")], name
    assert (passed["Connection"], passed["Host"]) == ("close", params["HTTP_HOST"]) == ("close", "$host_and_port")
    assert find(http, "proxy_pass")[0]["args"] == ["http://app_a"]
    assert find(http, "rewrite")[0]["args"] == ["^", "$uri", "break"]
    assert "proxy_" not in site_text(Balancer(), [APP])


@pytest.mark.parametrize(
    ("chosen_by", "written", "is_believed", "port"),
    [
        ("shop.example.org", "Shop.example.org:8080", True, "8080"),
        ("shop.example.org", "shop.example.org", True, "443"),
        ("shop.example.org", "shop.example.org.:8443", True, "8443"),
        ("[::1]", "[::1]:8080", True, "8080"),
        # The request line named the first one.
        ("shop.example.org", "evil.example.org:8080", False, "443"),
        ("shop.example.org", "shop.example.org.evil", False, "443"),
        ("shop.example.org", "shop.example.org:80<x>", False, "443"),
        ("shop.example.org", "shop.example.org:", False, "443"),
        ("_", "", False, "443"),
    ],
)
def test_a_host_has_its_port_where_it_is_the_one_that_the_site_was_chosen_by(
    chosen_by: str, written: str, is_believed: bool, port: str, tmp_path: Path
) -> None:
    tls = Balancer.model_validate({"tls": {"self_signed": True}})
    block = directives(site_text(tls, [APP]), tmp_path)
    host = value_of(mapped(block, "host_and_port"), f"{chosen_by} {written}")
    assert host == ("$http_host" if is_believed else "$host")
    host = written if is_believed else chosen_by
    assert value_of(mapped(block, "client_port"), f"https {host}") == port


@pytest.mark.parametrize(("method", "with_cache"), [("PUT", '"1"'), ("GET", "")])
@pytest.mark.parametrize("written", ['W/"1"', '"1"'])
def test_an_etag_that_nginx_marked_as_weak_comes_back_without_the_mark(
    written: str, method: str, with_cache: str, tmp_path: Path
) -> None:
    def seen(proxy: dict[str, Any], text: str) -> str:
        block = directives(site_text(Balancer.model_validate({"proxy": proxy}), [APP]), tmp_path)
        return value_of(mapped(block, "if_match"), text).replace("$http_if_match", written)

    assert seen({}, written) == '"1"'
    # What is kept is for everyone.
    assert seen({"cache": {}}, f"{method} {written}") == with_cache
    assert "if_match" not in site_text(Balancer.model_validate({"proxy": {"compression": {"enabled": False}}}), [APP])
