"""The site of a balancer whose proxy is Apache, read back line by line. Apache reads it in tests/e2e/test_apache.py."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import proxy
import pytest
from hypothesis import given, settings
from pydantic import BaseModel
from site_state import State

from platforms.aws.instance import pack_user_data
from rendering.apache import redirect_target
from rendering.balancer import balancer_user_data, proxy_packages_command
from rendering.filters import captures
from rendering.site import render_site
from rendering.upstream import Upstream
from settings import apache
from settings.alb import Alb
from settings.balancer import Balancer
from settings.error_pages import ErrorPages
from settings.proxy import Proxy
from settings.rewriting import Redirect
from settings.route import Route
from settings.static import Static
from tests.unit.proxy_settings import HOSTNAME, balancers, settings_of
from tests.unit.site_text import site_text

APP = Upstream("a", ["10.0.0.1", "10.0.0.2"], 60, "/well")
WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


def site(*apps: Upstream, hostnames: tuple[str, ...] = (), **balancer: Any) -> str:
    block = {"hostnames": [HOSTNAME], **balancer, "proxy": {"kind": "apache", **balancer.get("proxy", {})}}
    return site_text(settings_of(block), apps or [APP], hostnames)


def words_of(line: str) -> list[str]:
    """Split a line into words as Apache does. In mod_rewrite's own way, a backslash stays as it is."""
    text = line.strip()
    is_rule = text.startswith("Rewrite")
    return [
        (inner if is_rule else re.sub(r'\\(["\\])', r"\1", inner)) if quote else other
        for quote, inner, other in ((found[0][0] == '"', found[1], found[2]) for found in WORD.finditer(text))
    ]


