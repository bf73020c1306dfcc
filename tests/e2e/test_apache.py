"""Apache in the place of Nginx: the same settings, asked by the same tests, and what is otherwise with it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from harness.evidence import assert_nothing_was_lost, executed_requests
from harness.load import Load
from harness.site import apply_site, desired_site
from harness.stack import Stack, eventually, lxc, on, proxy_complaints
from rendering.upstream import Upstream
from tests.e2e import test_proxy as proxy
from tests.e2e.test_proxy import HEALTH, PASSWORD, PROXY, ask, asked_again_and_again, basic, brought_up, said
from tests.unit.proxy_settings import balancers, settings_of
from tests.unit.site_text import site_text

# Collected here they get the balancer below.
test_answers_are_compressed_for_who_asks_and_not_where_their_length_could_tell_a_secret = (
    proxy.test_answers_are_compressed_for_who_asks_and_not_where_their_length_could_tell_a_secret
)
test_a_password_lets_in_and_goes_no_further = proxy.test_a_password_lets_in_and_goes_no_further
test_passwords_stand_nowhere_and_their_hashes_only_where_nginx_reads_them = (
    proxy.test_passwords_stand_nowhere_and_their_hashes_only_where_nginx_reads_them
)
test_networks_and_countries_are_refused_by_the_real_address = (
    proxy.test_networks_and_countries_are_refused_by_the_real_address
)
test_the_application_learns_the_country_and_nobody_can_pretend_one = (
    proxy.test_the_application_learns_the_country_and_nobody_can_pretend_one
)
test_clients_are_led_elsewhere = proxy.test_clients_are_led_elsewhere
test_the_application_is_asked_for_another_path_than_the_client_wrote = (
    proxy.test_the_application_is_asked_for_another_path_than_the_client_wrote
)
test_headers_are_set_and_removed_in_both_directions = proxy.test_headers_are_set_and_removed_in_both_directions

SITE_FILE = "/etc/apache2/wsgi-fleet/site.conf"
SNIPPETS = [
    {
        "context": "http",
        "text": "LoadModule setenvif_module /usr/lib/apache2/modules/mod_setenvif.so\n"
        'SetEnvIf Request_URI "^/open/gone" GONE\n',
    },
    {"context": "server", "text": "RewriteCond %{ENV:GONE} =1\nRewriteRule ^ - [G]"},
    {"context": "location", "text": "RequestHeader set X-Snippet 0"},
]


# What guards Apache in each change: the site of a real one in tests/unit (error pages, chunked bodies).
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def busy_balancer(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create two servers behind a balancer that does all that Apache can. It trusts this machine about the client."""
    stack = make_module_stack("apache", fleet={"servers": 2}, health_path="/well", rollout={"bake_s": 0})
    stack.proxy = "apache"
    mine = {key: value for key, value in PROXY.items() if key not in ("cache", "memcached")}
    return brought_up(stack, {"proxy": mine | {"kind": "apache", "snippets": SNIPPETS}})


def load_on(stack: Stack) -> Load:
    """Return a load beneath a path that asks for no password."""
    return Load(f"http://shop.example.org:{stack.settings['lxd']['port']}/open", address="127.0.0.1")


def responding_servers_at_once(stack: Stack) -> set[str]:
    """Return which servers answer requests that wait for one another.

    Of members that are equally busy Apache takes the one that had fewer so far, which after a load is one for long.
    """
    with ThreadPoolExecutor(4) as pool:
        responses = [pool.submit(ask, stack, "/open/x?s=0.5") for _ in range(4)]
        return {said(response.result())["server"] for response in responses}


def test_every_server_answers_and_a_request_goes_to_the_one_that_has_fewest(busy_balancer: Stack) -> None:
    first = said(ask(busy_balancer, "/open/x"))["server"]
    assert {said(ask(busy_balancer, "/open/x"))["server"] for _ in range(10)} == set(busy_balancer.servers().values())
    assert first in busy_balancer.servers().values()
    site = on(busy_balancer.balancer(), "cat", SITE_FILE)
    assert site.count("BalancerMember uwsgi://") == 2
    # In each place that leads to an application: a virtual host has members of its own, and one takes chunked bodies.
    assert site.count("ProxyPass balancer://app_probe/ lbmethod=bybusyness ") == 2


