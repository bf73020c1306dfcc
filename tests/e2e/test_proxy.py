"""What a reverse proxy is for, asked of one balancer that has all of it on: each setting is shown by a request."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.site import apply_site, desired_site
from harness.stack import Stack, lxc, on, processes_that_name, proxy_complaints
from rendering.upstream import Upstream
from tests.unit.proxy_settings import HOSTNAME, balancers, settings_of
from tests.unit.site_text import site_text

PASSWORD = "correct horse battery"
PROXY: dict[str, Any] = {
    # Its answers have some 300 bytes.
    "compression": {"types": ["application/json"], "min_bytes": 100, "compress_authenticated": False},
    "cache": {"valid_s": 1},
    "basic_auth": {"users": {}, "realm": "Shop", "exempt_paths": ["/open/", "/pages/", "/old/", "/go"]},
    "access": {"deny": ["10.1.0.0/16", "2001:db8::/32"], "deny_countries": ["US"],
               "exempt_paths": ["/open/all"]},
    "geoip": True,
    "canonical_host": True,
    "redirects": [{"path": "/old/{id:int}/*", "to": "/new/{id}/*"},
                  {"path": "/go", "to": "https://o.example/?x=1", "permanent": False, "keep_query": False}],
    "rewrites": [{"path": "/open/item/{id}", "to": "/open/items/{id}/"}],
    "request_headers": {"set": {"X-Edge": 'a "quoted"; } word of $client_address'}, "remove": ["X-Debug"]},
    "response_headers": {"set": {"Content-Security-Policy": "default-src 'self'", "X-Request": "$request_id"},
                       "remove": ["X-Powered-By"]},
    "memcached": {"server": "127.0.0.1:11211", "path": "/pages/", "key_prefix": "shop:"},
    "status": True,
    "snippets": [{"context": "http", "text": "map $arg_teapot $teapot {\n    default 0;\n    yes 1;\n}\n"},
                 {"context": "server", "text": "if ($teapot) {\n    return 418;\n}"},
                 {"context": "location", "text": "uwsgi_param HTTP_X_SNIPPET $teapot; # the last line has no end"}],
}  # fmt: skip
# What the application says besides: what it was asked, as whom, when; and what a proxy would mind.
WORDS = """\
    response |= {"path": path, "query": environ["QUERY_STRING"], "user": environ.get("REMOTE_USER")}
    response |= {"at": time.time_ns()}
    headers = [("Content-Type", "application/json"), ("X-Powered-By", "probe"), ("Content-Security-Policy", "probe")]
    headers += [("Set-Cookie", "a=b")] if "cookie" in query else []
    fails = "fail" in query and Path(os.environ["STATE_DIRECTORY"], "fails").exists()
    start_response("500 Internal Server Error" if fails else "200 OK", headers)
"""
# RFC 2544: nobody's. Each request comes from another one, so that limits count only who is meant.
ADDRESSES = (f"198.18.{number // 250}.{number % 250 + 1}" for number in itertools.count())
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def busy_balancer(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create one server behind a balancer that trusts this machine about the client's address and scheme."""
    stack = make_module_stack("proxy", fleet={"servers": 1}, health_path="/well")
    limits = {"requests_per_second": 20, "burst": 5, "connections": 3}
    return brought_up(stack, limits | {"proxy": PROXY})


def brought_up(stack: Stack, balancer: dict[str, Any]) -> Stack:
    """Bring up a stack with this balancer. Its application is extended by WORDS."""
    stack.edit('    start_response("200 OK", [("Content-Type", "application/json")])\n', WORDS)
    shared = {"hostnames": [HOSTNAME], "trusted_proxies": ["127.0.0.1/32"], "max_body_mib": 1}
    stack.settings["balancer"] = shared | balancer
    stack.write()
    # As a user does it: encrypted in the stack file.
    subprocess.run(
        ["pulumi", "config", "set", "-s", stack.name, "--secret", "--path",
         "wsgi-fleet:balancer.proxy.basic_auth.users.ann"],
        cwd=stack.folder, env=stack.environment(), input=PASSWORD, text=True, check=True,
    )  # fmt: skip
    stack.settings["balancer"] = yaml.safe_load(stack.file.read_text())["config"]["wsgi-fleet:balancer"]
    assert "secure" in stack.settings["balancer"]["proxy"]["basic_auth"]["users"]["ann"]
    stack.up()
    return stack


