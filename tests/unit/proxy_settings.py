"""Whatever the settings of a reverse proxy can say, as hypothesis draws it: at its nastiest, and valid."""

from __future__ import annotations

import json
import string
from typing import Any

from hypothesis import strategies as st

from settings.balancer import Balancer

HOSTNAME = "shop.example.org"
_PLAIN = string.ascii_letters + string.digits
_words = st.text(_PLAIN + "_.~-", min_size=1, max_size=8).filter(lambda word: word.strip("."))
# What is printable, as it ends blocks and words and begins comments and variables elsewhere.
_printable = "".join(chr(number) for number in range(33, 127) if chr(number) not in "$\\")
_values = st.tuples(
    st.sampled_from(_printable), st.text(_printable + " ", max_size=30), st.sampled_from(["", "$host", "$request_id."])
).map(lambda parts: ("".join(parts)).strip())
_headers = st.text(_PLAIN + "-", min_size=1, max_size=12).map(lambda rest: f"X-T-{rest}")
_paths = st.lists(_words, min_size=1, max_size=3).map(lambda words: "/" + "/".join(words))
_exempt = st.lists(st.builds(str.__add__, _paths, st.sampled_from(["", "/"])), max_size=3)
_templates = st.tuples(_paths, st.sampled_from(["", "/{a}", "/{a:int}/b", "/{a}/{b}/*", "/*"])).map("".join)
_networks = st.one_of(
    st.ip_addresses(v=4).map(lambda address: f"{address}/32").filter(lambda network: not network.startswith("255.")),
    st.integers(0, 255).map(lambda number: f"10.{number}.0.0/16"),
    st.ip_addresses(v=6).map(lambda address: f"{address}/128"),
)


@st.composite
def _rules(draw: st.DrawFn, *, urls: bool) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    for path in draw(st.lists(_templates, max_size=3, unique=True)):
        # Beneath a folder that no path begins with, so that nothing leads in a circle.
        target = draw(st.sampled_from(["", "https://o.example:8443"] if urls else [""])) + "/-to-" + draw(_paths)
        if "{a}" in path:
            target += "/{a}"
        if path.endswith("*"):
            target += "/*"
        rules.append({"path": path, "to": target, "keep_query": draw(st.booleans())})
    return rules


@st.composite
def _header_changes(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(_headers, max_size=4, unique_by=str.lower))
    kept = len(names) // 2
    return {"set": {name: draw(_values) for name in names[:kept]}, "remove": names[kept:]}


@st.composite
def _access(draw: st.DrawFn) -> dict[str, Any]:
    networks = draw(st.lists(_networks, min_size=1, max_size=6, unique=True))
    kept = draw(st.integers(0, len(networks)))
    return {
        "allow": networks[:kept],
        "deny": networks[kept:],
        "deny_countries": draw(st.lists(st.sampled_from(["CN", "A1", "DE"]), max_size=2, unique=True)),
        "exempt_paths": draw(_exempt),
    }


def _draw(**values: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(values)


_types = st.lists(st.sampled_from(["text/html", "text/css", "application/ld+json"]), max_size=3)
_realms = st.text(_PLAIN + " ._-", min_size=1, max_size=9).filter(lambda realm: realm != "off")
_proxies = {
    "compression": _draw(
        enabled=st.booleans(),
        level=st.integers(1, 9),
        min_bytes=st.integers(0, 1 << 20),
        types=_types,
        compress_authenticated=st.booleans(),
    ),
    "basic_auth": st.none() | _draw(users=st.just({"ann": "correct horse"}), realm=_realms, exempt_paths=_exempt),
    "access": st.none() | _access(),
    "canonical_host": st.booleans(),
    "redirects": _rules(urls=True),
    "rewrites": _rules(urls=False),
    "request_headers": _header_changes(),
    "response_headers": _header_changes(),
    "geoip": st.just(value=True),
    "status": st.booleans(),
}
_nginx_alone = {
    "cache": st.none() | _draw(valid_s=st.integers(1, 3600)),
    "memcached": st.none()
    | _draw(
        server=st.sampled_from(["10.0.0.9:11211", "127.0.0.1:1"]),
        path=_paths.map(lambda path: path + "/"),
        key_prefix=st.text(_PLAIN + ":._-", max_size=9),
    ),
}


def balancers(kind: str = "nginx") -> st.SearchStrategy[dict[str, Any]]:
    """Draw a stack file's block `balancer` with any of the settings that the proxy has."""
    proxy = _draw(kind=st.just(kind), **_proxies, **(_nginx_alone if kind == "nginx" else {}))
    return _draw(hostnames=st.just([HOSTNAME]), trusted_proxies=st.sampled_from([[], ["10.0.0.0/8"]]), proxy=proxy)


def settings_of(block: dict[str, Any]) -> Balancer:
    """Return the settings that a block is parsed to."""
    return Balancer.model_validate_json(json.dumps(block))
