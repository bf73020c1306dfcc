"""Several applications behind one balancer: which gets a request, and what nobody could tell apart is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.mock_aws import fill_placeholders
from rendering.upstream import Upstream
from settings import Balancer, Settings
from settings.route import Route, hostnames, problems, virtual_hosts
from tests.certificates import Authority
from tests.unit.nginx_reader import args, directives, find, location, mapped
from tests.unit.site_text import site_text
from tests.unit.stack_blocks import problems_of

SHOP, BLOG = "shop.example.org", "blog.example.org"
ACME = {"acme": {"email": "ops@example.org"}}


def app(**changes: Any) -> dict[str, Any]:
    return {"source": "examples/flask-hello", "module": "hello.wsgi:app"} | changes


def told(apps: Mapping[str, Any], **blocks: Any) -> list[str]:
    given_ = {"platform": "lxd", "apps": {name: app(**changes) for name, changes in apps.items()}} | blocks
    return problems_of(given_)


def routed(**apps: dict[str, Any]) -> dict[str, Route]:
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


@pytest.mark.parametrize(
    ("host", "path", "who"),
    [
        ("127.0.0.1", "/", "shop"),
        ("127.0.0.1", "/cart", "shop"),
        ("127.0.0.1", "/api", "api"),
        ("127.0.0.1", "/api/v1", "api"),
        ("127.0.0.1", "/api/v2/x", "new"),
        ("127.0.0.1", "/apis", "shop"),
        # Who names the host comes before who is on every one.
        (BLOG, "/", "blog"),
        (BLOG, "/api", "blog"),
        # What nobody takes who names the host is for those on every one.
        ("docs.example.org", "/manual/1", "manual"),
        ("docs.example.org", "/", "tenants"),
        ("a.example.org", "/manual", "tenants"),
        ("a.b.example.org", "/", "tenants"),
        ("example.org", "/", "shop"),
        ("www.example.com", "/api/x", "api"),
        ("www.example.com", "/help", "help"),
        ("www.example.com", "/", "shop"),
    ],
)
def test_the_most_exact_host_and_then_the_longest_path_decides(host: str, path: str, who: str) -> None:
    apps = routed(
        shop={},
        api={"path": "/api"},
        new={"path": "/api/v2"},
        blog={"hosts": [BLOG]},
        manual={"hosts": ["docs.example.org"], "path": "/manual"},
        tenants={"hosts": ["*.example.org"]},
        help={"hosts": ["www.example.com"], "path": "/help"},
    )
    assert owner(apps, host, path) == who


def test_without_an_application_for_every_host_others_are_answered_by_nobody() -> None:
    apps = routed(shop={"hosts": [SHOP]}, blog={"hosts": [BLOG], "path": "/blog"})
    assert owner(apps, "127.0.0.1", "/") is None
    assert owner(apps, BLOG, "/") is None
    assert owner(apps, BLOG, "/blog") == "blog"


NAMES = st.lists(st.sampled_from([SHOP, BLOG, "*.example.org", "*.b.example.org", "a.b.example.org"]), max_size=3)
PATHS = st.sampled_from(["/", "/a", "/a/b", "/b"])
PLACES = st.fixed_dictionaries({"hosts": NAMES.map(lambda names: list(dict.fromkeys(names))), "path": PATHS})


@given(st.lists(PLACES, min_size=1, max_size=5))
def test_whatever_is_not_refused_reaches_every_application(places: list[dict[str, Any]]) -> None:
    apps = routed(**{f"a{number}": each for number, each in enumerate(places)})
    if problems(apps, dict.fromkeys(apps, "/healthz-of-nobody-else"), {}):
        return
    for name, each in apps.items():
        for host in each.hosts or ["127.0.0.1"]:
            assert owner(apps, host.replace("*", "any"), each.path) == name


@pytest.mark.parametrize(
    ("apps", "line"),
    [
        ({"shop": {}, "blog": {}}, "apps.shop, apps.blog: both answer / of every host; give one of them hosts or"),
        (
            {"shop": {"path": "/a"}, "blog": {"path": "/a"}},
            "apps.shop, apps.blog: both answer /a of every host; give one of them hosts or another path",
        ),
        (
            {"shop": {"hosts": [SHOP, BLOG]}, "blog": {"hosts": [BLOG]}},
            f"apps.shop, apps.blog: both answer {BLOG}/; give one of them another host or path",
        ),
        ({"shop": {"hosts": [SHOP, SHOP]}}, f"apps.shop.hosts: {SHOP}: is named twice; name it once"),
        (
            {"shop": {"health_path": "/api/healthz"}, "api": {"path": "/api"}},
            "apps.shop.health_path: /api/healthz: /api/healthz of every host is answered by apps.api (path /api); take",
        ),
        ({"api": {"path": "/api", "strip_path": False}}, "apps.api.health_path: /healthz: should be"),
        ({"shop": {"hosts": ["shop"]}}, 'apps.shop.hosts.0: "shop": should be'),
        ({"shop": {"hosts": ["*.org"]}}, 'apps.shop.hosts.0: "*.org": should be'),
        ({"shop": {"hosts": ["shop.*.org"]}}, "apps.shop.hosts.0"),
        ({"shop": {"hosts": ["a.example; return 200"]}}, "apps.shop.hosts.0"),
        ({"shop": {"hosts": ["~^.*$"]}}, "apps.shop.hosts.0"),
        ({"shop": {"hosts": ["a.example.org\n"]}}, "apps.shop.hosts.0"),
        (
            {"shop": {"path": "shop"}},
            'apps.shop.path: "shop": should be / or a path such as /shop, without a slash at its end',
        ),
        ({"shop": {"path": "/shop/"}}, "apps.shop.path"),
        ({"shop": {"path": "/.maintenance"}}, "apps.shop.path"),
        ({"shop": {"path": "/.well-known/acme-challenge"}}, "apps.shop.path"),
        ({"shop": {"path": "/a/../b"}}, "apps.shop.path"),
        ({"shop": {"path": "//a"}}, "apps.shop.path"),
        ({"shop": {"path": '/a"; return 200 "'}}, "apps.shop.path"),
        ({"shop": {"path": "/$uri"}}, "apps.shop.path"),
        ({"shop": {"path": "/a b"}}, "apps.shop.path"),
        ({"shop": {"path": "/(a+)+"}}, "apps.shop.path"),
    ],
)
def test_what_nobody_could_tell_apart_or_nginx_would_read_otherwise_is_refused(
    apps: dict[str, dict[str, Any]], line: str
) -> None:
    (found,) = told(apps)
    assert found.startswith(line)


def test_every_ambiguity_is_a_line_of_its_own() -> None:
    found = told({"a": {}, "b": {}, "c": {"hosts": [SHOP]}, "d": {"hosts": [SHOP]}})
    assert [line.partition(":")[0] for line in found] == ["apps.a, apps.b", "apps.c, apps.d"]


def test_twenty_applications_may_share_a_balancer() -> None:
    apps = {f"app-{number}": {"path": f"/{number}"} for number in range(20)}
    assert told(apps) == []
    (line,) = told(apps | {"more": {}})
    assert line.startswith("apps: ")


def test_a_name_of_the_balancer_that_no_application_answers_is_refused() -> None:
    assert told({"shop": {"hosts": [SHOP]}}, balancer={"hostnames": [SHOP, BLOG]}) == [
        f"balancer.hostnames: {BLOG}: no application serves it; give one that host, or one no hosts"
    ]
    assert told({"shop": {"hosts": [SHOP]}, "rest": {}}, balancer={"hostnames": [SHOP, BLOG]}) == []


def test_hosts_of_applications_are_names_of_the_site() -> None:
    apps = routed(shop={"hosts": ["*.example.org", SHOP]}, blog={"hosts": [BLOG]})
    assert hostnames(["www.example.org", BLOG], apps) == ["www.example.org", BLOG, SHOP, "*.example.org"]
    assert told({"shop": {"hosts": [SHOP]}}, balancer={"tls": ACME}) == []


def test_a_certificate_that_leaves_a_host_out_is_refused() -> None:
    signed = Authority().sign([SHOP, "*.example.net"])
    tls = {"certificate": signed.certificate, "private_key": signed.private_key}
    apps = {"shop": {"hosts": [SHOP, "*.example.net"]}, "blog": {"hosts": [BLOG]}}
    assert told(apps, balancer={"tls": tls}) == [
        f"balancer.tls.certificate: does not cover {BLOG} of apps (it is for *.example.net, {SHOP}); give one that does"
    ]


def test_no_acme_server_is_asked_for_a_wildcard() -> None:
    (line,) = told({"shop": {"hosts": [SHOP, "*.example.org"]}}, balancer={"tls": ACME})
    assert line.startswith("apps.*.hosts: *.example.org: no ACME server signs that by http-01")


def test_records_of_a_zone_are_those_of_the_hosts() -> None:
    prod = fill_placeholders({"platform": "aws", "aws": AWS})["aws"] | {"route53_zone_id": "Z1"}
    assert told({"shop": {"hosts": [SHOP]}}, platform="aws", aws=prod) == []


AWS = {
    "region": "eu-central-1",
    "ami": "ami-0123456789abcdef0",
    "admin_cidrs": ["192.0.2.0/24"],
    "vpc_id": "vpc-01234567",
    "balancer_subnet_id": "subnet-0000000a",
    "app_subnet_ids": ["subnet-0000000b"],
}


def site(folder: Path, balancer: Balancer | None = None, **apps: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the site of applications that each have a member, read back."""
    there = routed(**apps)
    upstreams = [Upstream(name, ["10.0.0.1"], 60, "/healthz", each) for name, each in there.items()]
    given_ = balancer or Balancer()
    return directives(site_text(given_, upstreams, hostnames(given_.hostnames, there)), folder)