def ask(stack: Stack, path: str, method: str = "GET", **headers: str) -> Answer:
    """Return status, headers (small letters) and body of one response; redirects are not followed."""
    sent = {"Host": HOSTNAME, "X-Forwarded-For": next(ADDRESSES)}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", stack.settings["lxd"]["port"], timeout=30)) as made:
        made.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            made.putheader(name, value)
        made.endheaders()
        with made.getresponse() as response:
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def said(response: Answer) -> dict[str, Any]:
    """Return the application's response, parsed from JSON. Fail unless its status is 200."""
    assert response[0] == 200, response
    return json.loads(response[2])


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_answers_are_compressed_for_who_asks_and_not_where_their_length_could_tell_a_secret(
    busy_balancer: Stack,
) -> None:
    over_https = {"Accept_Encoding": "gzip", "X_Forwarded_Proto": "https"}
    assert ask(busy_balancer, "/open/z", **over_https)[1].get("content-encoding") == "gzip"
    assert "content-encoding" not in ask(busy_balancer, "/open/z")[1]
    assert "content-encoding" not in ask(busy_balancer, "/open/z", **over_https, Cookie="session=1")[1]
    assert "content-encoding" not in ask(busy_balancer, "/open/z", **over_https, Authorization="Bearer x")[1]
    plain = over_https | {"X_Forwarded_Proto": "http", "Cookie": "session=1"}
    assert ask(busy_balancer, "/open/z", **plain)[1].get("content-encoding") == "gzip"


def test_an_answer_is_kept_for_a_moment_and_only_for_who_asks_as_nobody_in_particular(busy_balancer: Stack) -> None:
    first, second = (ask(busy_balancer, "/open/kept") for _ in range(2))
    assert (first[1]["x-cache"], second[1]["x-cache"]) == ("MISS", "HIT")
    assert said(first)["at"] == said(second)["at"]
    # Each answer has an id of its own.
    assert first[1]["x-request-id"] != second[1]["x-request-id"]
    for own in ({"Cookie": "a=b"}, {"Authorization": "Bearer x"}):
        response = ask(busy_balancer, "/open/kept", **own)
        assert response[1]["x-cache"] == "BYPASS"
        assert said(response)["at"] != said(first)["at"]
    assert "x-cache" not in ask(busy_balancer, "/open/kept", "POST", Content_Length="0")[1]
    assert [ask(busy_balancer, "/open/kept?cookie=1")[1]["x-cache"] for _ in range(2)] == ["MISS", "MISS"]
    # Whoever watches sees the application.
    assert [ask(busy_balancer, "/well")[1]["x-cache"] for _ in range(2)] == ["BYPASS", "BYPASS"]
    # Nginx counts whole seconds.
    time.sleep(2.1)
    renewed = ask(busy_balancer, "/open/kept")
    assert renewed[1]["x-cache"] == "EXPIRED"
    assert said(renewed)["at"] > said(first)["at"]


def test_one_of_many_waits_for_the_application_and_the_others_for_its_answer(busy_balancer: Stack) -> None:
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(ask, [busy_balancer] * 8, ["/open/slow?s=0.5"] * 8))
    assert len({said(response)["at"] for response in responses}) == 1
    assert sorted(response[1]["x-cache"] for response in responses) == ["HIT"] * 7 + ["MISS"]


def test_what_was_kept_is_served_while_the_application_fails(busy_balancer: Stack) -> None:
    (server,) = busy_balancer.servers().values()
    before = said(ask(busy_balancer, "/open/frail?fail=1"))
    on(server, "touch", "/var/lib/app/fails")
    try:
        assert ask(busy_balancer, "/open/other?fail=1")[0] == 500
        time.sleep(2.1)
        stale = ask(busy_balancer, "/open/frail?fail=1")
        assert (stale[1]["x-cache"], said(stale)["at"]) == ("STALE", before["at"])
    finally:
        on(server, "rm", "/var/lib/app/fails")