def test_a_release_loses_no_request(busy_balancer: Stack) -> None:
    workers = on(busy_balancer.balancer(), "pgrep", "apache2")
    with load_on(busy_balancer) as load:
        busy_balancer.release_version("2")
        load.wait_for(40)
    assert set(load.outcome.versions) == {"1", "2"}
    assert_nothing_was_lost(busy_balancer, load.outcome)
    assert on(busy_balancer.balancer(), "pgrep", "apache2") == workers
    busy_balancer.set_version("1")


@pytest.mark.long
def test_a_server_is_drained_and_admitted_and_fresh_connections_lose_nothing(busy_balancer: Stack) -> None:
    name, machine = next(iter(busy_balancer.servers().items()))
    with load_on(busy_balancer) as load:
        drained = busy_balancer.fleet("drain", name)
        assert drained.returncode == 0, drained.stderr
        assert {said(ask(busy_balancer, "/open/x"))["server"] for _ in range(10)} == set(
            busy_balancer.servers().values()
        ) - {machine}
        assert busy_balancer.fleet("admit", name).returncode == 0
        load.wait_for(40)
    assert load.outcome.failed_fresh == [], load.outcome
    # What is kept alive may cross the end of an old worker, as with Nginx 1.22 (docs/operations.md).
    responded = set(load.outcome.posts)
    assert len([id_ for id_ in executed_requests(busy_balancer) if id_ in responded]) == len(responded)
    eventually(lambda: machine in responding_servers_at_once(busy_balancer), message="the server is asked again")


def test_a_server_that_is_gone_costs_no_request_and_comes_back_by_itself(busy_balancer: Stack) -> None:
    machine = next(iter(busy_balancer.servers().values()))
    on(machine, "sh", "-c", "systemctl stop app.socket app@blue app@green")
    try:
        statuses = [
            ask(busy_balancer, "/open/x", method, Content_Length="0")[0]
            for _ in range(10)
            for method in ("GET", "POST")
        ]
        assert set(statuses) == {200}
    finally:
        on(machine, "/usr/local/lib/wsgi-fleet/release.py", "boot")
        on(machine, "systemctl", "start", "app.socket", "app@blue")
    eventually(
        lambda: machine in responding_servers_at_once(busy_balancer), timeout_s=30, message="the server is asked again"
    )


def test_a_larger_body_is_answered_413_before_any_of_it_is_sent(busy_balancer: Stack) -> None:
    assert ask(busy_balancer, "/open/x", "POST", Content_Length=str((1 << 20) + 1))[0] == 413


def test_counters_are_for_who_is_on_the_balancer(busy_balancer: Stack) -> None:
    front = busy_balancer.balancer()
    ask_it = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8081/?auto').read().decode())"
    assert "BusyWorkers: " in on(front, "python3", "-c", ask_it)
    assert on(front, "ss", "-Hltn", "sport = :8081").split()[3] == "127.0.0.1:8081"


def test_every_line_of_the_access_log_is_json_whatever_clients_send_and_is_counted(busy_balancer: Stack) -> None:
    front = busy_balancer.balancer()
    agent = 'a"b\\c\t\xfc'
    request = urllib.request.Request(
        f"{busy_balancer.url}/open/%22%0a{{", headers={"User-Agent": agent, "Host": "shop.example.org"}
    )
    urllib.request.urlopen(request, timeout=10).read()
    lines = [json.loads(line) for line in on(front, "cat", "/var/log/wsgi-fleet/access.log").splitlines()]
    (mine,) = [line for line in lines if line["agent"].startswith('a"b\\c\t')]
    assert (mine["uri"], mine["status"], mine["method"]) == ("/open/%22%0a{", 200, "GET")
    report = json.loads(busy_balancer.fleet("status", "--json").stdout)
    assert report["healthy"] is True, report
    traffic = json.loads(on(front, "/usr/local/lib/wsgi-fleet/balancer_status.py"))
    assert (traffic["proxy"], traffic["state"]) == ("Apache", "active")
    assert set(traffic["upstreams"]) <= set(traffic["active"])
    assert traffic["requests"] > 0
    # Who ships it may read it, and a file that was rotated is left.
    assert on(front, "stat", "-c", "%a %G", "/var/log/wsgi-fleet/access.log").strip() == "640 adm"
    on(front, "logrotate", "--force", "/etc/logrotate.d/wsgi-fleet")
    eventually(
        lambda: (
            ask(busy_balancer, "/open/rotated")
            and "/open/rotated" in on(front, "cat", "/var/log/wsgi-fleet/access.log")
        ),
        timeout_s=20,
        message="the new file is written",
    )
    assert proxy_complaints(front) == ""