def servers(block: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found = [each["block"] for each in block if each["directive"] == "server"]
    return {" ".join(find(each, "server_name")[0]["args"]): each for each in found}


def passes(server: list[dict[str, Any]]) -> dict[str, str]:
    """Return location -> upstream that gets it, or the status with which Nginx itself responds."""
    found: dict[str, str] = {}
    for each in find(server, "location"):
        does = args(each["block"], "uwsgi_pass") + args(each["block"], "return")
        found[" ".join(each["args"])] = does[0][0] if does else ""
    return {place: who for place, who in found.items() if place != "^~ /.error/"}


# Where no server took a request, and where none answered in time.
OWN = {"@not_served": "502", "@timed_out": "504"}


def test_each_group_of_hosts_is_a_server_and_each_path_a_location(tmp_path: Path) -> None:
    block = site(
        tmp_path,
        shop={"hosts": [SHOP, "www.example.org"]},
        api={"path": "/api"},
        old={"path": "/old", "strip_path": False, "hosts": [BLOG]},
    )
    found = servers(block)
    api = {"= /api": "308", "/api/": "app_api"}
    assert {name: passes(server) for name, server in found.items()} == {
        "_": {**OWN, **api, "/": "404"},
        BLOG: {**OWN, **api, "= /old": "app_old", "/old/": "app_old", "/": "404"},
        f"{SHOP} www.example.org": {**OWN, "/": "app_shop"},
    }
    assert [find(server, "listen")[0]["args"] for server in found.values()] == [
        ["80", "default_server"],
        ["80"],
        ["80"],
    ]


def test_one_application_for_every_host_is_one_server(tmp_path: Path) -> None:
    found = servers(site(tmp_path, shop={}))
    assert {name: passes(server) for name, server in found.items()} == {"_": {**OWN, "/": "app_shop"}}
    assert find(site(tmp_path, shop={}), "server_names_hash_bucket_size") == []


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
        "/a.b/": ([[r"(?s)^/a\.b(/.*)$", "$1", "break"]], "/a.b", "/a.b"),
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


def test_with_tls_every_server_has_it_and_one_is_the_default(tmp_path: Path) -> None:
    tls = Balancer.model_validate_json(json.dumps({"tls": {"self_signed": True}, "hostnames": ["a.example.org"]}))
    block = site(tmp_path, tls, rest={}, shop={"hosts": ["*.shop.example.org"]})
    listens = {name: args(server, "listen") for name, server in servers(block).items()}
    assert listens == {
        "_": [["80", "default_server"], ["443", "ssl", "http2", "default_server"]],
        "*.shop.example.org": [["80"], ["443", "ssl", "http2"]],
    }
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
    (each,) = routed(app=at).values()
    assert Upstream("my-app", [], 60, "/healthz", each).probe == probe


def test_settings_know_all_names_of_the_site() -> None:
    blocks = {"platform": "lxd", "apps": {"shop": app(hosts=[SHOP])}, "balancer": {"hostnames": [SHOP]}}
    assert Settings.model_validate_json(json.dumps(blocks)).hostnames == [SHOP]


@pytest.mark.parametrize(
    ("apps", "who"),
    [
        ({"shop": {"static": {"folder": "hello"}}, "blog": {"path": "/blog", "static": {"folder": "hello"}}}, None),
        ({"shop": {"static": {"folder": "hello", "url_path": "/blogs/"}}, "blog": {"path": "/blog"}}, None),
        (
            {"shop": {"static": {"folder": "hello", "url_path": "/blog/"}}, "blog": {"path": "/blog"}},
            "shop.static.url_path: /blog/: /blog of every host is answered by apps.blog (path /blog)",
        ),
        (
            {"shop": {"static": {"folder": "hello", "url_path": "/blog/"}}, "blog": {"hosts": [BLOG], "path": "/blog"}},
            f"shop.static.url_path: /blog/: {BLOG}/blog is answered by apps.blog (path /blog)",
        ),
        (
            {
                "shop": {},
                "blog": {"path": "/blog", "strip_path": False, "health_path": "/blog/h", "static": {"folder": "hello"}},
            },
            "blog.static.url_path: /static/: /static of every host is answered by apps.shop (path /)",
        ),
    ],
)
def test_static_files_are_not_in_the_way_of_another_application(apps: dict[str, Any], who: str | None) -> None:
    assert told(apps) == ([f"apps.{who}; take another path"] if who else [])


def test_static_files_of_an_application_below_a_path_are_below_it_too(tmp_path: Path) -> None:
    blog = {"path": "/blog.x", "static": {"folder": "hello"}}
    given_ = Settings.model_validate_json(json.dumps({"platform": "lxd", "apps": {"blog": app(**blog)}}))
    each = given_.apps["blog"]
    text = site_text(Balancer(), [Upstream("blog", ["10.0.0.1"], 60, "/", each, static=each.static)])
    static = location(directives(text, tmp_path), "^~", "/blog.x/static/")
    assert args(static, "rewrite") == [["(?s)^/blog\\.x(/.*)$", "$1", "break"]]