def test_a_password_lets_in_and_goes_no_further(busy_balancer: Stack) -> None:
    status, headers, _ = ask(busy_balancer, "/headers")
    assert (status, headers["www-authenticate"]) == (401, 'Basic realm="Shop"')
    assert headers["x-request-id"]
    for authorization in (basic("ann", PASSWORD + "x"), basic("bob", PASSWORD), basic("ann", ""), "Bearer x"):
        assert ask(busy_balancer, "/", Authorization=authorization)[0] == 401
    assert said(ask(busy_balancer, "/", Authorization=basic("ann", PASSWORD)))["user"] == "ann"
    assert "HTTP_AUTHORIZATION" not in said(ask(busy_balancer, "/headers", Authorization=basic("ann", PASSWORD)))
    # Where nobody is asked, a name proves nothing, and tokens are the application's own.
    assert said(ask(busy_balancer, "/open/", Authorization=basic("ann", "x")))["user"] is None
    assert ask(busy_balancer, "/well")[0] == 200
    for path in ("/open/../", "/open/%2e%2e/x", "/well%0a", "/wellness", "//", "/Open/"):
        assert ask(busy_balancer, path)[0] == 401, path


def test_passwords_stand_nowhere_and_their_hashes_only_where_nginx_reads_them(busy_balancer: Stack) -> None:
    front = busy_balancer.balancer()
    assert on(front, "stat", "-c", "%a %U %G", "/etc/wsgi-fleet/users").strip() == "640 root www-data"
    (hashed,) = on(front, "cat", "/etc/wsgi-fleet/users").splitlines()
    words = [PASSWORD, hashed.partition(":")[2]]
    logs = on(front, "sh", "-c", "journalctl --no-pager; cat /var/log/cloud-init*.log /var/log/wsgi-fleet/*.log")
    machine = lxc("config", "show", front, "--expanded").stdout
    assert [word for word in words if word in busy_balancer.export() + logs + machine] == []
    assert processes_that_name(words) == []
    assert on(front, "sh", "-c", "cat /etc/*/wsgi-fleet/site.conf /etc/wsgi-fleet/site.json").count("$6$") == 0


def test_networks_and_countries_are_refused_by_the_real_address(busy_balancer: Stack) -> None:
    for address in ("10.1.2.3", "2001:db8::7", "8.8.8.8", "6.6.6.6, 10.1.2.3"):
        status, headers, _ = ask(busy_balancer, "/open/x", X_Forwarded_For=address)
        assert (status, headers["content-security-policy"]) == (403, "default-src 'self'"), address
        assert headers["x-request-id"]
        assert ask(busy_balancer, "/well", X_Forwarded_For=address)[0] == 200
        assert ask(busy_balancer, "/open/all", X_Forwarded_For=address)[0] == 200
    assert ask(busy_balancer, "/open/x", X_Forwarded_For="10.2.0.1")[0] == 200


def test_the_application_learns_the_country_and_nobody_can_pretend_one(busy_balancer: Stack) -> None:
    # RIPE's own network, and one that nobody has.
    for address, country in (("193.0.6.139", "NL"), ("198.18.255.1", "")):
        seen = said(
            ask(
                busy_balancer, "/headers", X_Forwarded_For=address, X_Country="XX", Authorization=basic("ann", PASSWORD)
            )
        )
        assert seen["HTTP_X_COUNTRY"] == country