def test_maintenance_is_a_page_and_health_paths_are_exempt(busy_balancer: Stack) -> None:
    assert busy_balancer.fleet("maintenance", "on").returncode == 0
    try:
        status, headers, body = ask(busy_balancer, "/open/x", "POST", Content_Length="0")
        assert (status, headers["retry-after"], headers["cache-control"]) == (503, "60", "no-store")
        assert b"Down for maintenance" in body
        assert (
            json.loads(ask(busy_balancer, "/open/x", Accept="application/json")[2])["title"] == "Down for maintenance"
        )
        assert headers["content-security-policy"] == "default-src 'self'"
        assert ask(busy_balancer, "/well")[0] == 200
    finally:
        assert busy_balancer.fleet("maintenance", "off").returncode == 0
    assert ask(busy_balancer, "/.error/503.html", Authorization=basic("ann", PASSWORD))[0] == 404


def test_a_snippet_serves_and_one_that_apache_refuses_changes_nothing(busy_balancer: Stack) -> None:
    assert ask(busy_balancer, "/open/gone")[0] == 410
    front = busy_balancer.balancer()
    before = on(front, "cat", SITE_FILE)
    with asked_again_and_again(busy_balancer) as statuses:
        for broken, words in (
            ("RewriteEngin On", "Invalid command 'RewriteEngin'"),
            ("<Location /x>", "Expected </Location> but saw </VirtualHost>"),
            ("CustomLog /no/such/folder/x words", "Cannot access directory '/no/such/folder/' for log file"),
            # `apache2 -t` finds nothing wrong with it, and the Apache that serves would end.
            ("ProxyPass /x balancer://x/", "Cannot find LB Method: byrequests"),
        ):
            good = "RewriteCond %{ENV:GONE} =1"
            candidate = desired_site(front, good, f"{broken}\n    {good}")
            result = apply_site(front, candidate, check=False)
            assert result.returncode == 1, broken
            assert words in result.stderr, broken
    assert statuses
    assert set(statuses) == {200}
    assert on(front, "cat", SITE_FILE) == before
    assert proxy_complaints(front) == ""
    assert on(front, "systemctl", "is-active", "apache2").strip() == "active"


# Prints the number of each site of which Apache says anything, and what it says first.
CHECK = """
import json, sys
sys.path.insert(0, "/usr/local/lib/wsgi-fleet")
import proxy
words, kind = [], proxy.backend()
command = kind.command
kind.command = lambda *arguments: words.append(command(*arguments))
for number, text in enumerate(json.load(sys.stdin)):
    words.clear()
    try:
        proxy.test(text)
    except proxy.ProxyError as problem:
        words.append(str(problem))
    for word in "\\n".join(words).splitlines():
        if word != "Syntax OK":
            print(number, word)
            break
"""


@settings(max_examples=1, deadline=None, phases=[Phase.generate], suppress_health_check=HEALTH)
@given(st.lists(balancers("apache"), min_size=15, max_size=15, unique_by=json.dumps))
def test_apache_takes_whatever_the_settings_can_say_and_minds_nothing(
    busy_balancer: Stack, blocks: list[dict[str, Any]]
) -> None:
    app = Upstream("a", ["10.0.0.1", "10.0.0.2"], 60, "/well")
    sites = [site_text(settings_of(block), [app]) for block in blocks]
    # One that Apache must refuse, so that silence means something.
    stdin = json.dumps([*sites, "nonsense"])
    result = lxc("exec", busy_balancer.balancer(), "-T", "--", "python3", "-c", CHECK, stdin=stdin)
    refused = result.stdout.splitlines()
    assert [line.partition(" ")[0] for line in refused] == [str(len(sites))], refused + result.stderr.splitlines()
