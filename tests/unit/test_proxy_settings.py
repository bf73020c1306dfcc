"""What a reverse proxy cannot be told is refused with the reason, and never reaches Nginx."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from rendering.upstream import Upstream
from settings.header import FORGEABLE, HOP_BY_HOP, RESERVED_REQUEST_HEADERS, RESERVED_RESPONSE_HEADERS
from settings.route import Route
from settings.stack_file import parse
from tests.unit.proxy_settings import HOSTNAME, balancers, settings_of
from tests.unit.site_text import site_text
from tests.unit.stack_blocks import ROOT, app, config_of, problems_of, production, smallest


def blocks(proxy: Any, **balancer: Any) -> dict[str, Any]:
    return {"balancer": {"proxy": proxy, **balancer}}


def find_problems(proxy: Any, **balancer: Any) -> str:
    return "; ".join(problems_of(blocks(proxy, **balancer)))


@settings(max_examples=100, deadline=None)
@given(block=balancers())
def test_whatever_the_other_tests_draw_is_taken(block: dict[str, Any]) -> None:
    assert problems_of({"balancer": block}) == []


def rule(path: str, to: str = "/b", **more: Any) -> dict[str, Any]:
    return {"redirects": [{"path": path, "to": to, **more}]}


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        ({"compression": {"level": 10}}, "compression.level: 10: should be a whole number from 1 to 9"),
        ({"compression": {"types": ["text/css;"]}}, 'compression.types.0: "text/css;": should be'),
        ({"compression": {"types": ["*"]}}, 'compression.types.0: "*": should be'),
        ({"cache": {"valid_s": 0}}, "cache.valid_s: 0: should be a whole number from 1 to 3600"),
        ({"cache": {"valid_s": "1s"}}, 'cache.valid_s: "1s": should be a whole number from 1 to 3600'),
        ({"basic_auth": {}}, "basic_auth.users: missing"),
        ({"basic_auth": {"users": {"a:b": "correct horse"}}}, 'basic_auth.users["a:b"]: "a:b": should be'),
        ({"basic_auth": {"users": {}, "realm": "off"}}, 'basic_auth.realm: "off": would disable the password check'),
        ({"basic_auth": {"users": {}, "realm": '"'}}, 'basic_auth.realm: "\\"": should be'),
        *(({"basic_auth": {"users": {}, "exempt_paths": [path]}}, f"exempt_paths.0: {json.dumps(path)}: should be")
          for path in ("/", "/a;b", "/a\n")),
        ({"access": {}}, "access.allow, deny, deny_countries: are all empty"),
        *(({"access": {"deny": [address]}}, f'access.deny.0: "{address}": is an address and not a network')
          for address in ("10.0.0.1/8", "10.0.0.1")),
        ({"access": {"deny": ["10.0.0.0/33"]}}, 'access.deny.0: "10.0.0.0/33": is no network'),
        ({"access": {"deny": ["255.255.255.255/32"]}}, 'access.deny.0: "255.255.255.255/32": is the broadcast address'),
        ({"access": {"deny": ["all"]}}, 'access.deny.0: "all": should be'),
        ({"access": {"deny": ["::1/128; }"]}}, 'access.deny.0: "::1/128'),
        ({"access": {"allow": ["10.0.0.0/8"], "deny": ["10.0.0.0/8"]}}, "allow, deny: 10.0.0.0/8: is named twice"),
        ({"access": {"deny_countries": ["CN"]}}, "geoip: false: should be"),
        ({"geoip": True, "access": {"deny_countries": ["de"]}}, 'access.deny_countries.0: "de": should be'),
        ({"canonical_host": True}, "canonical_host: true: redirects to the first of balancer.hostnames, which is"),
        *((rule(path), f"redirects.0.path: {json.dumps(path)}: should be a path such as /old, /item/{{id}} or /old/*")
          for path in ("old", "/a b", "/(a+)+")),
        *((rule(path), f'redirects.0.path: "{path}": has other braces or stars') for path in ("/a/*/b", "/{a")),
        (rule("/{a:float}"), 'redirects.0.path: "/{a:float}": {a:float} has an unknown kind'),
        (rule("/{a}/{a}"), 'redirects.0.path: "/{a}/{a}": names a part twice'),
        (rule("/{a}{b}"), 'redirects.0.path: "/{a}{b}": nothing separates two of its parts'),
        (rule("/a", "/{b}"), "redirects.0.to: /{b}: b is no part of the path /a"),
        (rule("/a", "/*"), "redirects.0.to: /*: * is no part of the path /a"),
        (rule("/a", "/b?c=d"), "redirects.0.to: /b?c=d: has a query of its own"),
        *((rule("/a", to), f"redirects.0.to: {json.dumps(to)}: should be")
          for to in ("//evil.example", "/\\evil.example", "javascript:alert(1)", "https://$host/",
                     "/b\r\nSet-Cookie: c", '/b"; return 200')),
        ({"rewrites": [{"path": "/a", "to": "https://o.example/"}]}, 'rewrites.0.to: "https://o.example/": should'),
        ({"rewrites": [{"path": "/a", "to": "/b?c"}]}, 'rewrites.0.to: "/b?c": should be'),
        ({"request_headers": {"set": {"X A": "b"}}}, 'balancer.proxy.request_headers.set["X A"]: "X A": should be'),
        *(({"request_headers": {"set": {"X-A": value}}}, f"request_headers.set.X-A: {json.dumps(value)}: should be")
          for value in ("b\r\nc: d", "b\n", "", "\\", "ü")),
        *(({"request_headers": {"set": {"X-A": f"5 ${name}"}}}, f"set.X-A: \"5 ${name}\": ${name} is unknown")
          for name in ("uri", "", "hostname")),
        ({"request_headers": {"set": {"X-A": "a", "x-a": "b"}}}, "headers.set, remove: x-a: is named twice"),
        ({"response_headers": {"set": {"X-A": "a"}, "remove": ["x-a"]}}, "headers.set, remove: x-a: is named twice"),
        ({"response_headers": {"set": {"X-A": "$country"}}}, "geoip: false: should be"),
        ({"response_headers": {"set": {"Connection": "close"}}}, "Connection: is of one connection and goes no"),
        *(({"memcached": {"server": "a:1", "path": "/p/", name: value}}, f"memcached.{name}: {json.dumps(value)}: sho")
          for name, value in (("server", "10.0.0.9"), ("server", "a:1; }"), ("path", "/"), ("key_prefix", "$x"),
                              ("content_type", 'x"'))),
        ({"memcached": {"server": "10.0.0.9:0", "path": "/p/"}}, "server: 10.0.0.9:0: should end with a port"),
        ({"snippets": [{"context": "main", "text": "x"}]}, 'snippets.0.context: "main": should be'),
        ({"snippets": [{"context": "http"}]}, "snippets.0.text: missing"),
        ({"snippets": [{"context": "http", "text": "\0"}]}, "snippets.0.text"),
        ({"snippets": [{"context": "http", "file": "nowhere.conf"}]}, 'snippets.0.file: "nowhere.conf": no such file'),
        ({"snippets": [{"context": "http", "file": "a", "text": "b"}]}, "snippets.0: text conflicts with file; set"),
    ],
)  # fmt: skip
def test_what_nginx_must_not_be_told_is_refused_with_the_reason(proxy: dict[str, Any], expected: str) -> None:
    line = find_problems(proxy)
    assert line.startswith("balancer.proxy")
    assert expected in line


def test_a_burst_needs_a_rate() -> None:
    assert find_problems({}, burst=5).startswith(
        "balancer.burst: 5: counts above requests_per_second, which is not set; set"
    )
    assert find_problems({}, burst=5, requests_per_second=1) == ""


@pytest.mark.parametrize(
    ("headers", "names"),
    [("request_headers", sorted(RESERVED_REQUEST_HEADERS)), ("response_headers", sorted(RESERVED_RESPONSE_HEADERS))],
)
def test_headers_that_others_rely_on_can_neither_be_set_nor_removed(headers: str, names: list[str]) -> None:
    for name in names:
        for change in ({"set": {name.title(): "x"}}, {"remove": [name.title()]}):
            assert f"{name.title()}: is the balancer's own" in find_problems({headers: change})


def test_what_the_balancer_itself_sets_is_among_the_headers_that_others_rely_on() -> None:
    block: dict[str, Any] = {"tls": {"self_signed": True}, "proxy": {"cache": {}, "geoip": True}}
    apps = [Upstream("a", ["10.0.0.1"], 60, "/a"), Upstream("b", [], 60, "/b", Route(path="/b"))]
    text = site_text(settings_of(block), apps)
    # Each application can say for how long its own answers are good.
    own = {name.lower() for name in re.findall(r"add_header (\S+)", text)} - {"cache-control"}
    assert own == {"retry-after", "strict-transport-security", "x-cache", "x-request-id"}
    assert own <= RESERVED_RESPONSE_HEADERS
    requests = {name.lower().replace("_", "-") for name in re.findall(r"uwsgi_param HTTP_(\S+)", text)}
    assert {"x-forwarded-for", "x-real-ip", "x-country", "proxy"} <= requests
    assert requests <= RESERVED_REQUEST_HEADERS | HOP_BY_HOP | {name.lower() for name in FORGEABLE}


@pytest.mark.parametrize(
    ("rules", "way"),
    [
        ([("/a", "/a")], "/a: redirects back to itself (/a -> /a)"),
        ([("/a", "/b"), ("/b", "/a")], "/a: redirects back to itself (/a -> /b -> /a)"),
        ([("/a/*", "/a/b/*")], "/a/*: redirects back to itself (/a/1 -> /a/b/1 -> /a/b/b/1 -> /a/b/b/b/1 ...)"),
        ([("/i/{id:int}", "/items/{id}"), ("/items/{x}", "/i/{x}")], "/i/{id:int}: redirects back to itself (/i/1 ->"),
        ([("/a", f"https://{HOSTNAME}/a")], "/a: redirects back to itself (/a -> /a)"),
        ([("/a", "/b?c=d"), ("/b", "/a")], "/a: redirects back to itself (/a -> /b?c=d -> /a)"),
        ([("/a", "/b"), ("/b", "/c")], None),
        ([("/a", "https://o.example/a")], None),
        # The first that matches leads away, so the second is never asked.
        ([("/a", "/b"), ("/a", "/a")], None),
        ([("/i/{id:int}", "/i/{id}/")], None),
        ([("/a/*", "/b/*"), ("/b/{x}/*", "/c/{x}")], None),
    ],
)
def test_a_redirect_that_leads_back_to_itself_is_refused(rules: list[tuple[str, str]], way: str | None) -> None:
    redirects = [{"path": path, "to": to, "keep_query": False} for path, to in rules]
    line = find_problems({"redirects": redirects}, hostnames=[HOSTNAME])
    assert line.startswith(f"balancer.proxy.redirects: {way}") if way else line == ""


@pytest.mark.parametrize(("name", "block"), [("basic_auth", {"users": {}}), ("access", {"deny": ["::/0"]})])
def test_a_front_page_that_is_the_health_path_would_stay_open_and_is_refused(name: str, block: Any) -> None:
    (line,) = problems_of(blocks({name: block}) | {"apps": {"hello": app(health_path="/")}})
    assert line.startswith(f"balancer.proxy.{name}: apps.hello.health_path is /, and health paths are for everyone")


def on_aws(proxy: Any, **balancer: Any) -> list[str]:
    return problems_of(production(outbound_ports=[5432]) | blocks(proxy, **balancer))


def test_passwords_do_not_cross_the_internet_in_plain() -> None:
    proxy: dict[str, Any] = {"basic_auth": {"users": {}}}
    (line,) = on_aws(proxy)
    assert line.startswith("balancer.proxy.basic_auth: passwords would cross the internet in plain text")
    assert on_aws(proxy, tls={"self_signed": True}) == on_aws(proxy, trusted_proxies=["10.0.0.0/16"]) == []


def test_a_memcached_that_the_balancer_may_not_connect_to_is_refused() -> None:
    assert on_aws({"memcached": {"server": "10.0.0.9:5432", "path": "/p/"}}) == []
    (line,) = on_aws({"memcached": {"server": "10.0.0.9:11211", "path": "/p/"}})
    assert line.startswith("balancer.proxy.memcached.server: 10.0.0.9:11211: add 11211 to aws.outbound_ports")


def test_a_short_password_is_refused_without_being_told() -> None:
    assert find_problems({"basic_auth": {"users": {"ann": "sesame"}}}) == (
        "balancer.proxy.basic_auth.users.ann: (secret): has 6 characters, and should have 12 to 128; "
        "take another password"
    )


def test_a_snippet_may_stand_in_a_file_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "map $uri $x {\n    default 1;\n}\n"
    (tmp_path / "extra.conf").write_text(text)
    (tmp_path / "link.conf").symlink_to("/etc/hostname")
    (tmp_path / "binary.conf").write_bytes(b"\xff\xfe")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.setattr("tests.unit.stack_blocks.ROOT", tmp_path)
    block = smallest(blocks({"snippets": [{"context": "http", "file": "extra.conf"}]}))
    assert [each.text for each in parse(config_of(block), project=tmp_path).balancer.proxy.snippets] == [text]
    for name, words in (("link.conf", "no such file in the project"), ("binary.conf", "is no text in UTF-8")):
        line = find_problems({"snippets": [{"context": "http", "file": name}]})
        assert line.startswith(f'balancer.proxy.snippets.0.file: "{name}": {words}')


def test_every_example_of_the_page_on_the_balancer_is_taken() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "balancer.md").read_text(), re.DOTALL)
    found = [problems_of(yaml.safe_load(each)) for each in examples]
    assert len(found) == len(examples) == 15
    # The files of the user's own pages are not in this project, and what every application must set is left out.
    left_out = ("balancer.error_pages.", "apps.shop.source: missing", "apps.shop.module: missing")
    assert [line for lines in found for line in lines if not line.startswith(left_out)] == []


MEMCACHED = {"server": "10.0.0.9:11211", "path": "/shop/pages/"}


@pytest.mark.parametrize(
    ("proxy", "shop", "problem"),
    [
        ({"canonical_host": True}, {"hosts": ["a.example.org"]}, "canonical_host: true: would lead clients away from"),
        ({"memcached": MEMCACHED}, {"path": "/shop"}, "memcached.path: /shop/pages/: belongs to apps.shop, whose"),
    ],
)
def test_what_would_be_anothers_with_several_applications_is_refused(proxy: Any, shop: Any, problem: str) -> None:
    (line,) = problems_of(blocks(proxy, hostnames=[HOSTNAME]) | {"apps": {"hello": app(), "shop": app(**shop)}})
    assert line.startswith(f"balancer.proxy.{problem}")