def read(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (sections around it, words) of each directive; the sections must fit."""
    around: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.strip().startswith("#"):
            continue
        if closing := re.fullmatch(r"\s*</(\w+)>", line):
            assert around.pop().split()[0] == closing[1], line
        elif opening := re.fullmatch(r"\s*<(\w+.*)>", line):
            around.append(opening[1])
        else:
            yield "/".join(around), words_of(line)
    assert around == []


DIRECTIVES = {
    "AcceptPathInfo", "Alias", "AllowEncodedSlashes", "AuthBasicProvider", "AuthName", "AuthType", "AuthUserFile",
    "BalancerMember", "CustomLog", "DeflateCompressionLevel", "ErrorDocument", "FileETag", "FilterChain",
    "FilterDeclare", "FilterProvider", "ForceType", "GeoIPDBFile", "GeoIPEnable", "Header", "LimitRequestBody",
    "Listen", "LoadModule", "LuaInputFilter", "MergeSlashes", "ProxyAddHeaders", "ProxyPass", "ProxyPreserveHost",
    "ProxySet",
    "RemoteIPHeader", "RemoteIPInternalProxy", "RequestHeader", "Require", "RewriteCond", "RewriteEngine",
    "RewriteRule", "ServerName",
    "SetHandler", "SetInputFilter", "Options",
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(block=balancers("apache"))
def test_whatever_is_set_reads_back_as_it_was_set(block: dict[str, Any]) -> None:
    def apache_words(values: dict[str, str]) -> set[tuple[str, str]]:
        fleet = {"%": "%%", "$host": "%{FLEET_HOST}e", "$request_id": "%{FLEET_REQUEST_ID}e"}
        found = {
            (name, re.sub(r"%|\$host|\$request_id", lambda each: fleet[each[0]], value))
            for name, value in values.items()
        }
        return {(name, f"%{{FLEET_NOTHING}}e{value}" if value.startswith("expr=") else value) for name, value in found}

    given_ = settings_of(block).proxy
    lines = list(read(site_text(settings_of(block), [APP])))
    # Nothing got out of its place.
    assert {words[0] for _, words in lines} <= DIRECTIVES
    host = [words for around, words in lines if around == "VirtualHost *:80"]
    responses = {(words[3], words[4]) for words in host if words[:3] == ["Header", "always", "set"]}
    requests = {(words[2], words[3]) for words in host if words[:2] == ["RequestHeader", "set"]}
    assert apache_words(given_.response_headers.set) <= responses
    assert apache_words(given_.request_headers.set) <= requests
    gone = {words[2] for words in host if words[:2] == ["Header", "unset"]}
    assert gone >= {*given_.response_headers.set, *given_.response_headers.remove}
    rules = [words[1:3] for words in host if words[0] == "RewriteRule"]
    for rewrite in given_.rewrites:
        assert [rewrite.regex, rewrite.expand(captures(rewrite))] in rules
    uris = [words[2] for words in host if words[:2] == ["RewriteCond", "%{ENV:FLEET_URI}"]]
    assert uris == [redirect.regex for redirect in given_.redirects]
    realm = [given_.basic_auth.realm] if given_.basic_auth else []
    assert [words[1] for _, words in lines if words[0] == "AuthName"] == realm


def test_a_header_is_no_expression_and_no_format_whatever_its_value() -> None:
    text = site(proxy={"response_headers": {"set": {"X-A": "expr=1 %{y} 5% $client_address"}}})
    assert 'Header always set X-A "%{FLEET_NOTHING}eexpr=1 %%{y} 5%% %{FLEET_CLIENT_ADDRESS}e"' in text


def test_a_server_that_is_drained_is_left_out_and_nothing_else() -> None:
    apps = [APP, Upstream("b-c", ["10.0.0.3"], 60, "/well", Route(path="/b"), "http")]
    made = json.loads(json.dumps(render_site(settings_of({"proxy": {"kind": "apache"}}), apps)))
    whole, drained = State(made, [], []), State(made, ["10.0.0.1"], [])
    assert drained.active_servers() == {"app_a": ["10.0.0.2"], "app_b_c": ["10.0.0.3"]}
    (gone,) = set(whole.render().splitlines()) - set(drained.render().splitlines())
    assert gone.startswith("    BalancerMember uwsgi://10.0.0.1:8000 ")


def test_each_place_counts_the_requests_of_its_members() -> None:
    text = site(APP, Upstream("b", ["10.0.0.3"], 60, "/well", Route(path="/b")))
    passes = [words for _, words in read(text) if words[0] == "ProxyPass" and words[1] != "!"]
    # Those of a virtual host do not inherit the method of <Proxy>.
    assert passes == 2 * [
        ["ProxyPass", "balancer://app_a/", "lbmethod=bybusyness", "maxattempts=1"],
        ["ProxyPass", "balancer://app_b", "lbmethod=bybusyness"],
    ]
    assert [words[1:] for around, words in read(text) if around.startswith("Proxy balancer")][-1] == [
        "lbmethod=bybusyness"
    ]


def test_the_default_comes_first_then_exact_names_then_wildcards_the_longest_first() -> None:
    apps = [
        Upstream("a", ["10.0.0.1"], 60, "/well", Route(hosts=["*.example.org", "x.example.org"])),
        Upstream("b", ["10.0.0.2"], 60, "/well", Route(hosts=["*.eu.example.org", "y.example.org"])),
        Upstream("c", ["10.0.0.3"], 60, "/well"),
    ]
    names = [words[1] for _, words in read(site(*apps)) if words[0] in ("ServerName", "ServerAlias")]
    # Those that take bodies of unknown length are chosen by name, too.
    assert names == 2 * [
        "wsgi-fleet.invalid", "y.example.org", "x.example.org",
        "wsgi-fleet.invalid", "*.eu.example.org", "wsgi-fleet.invalid", "*.example.org",
    ]  # fmt: skip


def test_an_inner_place_stands_behind_its_outer_one() -> None:
    static = Static(folder="x")
    apps = [
        Upstream("b", ["10.0.0.3"], 60, "/well", Route(path="/b"), static=static),
        Upstream("a", ["10.0.0.1"], 60, "/well", static=static),
    ]
    arounds = dict.fromkeys(around.partition("/")[2] for around, _ in read(site(*apps)) if "/Location" in around)
    assert list(arounds) == [
        'Location "/"', 'Location "/b"', 'Location "/static/"', 'Location "/b/static/"', 'Location "/.error/"',
        'LocationMatch "^/\\.error/.*\\.json$"',
    ]  # fmt: skip


def test_a_gateway_that_speaks_http_gets_no_header_that_looks_like_ours() -> None:
    text = site(Upstream("a", ["10.0.0.1"], 60, "/well", protocol="http"))
    unset = {
        words[2] for around, words in read(text) if words[:2] == ["RequestHeader", "unset"] and "Location" in around
    }
    assert {"x_real-ip", "x-real_ip", "x_real_ip", "x_remote_user", "x_forwarded_proto"} <= unset
    assert [name for name in unset if "_" not in name] == []
    assert "BalancerMember http://10.0.0.1:8000 " in text
    assert "RequestHeader unset x_real_ip" not in site(APP)


@pytest.mark.parametrize(
    ("to", "keep_query", "target"),
    [
        ("/new/{id}/*", True, "%{ENV:FLEET_SCHEME}://%{HTTP_HOST}/new/%1/%2"),
        ("https://o.example/*", True, "https://o.example/%2"),
        ("https://o.example/a%20b/{id}", False, r"https://o.example/a\%20b/%1"),
        ("/x?back=y", False, "%{ENV:FLEET_SCHEME}://%{HTTP_HOST}/x?back=y"),
    ],
)
def test_where_a_redirect_leads_is_what_mod_rewrite_makes_of_it(to: str, keep_query: bool, target: str) -> None:
    assert redirect_target(Redirect(path="/old/{id}/*", to=to, keep_query=keep_query)) == target


def test_tls_has_its_port_and_http_leads_there_but_for_health_paths() -> None:
    text = site(hostnames=(HOSTNAME,), tls={"self_signed": True})
    assert ("Listen 0.0.0.0:443 https" in text, "443" in site()) == (True, False)
    hosts = [around for around, words in read(text) if words[0] == "ServerName"]
    assert hosts == ["VirtualHost *:80", "VirtualHost *:443", "VirtualHost 127.0.0.1:8082"]
    rules = [words for around, words in read(text) if around == "VirtualHost *:80" and words[0].startswith("Rewrite")]
    end = next(number for number, words in enumerate(rules) if "https://" in words[-2])
    assert rules[end][2:] == ["https://%{ENV:FLEET_HTTPS_HOST}%{ENV:FLEET_PATH}", "[R=308,NE,L]"]
    assert ["RewriteCond", "%{REQUEST_URI}", r"!^/well\z"] in rules[end - 3 : end]
    hsts = [
        around for around, words in read(text) if words[:4] == ["Header", "always", "set", "Strict-Transport-Security"]
    ]
    assert hsts == ["VirtualHost *:443"]


# What is told to somebody else than the proxy: what machines are made of, files that a step brings.
ELSEWHERE = {"size", "self_healing", "proxy.kind", "proxy.basic_auth.users", "tls.certificate", "tls.private_key",
             "tls.self_signed", "tls.acme.email", "tls.acme.directory_url", "tls.acme.ca_certificate", "hostnames",
             *(f"error_pages.{name}" for name in ErrorPages.model_fields)}  # fmt: skip
WHOLE: dict[str, Any] = {
    "hostnames": [HOSTNAME],
    "tls": {"self_signed": True},
    "proxy": {"kind": "apache", "geoip": True, "basic_auth": {"users": {}}, "access": {"deny": ["10.0.0.0/8"]}},
}
# Each other setting at another value than there.
OTHER_VALUES: dict[str, Any] = {
    "max_body_mib": 1, "requests_per_second": 1, "burst": 1, "connections": 1, "trusted_proxies": ["10.0.0.0/8"],
    "tls.hsts_max_age_s": 7, "proxy.compression.enabled": False, "proxy.compression.level": 1,
    "proxy.compression.min_bytes": 1, "proxy.compression.types": ["text/css"],
    "proxy.compression.compress_authenticated": False, "proxy.cache": {},
    "proxy.memcached": {"server": "10.0.0.1:1", "path": "/p/"}, "proxy.basic_auth.realm": "Mine",
    "proxy.basic_auth.exempt_paths": ["/x"], "proxy.access.allow": ["10.1.0.0/16"], "proxy.access.deny": ["::/0"],
    "proxy.access.deny_countries": ["DE"], "proxy.access.exempt_paths": ["/x"], "proxy.canonical_host": True,
    "proxy.redirects": [{"path": "/a", "to": "/b"}], "proxy.rewrites": [{"path": "/a", "to": "/b"}],
    "proxy.request_headers.set": {"X-A": "b"}, "proxy.request_headers.remove": ["X-A"],
    "proxy.response_headers.set": {"X-A": "b"}, "proxy.response_headers.remove": ["X-A"], "proxy.geoip": False,
    "proxy.status": True, "proxy.snippets": [{"context": "location", "text": "# mine"}],
}  # fmt: skip


def changed(*names: str) -> dict[str, Any]:
    document = copy.deepcopy(WHOLE)
    for name in names:
        *above, last = name.split(".")
        functools.reduce(lambda parent, step: parent.setdefault(step, {}), above, document)[last] = OTHER_VALUES[name]
    return document


def names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every setting of a block, with those of blocks in it."""
    for name, field in model.model_fields.items():
        annotations: tuple[Any, ...] = field.annotation, *getattr(field.annotation, "__args__", ())
        inner = [each for each in annotations if isinstance(each, type) and issubclass(each, BaseModel)]
        if inner and name not in ("size", "cache", "memcached", "redirects", "rewrites", "snippets"):
            yield from names(inner[0], f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_setting_is_rendered_for_apache_or_refused_with_its_name() -> None:
    assert {*names(Balancer)} - ELSEWHERE - {"kind", *names(Alb, "alb.")} == {*OTHER_VALUES}
    plain = site_text(settings_of(WHOLE), [APP])
    for name in OTHER_VALUES.keys() - apache.UNSUPPORTED:
        assert site_text(settings_of(changed(name)), [APP]) != plain, name
    assert site(tls={"acme": {"email": "a@example.org"}}) != site(tls={"self_signed": True})
    refused = changed(*apache.UNSUPPORTED)
    with pytest.raises(ValueError, match="Apache does not support it: ") as error:
        settings_of(refused)
    assert [
        name for name in apache.UNSUPPORTED if f"{name}: Apache does not support it: " not in str(error.value)
    ] == []
    refused["proxy"]["kind"] = "nginx"
    settings_of(refused)


def test_a_change_of_the_proxy_is_in_the_user_data_and_fits_into_it() -> None:
    nginx, other = balancer_user_data(), balancer_user_data(proxy="apache")
    assert "/etc/nginx" not in other.replace("[ -d /etc/nginx/wsgi-fleet ]", "")
    assert "apache" not in nginx.replace("import apache", "")
    # Raises where EC2 would not take it.
    assert pack_user_data(other)
    assert Proxy(kind="apache").needs_own_http_block is False


def test_geoip_brings_the_module_of_the_proxy() -> None:
    command = proxy_packages_command(settings_of({"proxy": {"kind": "apache", "geoip": True}}))
    assert command
    assert command[4:] == ["-", "libapache2-mod-geoip", "geoip-database"]


def test_a_balancer_knows_which_proxy_it_has(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "KIND", tmp_path / "proxy")
    proxy.backend.cache_clear()
    try:
        assert proxy.backend().TITLE == "Nginx"
        (tmp_path / "proxy").write_text("apache\n")
        proxy.backend.cache_clear()
        assert proxy.backend().TITLE == "Apache"
    finally:
        proxy.backend.cache_clear()
