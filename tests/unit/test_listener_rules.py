"""Rules of an Application Load Balancer: they lead where Nginx's servers and locations do, and fit its quotas."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from settings.listener_rule import LAST, MAX_RULES, MAX_VALUES, default_app, listener_rules, problems
from settings.route import Route
from settings.route import problems as ambiguities
from tests.unit.test_routes import BLOG, OWNERS, PLACES, make_routes, owner


def chosen(apps: Mapping[str, Route], host: str, path: str) -> str | None:
    """Return the application that an Application Load Balancer chooses: by the first rule that matches."""
    for rule in listener_rules(apps):
        fits_host = not rule.hosts or any(fnmatchcase(host, pattern) for pattern in rule.hosts)
        if fits_host and (not rule.paths or any(fnmatchcase(path, pattern) for pattern in rule.paths)):
            return rule.app
    return default_app(apps)


def test_the_rules_choose_whom_nginx_chooses() -> None:
    apps = make_routes(
        shop={}, api={"path": "/api"}, new={"path": "/api/v2"}, blog={"hosts": [BLOG]},
        manual={"hosts": ["docs.example.org"], "path": "/manual"}, tenants={"hosts": ["*.example.org"]},
        help={"hosts": ["www.example.com"], "path": "/help"},
    )  # fmt: skip
    assert {host: {path: chosen(apps, host, path) for path in paths} for host, paths in OWNERS.items()} == OWNERS
    del apps["shop"]
    assert chosen(apps, "127.0.0.1", "/") is chosen(apps, "www.example.com", "/") is None


HOSTS = ("shop.example.org", BLOG, "x.example.org", "b.example.org", "a.b.example.org", "c.b.example.org", "127.0.0.1")


@given(st.lists(PLACES, min_size=1, max_size=5))
def test_they_do_for_every_stack_and_stay_within_the_quotas(places: list[dict[str, Any]]) -> None:
    apps = make_routes(**{f"a{number}": each for number, each in enumerate(places)})
    if ambiguities(apps, dict.fromkeys(apps, "/healthz-of-nobody-else"), {}):
        return
    for host in HOSTS:
        for path in ("/", "/a", "/ab", "/a/b", "/a/b/c", "/b/a"):
            assert chosen(apps, host, path) == owner(apps, host, path)
    rules = listener_rules(apps)
    assert all(len(rule.hosts) + len(rule.paths) <= MAX_VALUES for rule in rules)
    assert len({rule.priority for rule in rules}) == len({rule.name for rule in rules}) == len(rules)
    assert all(1 < rule.priority <= LAST for rule in rules)


def test_an_application_that_comes_moves_no_rule_of_others() -> None:
    apps = make_routes(shop={}, api={"path": "/api"}, blog={"hosts": [BLOG]})
    before = {rule.name: rule for rule in listener_rules(apps)}
    after = {rule.name: rule for rule in listener_rules(make_routes(first={"path": "/a"}) | apps)}
    assert after.keys() - before.keys() == {"every-host/a", f"{BLOG}/a"} - before.keys() & after.keys()
    assert {name: after[name] for name in before} == before


def test_many_hosts_become_several_rules() -> None:
    apps = make_routes(shop={"hosts": [f"h{number}.example.org" for number in range(7)], "path": "/shop"})
    assert [len(rule.hosts) for rule in listener_rules(apps) if rule.paths] == [3, 3, 1]
    # What is not below the path is answered by nobody, and not by who answers every host.
    assert [len(rule.hosts) for rule in listener_rules(apps) if rule.app is None] == [5, 2]


def test_what_the_quotas_do_not_hold_is_refused() -> None:
    hosts = [f"h{number}.example.org" for number in range(20)]
    apps = make_routes(**{f"a{n}": {"hosts": hosts, "path": f"/{n}"} for n in range(20)})
    (line,) = problems(apps)
    assert line.startswith("apps: the hosts and paths need ")
    assert f"an ALB has {MAX_RULES} by its quota" in line
    long = f"{'a' * 60}.{'b' * 60}.example.org"
    deep = make_routes(shop={"hosts": [long, "*.a.b.c.d.example.org"], "path": "/a/b/c/d/e/f"})
    assert [line.partition(": ")[0] + ": " + line.split(": ")[1] for line in problems(deep)] == [
        f"apps.shop.hosts: {long}",
        "apps.shop.hosts: *.a.b.c.d.example.org",
        "apps.shop.path: /a/b/c/d/e/f",
    ]


def test_names_below_a_domain_that_is_not_of_letters_alone_are_refused() -> None:
    hosts = ["xn--e1afmkfd.xn--p1ai", "*.example.a1", "xn--e1afmkfd.org", "*.example.org"]
    found = [line.split(": ")[:3] for line in problems(make_routes(shop={"hosts": hosts}))]
    why = "an ALB takes letters alone behind the last dot, so no name below {}; take a name of another domain, or kind"
    assert found == [["apps.shop.hosts", host, why.format(host.split(".")[-1])] for host in hosts[:2]]
