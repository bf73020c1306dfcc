"""The site of a balancer that does more than spread requests, read back by crossplane and by regular expressions.

Nginx itself reads and serves such sites in tests/e2e/test_proxy.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import proxy
import pytest
from hypothesis import HealthCheck, given, settings
from site_state import State

from rendering.balancer import proxy_packages_command
from rendering.filters import nginx_return, nginx_target
from rendering.site import USERS_FILE, render_site
from rendering.upstream import Upstream
from settings.balancer import Balancer
from settings.proxy import Compression
from settings.rewriting import Redirect
from settings.route import Route
from tests.unit.nginx_reader import args, directives, find, location, mapped, parse
from tests.unit.proxy_settings import HOSTNAME, balancers, settings_of
from tests.unit.site_text import site_text
from tests.unit.test_rendering import ROOT

APP = Upstream("a", ["10.0.0.1"], 60, "/healthz")


def read(folder: Path, **proxy: Any) -> list[dict[str, Any]]:
    """Return the site with these settings of the proxy, read back."""
    return directives(site_text(settings_of({"hostnames": [HOSTNAME], "proxy": proxy}), [APP]), folder)


def server(block: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return next(each["block"] for each in block if each["directive"] == "server" and any(
        listen[:2] == ["80", "default_server"] for listen in args(each["block"], "listen")
    ))  # fmt: skip


def test_a_stack_that_sets_none_of_it_gets_the_site_without_it() -> None:
    text = site_text(Balancer(), [APP])
    assert text == site_text(settings_of({"proxy": {}}), [APP])
    # The whole site of such a stack, as it was before there were these settings: not even its comments know of them.
    assert [word for word in ("proxy", "_cache", "auth", "gzip", " last;", "geo") if word in text] == []


def word(text: str) -> str:
    """Return a text as Nginx reads it between double quotes."""
    return re.sub(r'\\(["\\])', r"\1", text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=balancers())
def test_whatever_is_set_reads_back_as_it_was_set(block: dict[str, Any], tmp_path: Path) -> None:
    given_ = settings_of(block)
    proxy = given_.proxy
    site = directives(site_text(given_, [APP]), tmp_path)
    whole = location(server(site), "/")
    every = server(site)
    # Nothing got out of its place: the directives of each block are those that were rendered there.
    assert {each["directive"] for each in site} <= {
        "map", "merge_slashes", "geo", "geoip_country", "uwsgi_cache_path", "upstream", "server",
    }  # fmt: skip
    headers = {header[0]: word(header[1]) for header in args(whole, "add_header")}
    expected = {name: nginx_words(value) for name, value in proxy.response_headers.set.items()}
    assert headers.items() >= expected.items()
    hidden = {name for (name,) in args(whole, "uwsgi_hide_header")} - {"X-Cache"}
    assert hidden == {*proxy.response_headers.set, *proxy.response_headers.remove}
    params = {param[0]: [word(param[1]), *param[2:]] for param in args(whole, "uwsgi_param")}
    for name, value in proxy.request_headers.set.items():
        assert params[variable(name)] == [nginx_words(value)]
    for name in proxy.request_headers.remove:
        assert params[variable(name)] == ["", "if_not_empty"]
    rewrites = [(word(rule[0]), rule[1]) for rule in args(every, "rewrite") if rule[-1] == "last"]
    expected_rewrites = [(rule.regex, nginx_target(rule)) for rule in proxy.rewrites]
    assert rewrites == expected_rewrites + [("^", "/.uncached$uri")] * (proxy.memcached is not None)
    if proxy.redirects:
        assert [(word(key), value) for key, value in mapped(site, "redirect")[1:]] == [
            (f"~{rule.regex}", [nginx_return(rule)]) for rule in proxy.redirects
        ]
    if proxy.access:
        (admitted,) = find(site, "geo")[-1:]
        assert {each["directive"]: each["args"] for each in admitted["block"]} == {
            "default": ["no" if proxy.access.allow else "yes"],
            **{network: ["yes"] for network in proxy.access.allow},
            **{network: ["no"] for network in proxy.access.deny},
        }
    if proxy.basic_auth:
        assert ("default", [proxy.basic_auth.realm]) in mapped(site, "realm")
    if proxy.cache:
        assert args(whole, "uwsgi_cache_valid")[0][-1] == f"{proxy.cache.valid_s}s"


def variable(name: str) -> str:
    return "HTTP_" + name.upper().replace("-", "_")


def nginx_words(value: str) -> str:
    return value.replace("$host", "${host}").replace("$request_id", "${rid}")


def test_compression_is_what_every_site_shares_unless_it_is_set(tmp_path: Path) -> None:
    main = parse(ROOT / "templates" / "nginx" / "nginx.conf")
    shared = Compression()
    assert args(main, "gzip") == [["on"]]
    assert args(main, "gzip_comp_level") == [[str(shared.level)]]
    assert args(main, "gzip_min_length") == [[str(shared.min_bytes)]]
    assert args(main, "gzip_types") == [shared.types]
    assert find(read(tmp_path, status=True), "gzip_types") == []
    changed = read(tmp_path, compression={"types": ["text/html", "text/css", "text/css"], "level": 1, "min_bytes": 0})
    assert args(server(changed), "gzip_types") == [["text/css"]]
    assert args(server(changed), "gzip_comp_level") + args(server(changed), "gzip_min_length") == [["1"], ["0"]]
    for types in ([], ["text/html"]):
        assert args(server(read(tmp_path, compression={"types": types})), "gzip_types") == [["text/x-none"]]
    assert args(server(read(tmp_path, compression={"enabled": False})), "gzip") == [["off"]]


def test_only_what_is_asked_by_nobody_in_particular_is_kept(tmp_path: Path) -> None:
    site = read(tmp_path, cache={"valid_s": 3, "max_mib": 9})
    (key,) = [each for each in find(site, "map") if each["args"][1] == "$not_cacheable"]
    assert key["args"][0] == "$http_cookie$http_authorization$http_content_length$http_transfer_encoding"
    assert mapped(site, "not_cacheable") == [("default", ["on"]), ("", [""])]
    whole = location(server(site), "/")
    assert args(whole, "uwsgi_cache_methods") == [["GET", "HEAD"]]
    assert args(whole, "uwsgi_cache_bypass") == [["$not_cacheable", "$exempt"]]
    assert args(whole, "uwsgi_no_cache") == [["$not_cacheable", "$exempt", "$upstream_http_set_cookie"]]
    assert args(whole, "uwsgi_cache_lock") == [["on"]]
    # Without it whatever expired long ago would still be served once.
    assert find(whole, "uwsgi_cache_background_update") == []
    assert "max_size=9m" in args(site, "uwsgi_cache_path")[0]


def test_answers_are_kept_by_country_where_the_application_is_told_it(tmp_path: Path) -> None:
    for geoip in (False, True):
        ((key,),) = args(read(tmp_path, cache={}, geoip=geoip), "uwsgi_cache_key")
        assert ("$geoip_country_code" in key) == geoip


def patterns(site: list[dict[str, Any]], variable: str, expected: str) -> list[str]:
    """Return the regular expressions for which a map gives this value."""
    keys = [word(key).removeprefix("~") for key, value in mapped(site, variable) if value == [expected]]
    return [key.replace(r"\z", r"\Z") for key in keys]


def matches(patterns: list[str], text: str) -> bool:
    return any(re.search(pattern, text) for pattern in patterns)


@pytest.mark.parametrize(
    ("path", "is_exempt"),
    [("/healthz", True), ("/public/a/b", True), ("/public/", True), ("/a.b", True), ("/.error/503.html", True),
     ("/healthz/x", False), ("/healthz\n", False), ("/a.b\n", False), ("/axb", False), ("/public", False),
     ("/x/public/", False), ("/Healthz", False)],
)  # fmt: skip
def test_health_paths_and_exempt_ones_need_no_password_and_no_other_does_not(
    tmp_path: Path, path: str, is_exempt: bool
) -> None:
    site = read(tmp_path, basic_auth={"users": {}, "exempt_paths": ["/public/", "/a.b"]})
    asked = ("on" if matches(patterns(site, "exempt", "on"), f"_{path}") else "") + path
    # The one map is asked with what the other says.
    assert matches(patterns(site, "realm", "off"), asked) == is_exempt


def test_a_health_path_is_exempt_where_its_application_answers(tmp_path: Path) -> None:
    apps = [
        Upstream("a", ["10.0.0.1"], 60, "/well", Route(hosts=["a.example.org"])),
        Upstream("b", ["10.0.0.2"], 60, "/", Route(path="/b")),
    ]
    health = patterns(directives(site_text(settings_of({"proxy": {"cache": {}}}), apps), tmp_path), "exempt", "on")
    assert [matches(health, each) for each in ("a.example.org/well", "_/b/")] == [True, True]
    assert [matches(health, each) for each in ("_/well", "_/", "aXexample.org/well", "a.example.org/")] == [False] * 4


def test_a_password_goes_no_further_and_a_name_that_was_not_asked_for_proves_nothing(tmp_path: Path) -> None:
    site = read(tmp_path, basic_auth={"users": {}})
    params = {param[0]: param[1:] for param in args(location(server(site), "/"), "uwsgi_param")}
    assert params["HTTP_AUTHORIZATION"] == ["$passed_authorization", "if_not_empty"]
    assert params["REMOTE_USER"] == ["$user", "if_not_empty"]
    assert mapped(site, "user") == [("default", ["$remote_user"]), ("off", [""])]
    assert mapped(site, "passed_authorization") == [("default", [""]), ("off", ["$http_authorization"])]
    assert args(server(site), "auth_basic_user_file") == [[USERS_FILE]]


def test_nothing_stands_before_health_paths_and_maintenance_comes_first(tmp_path: Path) -> None:
    site = read(
        tmp_path, access={"allow": ["10.0.0.0/8"]}, canonical_host=True, redirects=[{"path": "/*", "to": "/x/*"}],
        snippets=[{"context": "server", "text": "if ($arg_x) { return 204; }"}],
    )  # fmt: skip
    conditions = [" ".join(each["args"]) for each in server(site) if each["directive"] == "if"]
    assert conditions[conditions.index("$maintenance") :] == [
        "$maintenance", "$exempt", "$admitted = no", "$exempt_location", "$refused", "$arg_x", f"$host != {HOSTNAME}",
        "$redirect ~ ^308:(.*)$", "$redirect ~ ^307:(.*)$",
    ]  # fmt: skip
    exempt = next(each for each in server(site) if each["args"] == ["$exempt"])
    assert [each["directive"] for each in exempt["block"]] == ["break"]


@pytest.mark.parametrize(
    ("path", "to", "asked", "response"),
    [
        ("/old", "/new", "/old", "308:/new$is_args$args"),
        ("/old", "/new", "/old?a=b", "308:/new$is_args$args"),
        ("/old", "/new", "/old/", None),
        ("/old", "/new", "/older", None),
        ("/i/{id}", "/items/{id}", "/i/7%2F8", "308:/items/7%2F8$is_args$args"),
        ("/i/{id}", "/items/{id}", "/i/7/8", None),
        ("/i/{id}", "/items/{id}", "/i/", None),
        ("/i/{id:int}", "/items/{id}", "/i/x", None),
        ("/i/{id:int}-{slug}", "/{slug}/{id}", "/i/12-a-b", "308:/a-b/12$is_args$args"),
        ("/a.b/*", "https://o.example/*", "/a.b/c/d?e", "308:https://o.example/c/d$is_args$args"),
        ("/a.b/*", "https://o.example/*", "/axb/c", None),
        ("/a/*", "/*", "/a/", "308:/$is_args$args"),
        # Each would lead to another host.
        ("/a/*", "/*", "/a//evil.example", None),
        ("/a/*", "/*", "/a/\\evil.example", None),
        ("/a/{b}", "/{b}", "/a/\\evil.example", None),
        ("/a/*", "/*", "/a/%0d%0aSet-Cookie:x", "308:/%0d%0aSet-Cookie:x$is_args$args"),
    ],
)
def test_a_redirect_matches_its_paths_and_leads_to_no_other_host(
    path: str, to: str, asked: str, response: str | None
) -> None:
    rule = Redirect(path=path, to=to)
    match = re.search(rule.regex, asked)
    made = match and re.sub(r"\$(\d)", lambda found: match[int(found[1])], nginx_return(rule))
    assert made == response


def test_every_answer_carries_what_clients_rely_on(tmp_path: Path) -> None:
    block = {
        "tls": {"self_signed": True},
        "proxy": {
            "response_headers": {"set": {"X-A": "b"}},
            "memcached": {"server": "10.0.0.9:11211", "path": "/pages/"},
            "cache": {},
        },
    }
    empty = Upstream("b", [], 60, "/b", Route(path="/b"))
    site = directives(site_text(settings_of(block), [APP, empty]), tmp_path)
    every = [each for each in find(server(site), "location") if args(each["block"], "add_header")]
    assert [each["args"][-1] for each in every] == ["/.error/", "/pages/", "/", "/b"]
    retries: list[str] = []
    for where in [server(site), *(each["block"] for each in every)]:
        own = [each["args"] for each in where if each["directive"] == "add_header"]
        assert ["Strict-Transport-Security", "$hsts", "always"] in own
        assert ["X-A", "b", "always"] in own
        retries += [header[1] for header in own if header[0] == "Retry-After"]
    assert retries == ["$error_retry_after"]


NGINX_SNIPPET = "upstream x {\n server  10.0.0.2:8000 max_fails=0 max_conns=2048;\n}\nserver { listen 443 ssl; }"
APACHE_SNIPPET = "<Proxy balancer://x>\n BalancerMember uwsgi://10.0.0.2:8000 \n</Proxy>\nListen 0.0.0.0:443 https"


@pytest.mark.parametrize(("kind", "text"), [("nginx", NGINX_SNIPPET), ("apache", APACHE_SNIPPET)])
def test_a_snippet_stays_as_it_is_and_its_servers_and_ports_are_not_ours(kind: str, text: str) -> None:
    """Also while a server that it names as well is drained."""
    two = Upstream("a", ["10.0.0.1", "10.0.0.2"], 60, "/healthz")
    snippets = [{"context": "http", "text": text}]
    site = json.loads(json.dumps(render_site(settings_of({"proxy": {"kind": kind, "snippets": snippets}}), [two])))
    assert (State(site, [], []).servers, site["https"]) == (["10.0.0.1", "10.0.0.2"], False)
    for drained, lines in (([], 2), (["10.0.0.2"], 1)):
        served = State(site, drained, []).render()
        assert f"\n{text}\n" in served
        assert served.count("10.0.0.2:8000") == lines


@pytest.mark.parametrize("kind", ["nginx", "apache"])
@pytest.mark.parametrize("context", ["http", "server", "location"])
def test_an_error_in_a_snippet_names_the_setting_and_its_line(kind: str, context: str) -> None:
    snippets = [{"context": "http", "text": "# good"}, {"context": context, "text": "# mine\n\nBAD here\n"}]
    site = site_text(settings_of({"proxy": {"kind": kind, "snippets": snippets}}), [APP])
    lines = site.split("\n")
    error = {
        "nginx": "unknown directive in /etc/x/site.candidate:{}",
        "apache": "Syntax error on line {} of /x/site.candidate:",
    }

    def locate(line: int) -> str:
        return proxy.locate(error[kind].format(line), site)

    bad = lines.index("BAD here") + 1
    assert locate(bad) == f"balancer.proxy.snippets.1: line 3: {error[kind].format(bad)}"
    behind = next(number for number in range(bad + 3, len(lines)) if lines[number - 1].strip())
    assert locate(behind).startswith(
        f"{lines[behind - 1].strip()!r} (or balancer.proxy.snippets.1 above it leaves a brack"
    )
    assert locate(2).startswith(f"{lines[1].strip()!r}: ")
    assert locate(10**6) == error[kind].format(10**6)


def test_counters_are_for_who_is_on_the_balancer_alone_and_not_in_its_log(tmp_path: Path) -> None:
    (status,) = [each["block"] for each in read(tmp_path, status=True) if each["directive"] == "server"][:1]
    assert args(status, "listen") == [["127.0.0.1:8081"]]
    assert args(status, "access_log") == [["off"]]
    assert len(find(status, "stub_status")) == 1


def test_a_burst_is_twice_the_rate_unless_it_is_set(tmp_path: Path) -> None:
    for burst, expected in ((None, "burst=10"), (3, "burst=3")):
        given_ = settings_of({"requests_per_second": 5, "burst": burst})
        assert expected in args(directives(site_text(given_, [APP]), tmp_path), "limit_req")[0]


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ({}, None),
        ({"cache": {}}, None),
        ({"basic_auth": {"users": {}}}, ["users"]),
        ({"geoip": True}, ["-", "libnginx-mod-http-geoip", "geoip-database"]),
    ],
)
def test_what_a_site_needs_beside_itself_is_brought_only_where_it_is_needed(
    proxy: dict[str, Any], words: list[str] | None
) -> None:
    command = proxy_packages_command(settings_of({"proxy": proxy}))
    assert (command and command[4:]) == words


def test_an_application_that_is_asked_by_http_gets_the_same(tmp_path: Path) -> None:
    app = Upstream("a", ["10.0.0.1"], 60, "/healthz", protocol="http")
    block: dict[str, Any] = {
        "cache": {},
        "geoip": True,
        "basic_auth": {"users": {}},
        "request_headers": {"set": {"X-Set": "b"}, "remove": ["X-Gone"]},
        "response_headers": {"remove": ["X-Powered-By"]},
    }
    site = directives(site_text(settings_of({"proxy": block}), [app]), tmp_path)
    headers = {each[0]: each[1] for each in args(location(server(site), "/"), "proxy_set_header")}
    assert (headers["X-Set"], headers["X-Gone"], headers["X-Country"]) == ("b", "", "$geoip_country_code")
    assert (headers["X-Remote-User"], headers["Authorization"]) == ("$user", "$passed_authorization")
    assert args(location(server(site), "/"), "proxy_hide_header") == [["X-Powered-By"], ["X-Cache"]]
    assert args(location(server(site), "/"), "proxy_cache") == [["answers_proxy"]]
    assert [each[0] for each in args(site, "proxy_cache_path")] == ["/var/cache/wsgi-fleet-proxy"]
    assert "uwsgi_" not in str(site)


@pytest.mark.parametrize("proxy", [{}, {"cache": {}}])
def test_nobody_says_who_they_are_by_a_header_where_no_password_is_asked_for(
    tmp_path: Path, proxy: dict[str, Any]
) -> None:
    app = Upstream("a", ["10.0.0.1"], 60, "/healthz", protocol="http")
    headers = args(
        location(server(directives(site_text(settings_of({"proxy": proxy}), [app]), tmp_path)), "/"), "proxy_set_header"
    )
    assert [value for name, value in headers if name == "X-Remote-User"] == [""]
