"""Streaming paths and sticky sessions: what may be set, and what each proxy and the gateway make of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.balancer import upstreams
from rendering.gateway_files import gateway_files
from settings.application import App
from settings.balancer import Balancer
from settings.proxy import Proxy
from tests.unit.nginx_reader import Block, args, directives, location, mapped, parse, value_of
from tests.unit.site_text import site_text
from tests.unit.stack_blocks import app, of_app, problems_of

EVENTS = {"paths": ["/events/", "/poll"], "timeout_s": 600}
SOCKETS = EVENTS | {"websockets": True}


def make_app(kind: str = "gevent", **changes: Any) -> App:
    return App.model_validate_json(json.dumps(app(gateway={"kind": kind, "processes": 2}, **changes)))


def site(of: App, kind: str = "nginx", **proxy: Any) -> str:
    balancer = Balancer.model_validate({"proxy": proxy | {"kind": kind}})
    assert isinstance(balancer.proxy, Proxy)
    return site_text(balancer, upstreams({"a": of}, {"a": ["10.0.0.1"]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gateway": {"kind": "tornado"}},
            "streaming: Tornado sends nothing of a WSGI application's response before it is",
        ),
        (
            {"gateway": {"kind": "gunicorn", "threads": 1}},
            "streaming: a sync worker of Gunicorn would be held by one client",
        ),
        (
            {"streaming": SOCKETS},
            "streaming.websockets: true: the uwsgi protocol has no way to turn a connection into one",
        ),
        ({"streaming": {"paths": []}}, "streaming.paths: []: should be "),
        ({"streaming": {"paths": ["/"]}}, 'streaming.paths.0: "/": should be a path such as /events'),
        ({"streaming": {"paths": ["/a;}/"]}}, 'streaming.paths.0: "/a;}/": should be a path such as /events'),
        ({"streaming": {"paths": ["/a", "/a"]}}, "streaming.paths: /a: is named twice; name it once"),
        (
            {"static": {"folder": "hello", "url_path": "/events/"}},
            "streaming.paths: /events/: should be outside of static.url_path (/events/)",
        ),
        (
            {"path": "/poll", "strip_path": False, "health_path": "/poll/h"},
            "streaming.paths: /poll: is all of the application (apps.hello.path); name a part of it",
        ),
    ],
)
def test_what_cannot_stream_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    lines = of_app(**{"streaming": EVENTS} | changes)
    assert [line for line in lines if line.startswith(message)], lines


def test_a_path_of_another_application_cannot_stream() -> None:
    (line,) = problems_of({"apps": {"a": app(streaming=EVENTS), "b": app(path="/events")}})
    assert line.startswith("apps.a.streaming.paths: /events/: /events of every host belongs to apps.b")


@pytest.mark.parametrize("kind", ["uwsgi", "gunicorn", "gevent"])
def test_nginx_holds_back_nothing_there_waits_longer_and_keeps_nothing(kind: str, tmp_path: Path) -> None:
    block = directives(site(make_app(kind, path="/s", streaming=EVENTS), cache={}), tmp_path)
    prefix = "uwsgi" if kind == "uwsgi" else "proxy"
    for where in (("^~", "/s/events/"), ("=", "/s/poll")):
        there = location(block, *where)
        assert args(there, f"{prefix}_buffering") == args(there, f"{prefix}_request_buffering") == [["off"]]
        assert args(there, "gzip") == [["off"]]
        assert args(there, f"{prefix}_read_timeout") == [["605s"]]
        assert args(there, f"{prefix}_cache") == []
        # A body is passed on as it comes, so its length must be told.
        assert there[0]["args"] == ["$has_unknown_length"]
    usual = location(block, "/s/")
    assert args(usual, f"{prefix}_read_timeout") == [["65s"]]
    assert args(usual, f"{prefix}_buffering") == args(usual, "gzip") == []


def connections(block: Block, *where: str) -> tuple[list[str], list[str]]:
    headers = {each[0]: each[1] for each in args(location(block, *where), "proxy_set_header")}
    return [headers["Connection"]], [headers.get("Upgrade", "")]


@pytest.mark.parametrize("local_proxy", [False, True])
def test_a_connection_becomes_a_websocket_there_and_nowhere_else(local_proxy: bool, tmp_path: Path) -> None:
    of = make_app(streaming=SOCKETS, fleet={"local_proxy": local_proxy})
    files = gateway_files(of)
    blocks = [directives(site(of), tmp_path)]
    if local_proxy:
        (tmp_path / "local").write_text(files["gateway/nginx-blue.conf"])
        blocks.append(next(each["block"] for each in parse(tmp_path / "local") if each["directive"] == "http"))
        assert args(location(blocks[1], "=", "/poll"), "proxy_read_timeout") == [["605s"]]
    for block in blocks:
        assert connections(block, "=", "/poll") == (["$upgrade_or_close"], ["$http_upgrade"])
        assert connections(block, "/") == (["close"], [""])
        assert mapped(block, "upgrade_or_close") == [("default", ["close"]), ("~*^websocket$", ["upgrade"])]
    # What the gateway goes by: seconds more than other requests have.
    assert json.loads(files["gateway/streaming.json"]) == {"paths": ["/events/", "/poll"], "extra_s": 540}


def test_apache_waits_longer_for_all_and_compresses_nothing_there() -> None:
    text = site(make_app(path="/s", streaming=SOCKETS), "apache")
    assert " timeout=605 " in text
    assert " upgrade=websocket\n" in text
    assert r'RequestHeader unset Upgrade "expr=! (%{REQUEST_URI} =~ m#^/s/events/|^/s/poll\z#)"' in text
    lines = [line.strip() for line in text.splitlines()]
    for pattern in ("^/s/events/", r"^/s/poll\z"):
        number = lines.index(f'RewriteCond %{{REQUEST_URI}} "{pattern}"')
        assert lines[number + 1] == "RewriteRule ^ - [E=no-gzip:1]"
    assert "upgrade=" not in site(make_app(streaming=EVENTS), "apache")


@pytest.mark.parametrize(
    ("cookie", "key", "given"),
    [
        ("", "$request_id", "wsgi_fleet_a=$request_id; Path=/; HttpOnly; SameSite=Lax"),
        ("0123456789abcdef" * 2, "$cookie_wsgi_fleet_a", ""),
        ('0123456789abcdef"; $', "$request_id", "wsgi_fleet_a=$request_id; Path=/; HttpOnly; SameSite=Lax"),
    ],
)
def test_nginx_finds_the_server_by_the_cookie_and_gives_one_to_a_client_without(
    cookie: str, key: str, given: str, tmp_path: Path
) -> None:
    block = directives(site(make_app("uwsgi", sticky_sessions=True)), tmp_path)
    (upstream,) = [each for each in block if each["directive"] == "upstream"]
    assert args(upstream["block"], "hash") == [["$sticky_key_a", "consistent"]]
    assert args(upstream["block"], "least_conn") == []
    assert value_of(mapped(block, "sticky_key_a"), cookie) == key
    assert value_of(mapped(block, "set_sticky_a"), f"http {cookie}") == given
    assert value_of(mapped(block, "set_sticky_a"), f"https {cookie}") == (f"{given}; Secure" if given else "")
    assert ["Set-Cookie", "$set_sticky_a", "always"] in args(location(block, "/"), "add_header")


def test_apache_names_the_server_in_the_cookie_by_no_address() -> None:
    text = site(make_app("uwsgi", sticky_sessions=True), "apache")
    # In the balancer, and in each virtual host: the second one takes chunked bodies.
    assert text.count("stickysession=wsgi_fleet_a") == 3
    assert re.findall(r"10\.0\.0\.1:8000 .* route=([0-9a-f]{12})$", text, re.MULTILINE)


@pytest.mark.parametrize("kind", ["nginx", "apache"])
def test_without_sticky_sessions_no_client_gets_a_cookie(kind: str) -> None:
    assert not re.search("(?i)set-cookie|sticky", site(make_app("uwsgi"), kind))
