"""Several applications behind one balancer: which gets a request, and what nobody could tell apart is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rendering.upstream import Upstream
from settings.application import App
from settings.balancer import Balancer
from settings.health import health_host
from settings.operating_system import DEFAULT_OS, OPERATING_SYSTEMS, OperatingSystem
from settings.route import Route, hostnames, problems, virtual_hosts
from settings.stack import Settings
from tests.certificates import Authority
from tests.unit.nginx_reader import args, directives, find, location, mapped
from tests.unit.site_text import site_text
from tests.unit.stack_blocks import app, problems_of

SHOP, BLOG = "shop.example.org", "blog.example.org"
ACME = {"acme": {"email": "ops@example.org"}}


def find_problems(apps: Mapping[str, Any], **blocks: Any) -> list[str]:
    return problems_of({"apps": {name: app(**changes) for name, changes in apps.items()}} | blocks)


def make_routes(**apps: dict[str, Any]) -> dict[str, Route]:
    return {name: Route.model_validate_json(json.dumps(changes)) for name, changes in apps.items()}


def owner(apps: Mapping[str, Route], host: str, path: str) -> str | None:
    """Return the application that Nginx chooses: by exact name, longest wildcard, else the first server."""
    servers = virtual_hosts(apps)
    labels = host.split(".")
    for name in (host, *("*." + ".".join(labels[first:]) for first in range(1, len(labels)))):
        found = [server for server in servers if name in server.names]
        if found:
            break
    else:
        found = [server for server in servers if not server.names]
    (server,) = found
    fits = [(len(prefix), who) for prefix, who in server.table if f"{path}/".startswith(prefix.rstrip("/") + "/")]
    return max(fits)[1] if fits else None


# Who names a host comes before who is on every one, and gives it back below paths of no one who names it.
OWNERS = {
    "127.0.0.1": {"/": "shop", "/cart": "shop", "/api": "api", "/api/v1": "api", "/api/v2/x": "new", "/apis": "shop"},
    BLOG: {"/": "blog", "/api": "blog"},
    "docs.example.org": {"/manual/1": "manual", "/": "tenants"},
    "a.example.org": {"/manual": "tenants"},
    "a.b.example.org": {"/": "tenants"},
    "example.org": {"/": "shop"},
    "www.example.com": {"/api/x": "api", "/help": "help", "/": "shop"},
}


def test_the_most_exact_host_and_then_the_longest_path_decides() -> None:
    apps = make_routes(
        shop={}, api={"path": "/api"}, new={"path": "/api/v2"}, blog={"hosts": [BLOG]},
        manual={"hosts": ["docs.example.org"], "path": "/manual"}, tenants={"hosts": ["*.example.org"]},
        help={"hosts": ["www.example.com"], "path": "/help"},
    )  # fmt: skip
    assert {host: {path: owner(apps, host, path) for path in paths} for host, paths in OWNERS.items()} == OWNERS
    del apps["shop"]
    assert owner(apps, "127.0.0.1", "/") is owner(apps, "www.example.com", "/") is None


NAMES = st.lists(st.sampled_from([SHOP, BLOG, "*.example.org", "*.b.example.org", "a.b.example.org"]), max_size=3)
PATHS = st.sampled_from(["/", "/a", "/a/b", "/b"])
PLACES = st.fixed_dictionaries({"hosts": NAMES.map(lambda names: list(dict.fromkeys(names))), "path": PATHS})


@given(st.lists(PLACES, min_size=1, max_size=5))
def test_whatever_is_not_refused_reaches_every_application(places: list[dict[str, Any]]) -> None:
    apps = make_routes(**{f"a{number}": each for number, each in enumerate(places)})
    if problems(apps, dict.fromkeys(apps, "/healthz-of-nobody-else"), {}):
        return
    for name, each in apps.items():
        for host in each.hosts or ["127.0.0.1"]:
            assert owner(apps, host.replace("*", "any"), each.path) == name


@pytest.mark.parametrize(
    ("apps", "line"),
    [
        ({"shop": {}, "blog": {}}, "apps.shop, apps.blog: both serve / of every host; give one of them hosts or"),
        ({"shop": {"path": "/a"}, "blog": {"path": "/a"}}, "apps.shop, apps.blog: both serve /a of every host; give"),
        ({"shop": {"hosts": [SHOP, BLOG]}, "blog": {"hosts": [BLOG]}}, f"apps.shop, apps.blog: both serve {BLOG}/; "),
        ({"shop": {"hosts": [SHOP, SHOP]}}, f"apps.shop.hosts: {SHOP}: is named twice; name it once"),
        (
            {"shop": {"health_path": "/api/h"}, "api": {"path": "/api"}},
            "apps.shop.health_path: /api/h: /api/h of every host belongs to apps.api (path /api); take",
        ),
        ({"api": {"path": "/api", "strip_path": False}}, "apps.api.health_path: /healthz: should be below"),
    ],
)
def test_what_nobody_could_tell_apart_is_refused(apps: dict[str, dict[str, Any]], line: str) -> None:
    (found,) = find_problems(apps)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(("hosts.0", host) for host in ("shop", "*.org", "shop.*.org", "a.org; return 200", "~^.*$", "a.org\n")),
        *(("path", path) for path in ("shop", "/shop/", "/.maintenance", "/.well-known/acme-challenge", "/a/../b")),
        *(("path", path) for path in ("//a", '/a"; return 200 "', "/$uri", "/a b", "/(a+)+")),
    ],
)
def test_what_nginx_would_read_otherwise_is_refused(place: str, value: str) -> None:
    (found,) = find_problems({"shop": {place.partition(".")[0]: [value] if place == "hosts.0" else value}})
    assert found.startswith(f"apps.shop.{place}: {json.dumps(value)}: should be ")


def test_every_ambiguity_is_a_line_of_its_own() -> None:
    found = find_problems({"a": {}, "b": {}, "c": {"hosts": [SHOP]}, "d": {"hosts": [SHOP]}})
    assert [line.partition(":")[0] for line in found] == ["apps.a, apps.b", "apps.c, apps.d"]


def test_twenty_applications_may_share_a_balancer() -> None:
    apps = {f"app-{number}": {"path": f"/{number}"} for number in range(20)}
    assert find_problems(apps) == []
    (line,) = find_problems(apps | {"more": {}})
    assert line.startswith("apps: ")


def test_a_name_of_the_balancer_that_no_application_answers_is_refused() -> None:
    assert find_problems({"shop": {"hosts": [SHOP]}}, balancer={"hostnames": [SHOP, BLOG]}) == [
        f"balancer.hostnames: {BLOG}: no application serves it; give one that host, or one no hosts"
    ]
    assert find_problems({"shop": {"hosts": [SHOP]}, "rest": {}}, balancer={"hostnames": [SHOP, BLOG]}) == []


def test_hosts_of_applications_are_names_of_the_site() -> None:
    apps = make_routes(shop={"hosts": ["*.example.org", SHOP]}, blog={"hosts": [BLOG]})
    assert hostnames(["www.example.org", BLOG], apps) == ["www.example.org", BLOG, SHOP, "*.example.org"]
    assert find_problems({"shop": {"hosts": [SHOP]}}, balancer={"tls": ACME}) == []


@pytest.mark.parametrize(
    ("changes", "hostnames", "expected"),
    [
        ({}, [], "localhost"),
        ({}, [SHOP, BLOG], SHOP),
        # It is the other application's.
        ({}, ["www.example.net", BLOG], BLOG),
        ({"hosts": ["*.example.org", SHOP]}, [BLOG], "wsgi-fleet.example.org"),
        ({"hosts": [SHOP], "health_host": "localhost"}, [BLOG], "localhost"),
    ],
)
def test_servers_are_asked_for_their_health_by_a_name_that_clients_use(
    changes: dict[str, Any], hostnames: list[str], expected: str
) -> None:
    given_ = {"shop": app(**changes), "other": app(hosts=["www.example.net"])}
    apps = {name: App.model_validate_json(json.dumps(each)) for name, each in given_.items()}
    assert health_host("shop", apps, hostnames) == expected


def test_a_certificate_that_leaves_a_host_out_is_refused() -> None:
    signed = Authority().sign([SHOP, "*.example.net"])
    tls = {"certificate": signed.certificate, "private_key": signed.private_key}
    apps = {"shop": {"hosts": [SHOP, "*.example.net"]}, "blog": {"hosts": [BLOG]}}
    assert find_problems(apps, balancer={"tls": tls}) == [
        f"balancer.tls.certificate: does not cover {BLOG} of apps (it is for *.example.net, {SHOP}); give one that does"
    ]


def test_no_acme_server_is_asked_for_a_wildcard() -> None:
    (line,) = find_problems({"shop": {"hosts": [SHOP, "*.example.org"]}}, balancer={"tls": ACME})
    assert line.startswith("apps.*.hosts: *.example.org: no ACME server signs that by http-01")


def site(
    folder: Path, balancer: Balancer | None = None, system: OperatingSystem = DEFAULT_OS, **apps: dict[str, Any]
) -> list[dict[str, Any]]:
    there = make_routes(**apps)
    upstreams = [Upstream(name, ["10.0.0.1"], 60, "/healthz", each) for name, each in there.items()]
    given_ = balancer or Balancer()
    return directives(site_text(given_, upstreams, hostnames(given_.hostnames, there), system=system), folder)


def servers(block: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found = [each["block"] for each in block if each["directive"] == "server"]
    return {" ".join(find(each, "server_name")[0]["args"]): each for each in found}


def upstream_by_location(server: list[dict[str, Any]]) -> dict[str, str]:
    """Return location -> upstream that gets it, or the status with which Nginx itself responds."""
    found: dict[str, str] = {}
    for each in find(server, "location"):
        does = args(each["block"], "uwsgi_pass") + args(each["block"], "return")
        found[" ".join(each["args"])] = does[0][0] if does else ""
    return {place: who for place, who in found.items() if place != "^~ /.error/"}


# Where no server took a request, and where none answered in time.
OWN = {"@not_served": "502", "@timed_out": "504"}


def test_each_group_of_hosts_is_a_server_and_each_path_a_location(tmp_path: Path) -> None:
    old = {"path": "/old", "strip_path": False, "hosts": [BLOG]}
    found = servers(site(tmp_path, shop={"hosts": [SHOP, "www.example.org"]}, api={"path": "/api"}, old=old))
    api = {"= /api": "308", "/api/": "app_api"}
    assert {name: upstream_by_location(server) for name, server in found.items()} == {
        "_": {**OWN, **api, "/": "404"},
        BLOG: {**OWN, **api, "= /old": "app_old", "/old/": "app_old", "/": "404"},
        f"{SHOP} www.example.org": {**OWN, "/": "app_shop"},
    }


def test_the_path_that_led_to_an_application_is_its_script_name_or_stays_in_its_path(tmp_path: Path) -> None:
    block = site(tmp_path, a={"path": "/a.b"}, k={"path": "/k", "strip_path": False}, r={})
    server = servers(block)["_"]
    seen: dict[str, tuple[Any, Any, Any]] = {}
    for each in find(server, "location"):
        if find(each["block"], "uwsgi_pass"):
            params = dict(param[:2] for param in args(each["block"], "uwsgi_param"))
            rewrites = args(each["block"], "rewrite")
            seen[" ".join(each["args"])] = rewrites, params.get("SCRIPT_NAME"), params["HTTP_X_FORWARDED_PREFIX"]
    assert seen == {
        "/a.b/": ([[r"(?s)^/a\.b/*(/.*)$", "$1", "break"]], "/a.b", "/a.b"),
        "= /k": ([], None, ""),
        "/k/": ([], None, ""),
        "/": ([], None, ""),
    }


def test_health_paths_are_exempt_where_clients_find_them(tmp_path: Path) -> None:
    found = servers(site(tmp_path, shop={"hosts": [SHOP]}, api={"path": "/api", "hosts": [SHOP, BLOG]}))
    exempt = {
        name: [each["args"][2] for each in server if each["directive"] == "if" and each["args"][:2] == ["$uri", "="]]
        for name, server in found.items()
    }
    assert exempt == {"_": [], BLOG: ["/api/healthz"], SHOP: ["/healthz", "/api/healthz"]}


@pytest.mark.parametrize("system", OPERATING_SYSTEMS.values(), ids=OPERATING_SYSTEMS)
def test_with_tls_every_server_has_it_and_one_is_the_default(system: OperatingSystem, tmp_path: Path) -> None:
    tls = Balancer.model_validate_json(json.dumps({"tls": {"self_signed": True}, "hostnames": ["a.example.org"]}))
    block = site(tmp_path, tls, system, rest={}, shop={"hosts": ["*.shop.example.org"]})
    listens = {name: args(server, "listen") for name, server in servers(block).items()}
    old, new = ([], [["on"]]) if system.http2_directive else (["http2"], [])
    # Its queue holds the connections of 2,000 clients that come at once; 511 by default.
    default = ["default_server", "backlog=4096"]
    assert listens == {
        "_": [["80", *default], ["443", "ssl", *old, *default]],
        "*.shop.example.org": [["80"], ["443", "ssl", *old]],
    }
    assert [args(server, "http2") for server in servers(block).values()] == [new, new]
    assert mapped(block, "https_host") == [
        ("default", ["a.example.org"]),
        (r"~^a\.example\.org$", ["$host"]),
        (r"~^.+\.shop\.example\.org$", ["$host"]),
    ]


@pytest.mark.parametrize(
    ("at", "probe"),
    [
        ({}, "/healthz"),
        ({"path": "/a"}, "/a/healthz"),
        ({"path": "/a", "strip_path": False}, "/healthz"),
        ({"hosts": [SHOP, BLOG]}, f"{SHOP}/healthz"),
        ({"hosts": ["*.example.org"], "path": "/a"}, "wsgi-fleet.example.org/a/healthz"),
    ],
)
def test_an_application_is_probed_where_clients_find_it(at: dict[str, Any], probe: str) -> None:
    (each,) = make_routes(app=at).values()
    assert Upstream("my-app", [], 60, "/healthz", each).probe == probe


HERE = {"folder": "hello"}
BLOGS = HERE | {"url_path": "/blog/"}


@pytest.mark.parametrize(
    ("shop", "blog", "who"),
    [
        ({"static": HERE}, {"static": HERE}, None),
        ({"static": HERE | {"url_path": "/blogs/"}}, {}, None),
        ({"static": BLOGS}, {}, "shop.static.url_path: /blog/: /blog of every host belongs to apps.blog"),
        ({"static": BLOGS}, {"hosts": [BLOG]}, f"shop.static.url_path: /blog/: {BLOG}/blog belongs to apps.blog"),
        (
            {},
            {"strip_path": False, "health_path": "/blog/h", "static": HERE},
            "blog.static.url_path: /static/: /static of every host belongs to apps.shop",
        ),
    ],
)
def test_static_files_are_not_in_the_way_of_another_application(shop: Any, blog: Any, who: str | None) -> None:
    found = find_problems({"shop": shop, "blog": {"path": "/blog"} | blog})
    assert [line.partition(" (path ")[0] for line in found] == ([f"apps.{who}"] if who else [])


def test_static_files_of_an_application_below_a_path_are_below_it_too(tmp_path: Path) -> None:
    block = {"apps": {"blog": app(path="/blog.x", static={"folder": "hello"})}, "platform": "lxd"}
    blog = Settings.model_validate_json(json.dumps(block)).apps["blog"]
    text = site_text(Balancer(), [Upstream("blog", ["10.0.0.1"], 60, "/", blog, static=blog.static)])
    static = location(directives(text, tmp_path), "^~", "/blog.x/static/")
    assert args(static, "rewrite") == [["(?s)^/blog\\.x(/.*)$", "$1", "break"]]