def test_clients_are_led_elsewhere(busy_balancer: Stack) -> None:
    def led(path: str, **headers: str) -> tuple[int, str | None]:
        status, got, _ = ask(busy_balancer, path, **headers)
        # Of a path Apache makes a URL with the host that was asked for.
        return status, (location := got.get("location")) and re.sub(f"^http://{HOSTNAME}/", "/", location)

    assert led("/old/7/a/b?c=d") == (308, "/new/7/a/b?c=d")
    assert led("/old/7/") == (308, "/new/7/")
    assert led("/go?c=d") == (307, "https://o.example/?x=1")
    for path in ("/old/x/a", "/old/7//evil.example", "/old/7/\\evil.example"):
        assert led(path) == (200, None), path
    assert led("/open/x?y", Host="other.example:8080") == (308, f"http://{HOSTNAME}:8080/open/x?y")
    assert led("/open/x", Host="other.example", X_Forwarded_Proto="https") == (308, f"https://{HOSTNAME}/open/x")
    # Whoever watches may use an address.
    assert led("/well", Host="10.0.0.1") == (200, None)


def test_the_application_is_asked_for_another_path_than_the_client_wrote(busy_balancer: Stack) -> None:
    response = said(ask(busy_balancer, "/open/item/a%20b?c=d"))
    assert (response["path"], response["query"]) == ("/open/items/a b/", "c=d")
    assert said(ask(busy_balancer, "/open/item/a/b"))["path"] == "/open/item/a/b"


def test_headers_are_set_and_removed_in_both_directions(busy_balancer: Stack) -> None:
    sent = {"X_Edge": "mine", "X_Debug": "1", "X_Kept": "2", "Authorization": basic("ann", PASSWORD)}
    seen = said(ask(busy_balancer, "/headers", X_Forwarded_For="198.18.9.9", **sent))
    assert seen["HTTP_X_EDGE"] == 'a "quoted"; } word of 198.18.9.9'
    assert (seen.get("HTTP_X_DEBUG"), seen["HTTP_X_KEPT"], seen["HTTP_X_SNIPPET"]) == (None, "2", "0")
    _, headers, _ = ask(busy_balancer, "/open/x", X_Request_ID="abcdef-123456")
    assert headers["content-security-policy"] == "default-src 'self'"
    assert headers["x-request"] == headers["x-request-id"] == "abcdef-123456"
    assert "x-powered-by" not in headers


def test_more_than_a_client_may_is_answered_429_and_a_larger_body_413(busy_balancer: Stack) -> None:
    fast = [ask(busy_balancer, "/well", X_Forwarded_For="198.19.0.1")[0] for _ in range(60)]
    # One and a burst of five at once, then twenty a second, for the time that it took.
    assert fast[:6] == [200] * 6
    assert 429 in fast
    with ThreadPoolExecutor(6) as pool:
        slow = [pool.submit(ask, busy_balancer, "/well?s=1", X_Forwarded_For="198.19.0.2") for _ in range(6)]
    assert sorted(each.result()[0] for each in slow) == [200] * 3 + [429] * 3
    assert ask(busy_balancer, "/well", X_Forwarded_For="198.19.0.3")[0] == 200
    # Answered by what it says of its length, before any of it is sent.
    assert ask(busy_balancer, "/open/x", "POST", Content_Length=str((1 << 20) + 1))[0] == 413


@pytest.mark.long
def test_pages_come_from_memcached_and_from_the_application_where_it_has_none(busy_balancer: Stack) -> None:
    front = busy_balancer.balancer()
    # Nobody listens there yet.
    assert said(ask(busy_balancer, "/pages/a"))["path"] == "/pages/a"
    on(front, "/usr/local/lib/wsgi-fleet/install-packages", "memcached")
    store = (
        "import socket; made = socket.create_connection(('127.0.0.1', 11211)); "
        "made.sendall(b'set shop:/pages/a%20b 0 0 7\\r\\n<b>hi</\\r\\n'); print(made.recv(99))"
    )
    assert "STORED" in on(front, "python3", "-c", store)
    status, headers, body = ask(busy_balancer, "/pages/a%20b")
    assert (status, headers["x-cache"], body) == (200, "MEMCACHED", b"<b>hi</")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert (headers["content-security-policy"], "x-request-id" in headers) == ("default-src 'self'", True)
    assert said(ask(busy_balancer, "/pages/c%3Fd?e=f"))["path"] == "/pages/c?d"
    assert said(ask(busy_balancer, "/pages/a%20b", "POST", Content_Length="0"))["method"] == "POST"
    # The mark of what memcached had not opens no auth_proxy.
    assert ask(busy_balancer, "/.uncached/headers")[0] == 401


def test_counters_are_for_who_is_on_the_balancer(busy_balancer: Stack) -> None:
    front = busy_balancer.balancer()
    ask_it = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8081/').read().decode())"
    assert on(front, "python3", "-c", ask_it).startswith("Active connections: ")
    assert on(front, "ss", "-Hltn", "sport = :8081").split()[3] == "127.0.0.1:8081"


@pytest.mark.long
def test_a_snippet_serves_and_one_that_nginx_refuses_changes_nothing(busy_balancer: Stack) -> None:
    assert ask(busy_balancer, "/open/x?teapot=yes")[0] == 418
    assert ask(busy_balancer, "/well?teapot=yes")[0] == 200
    front = busy_balancer.balancer()
    before = on(front, "cat", "/etc/nginx/wsgi-fleet/site.conf")
    good = PROXY["snippets"]
    busy_balancer.settings["balancer"]["proxy"]["snippets"] = [*good, {"context": "server", "text": "gzp on;"}]
    try:
        with asked_again_and_again(busy_balancer) as statuses:
            output = busy_balancer.up(fails=True)
            assert 'unknown directive "gzp"' in output
            assert f"balancer.proxy.snippets.{len(good)}: line 1: " in output
            assert "the site before it still serves" in output
            for broken, words in (
                ("location = /x {", 'cannot be inside the exact location "/x"'),
                ("}", '"if" directive is not allowed here'),
                ("location = /x { proxy_pass http://nowhere.invalid; }", 'host not found in upstream "nowhere.'),
            ):
                candidate = desired_site(front, "if ($teapot) {", f"{broken}\n    if ($teapot) {{")
                result = apply_site(front, candidate, check=False)
                assert result.returncode == 1
                assert words in result.stderr
    finally:
        busy_balancer.settings["balancer"]["proxy"]["snippets"] = good
    assert len(statuses) > 20
    assert set(statuses) == {200}
    assert on(front, "cat", "/etc/nginx/wsgi-fleet/site.conf") == before
    assert proxy_complaints(front) == ""
    assert on(front, "systemctl", "is-active", "nginx").strip() == "active"


@contextlib.contextmanager
def asked_again_and_again(stack: Stack) -> Generator[list[int]]:
    """Yield the statuses of requests that go on while the block runs, each from another client."""
    statuses: list[int] = []
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(0.05):
            statuses.append(ask(stack, "/open/x")[0])

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield statuses
    finally:
        done.set()
        thread.join()


# Fifteen blocks are much to draw, and one stack is meant to see them all.
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much,
          HealthCheck.function_scoped_fixture]  # fmt: skip
# Prints the number of each site of which Nginx says anything, and what it says first.
CHECK = """
import json, sys
sys.path.insert(0, "/usr/local/lib/wsgi-fleet")
import nginx
words, command = [], nginx.command
nginx.command = lambda *arguments: words.append(command(*arguments))
for number, text in enumerate(json.load(sys.stdin)):
    words.clear()
    try:
        nginx.test(text)
    except nginx.ProxyError as problem:
        words.append(str(problem))
    for word in filter(None, words):
        print(number, word.splitlines()[0])
"""


@settings(max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=HEALTH)
@given(st.lists(balancers(), min_size=15, max_size=15, unique_by=json.dumps))
def test_nginx_takes_whatever_the_settings_can_say_and_warns_of_nothing(
    busy_balancer: Stack, blocks: list[dict[str, Any]]
) -> None:
    app = Upstream("a", ["10.0.0.1"], 60, "/well")
    sites = [site_text(settings_of(block), [app]) for block in blocks]
    # One that Nginx must refuse, so that silence means something.
    stdin = json.dumps([*sites, "nonsense;"])
    result = lxc("exec", busy_balancer.balancer(), "-T", "--", "python3", "-c", CHECK, stdin=stdin)
    refused = result.stdout.splitlines()
    assert [line.partition(" ")[0] for line in refused] == [str(len(sites))], refused
