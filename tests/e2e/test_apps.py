"""Two applications behind one balancer: routed by host and path, and what is done to one does not touch the other.

Tests share one stack and follow one another: the last one removes an application.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from harness.load import Load, Outcome
from harness.stack import Stack, lxc, on
from platforms.lxd import label

SHOP = "shop.example.org"
NGINX_WORKERS = ("pgrep", "-f", "[n]ginx: worker process$")
LIVE = ("stat", "-c", "%Y %N", "/srv/app/live")


class Unmoved(urllib.request.HTTPRedirectHandler):
    """Answers redirects as they came."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs


def ask(stack: Stack, path: str, host: str = "127.0.0.1", **headers: str) -> tuple[int, Any]:
    """Return the status, and the response of an application or where a redirect leads."""
    request = urllib.request.Request(stack.url + path, headers={"Host": host, **headers})
    try:
        with urllib.request.build_opener(Unmoved).open(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Location"] or error.read().decode()


def who(stack: Stack, path: str = "/", host: str = "127.0.0.1") -> str:
    """Return the application that responds, from the name of its server: STACK-APP-1-RANDOM."""
    status, response = ask(stack, path, host)
    assert status == 200, response
    return response["server"].removeprefix(f"{stack.name}-").partition("-")[0]


def load_on_shop(stack: Stack) -> Load:
    port = stack.settings["lxd"]["port"]
    return Load(f"http://{SHOP}:{port}", address="127.0.0.1")


def assert_fresh_ones_got_an_answer(*outcomes: Outcome) -> None:
    for outcome in outcomes:
        assert outcome.answered > 0
        assert outcome.failed_fresh == [], outcome


def edit_shop(stack: Stack, old: str, new: str) -> None:
    file = stack.folder / "tests" / "e2e" / "shop" / "probe.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def journal(stack: Stack, app: str) -> list[str]:
    return sorted(file.name for file in (stack.folder / ".state" / stack.name / "store" / app / "journal").iterdir())


@pytest.fixture(scope="module")
def two(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create probe for every host but those of shop, each on one server. The first release of shop did not import."""
    stack = make_module_stack("apps", fleet={"servers": 1}, rollout={"bake_s": 0})
    shutil.copytree(stack.folder / "tests" / "e2e" / "app", stack.folder / "tests" / "e2e" / "shop")
    hosts = [SHOP, f"*.{SHOP}"]
    stack.settings["apps"]["shop"] = stack.app | {"source": "tests/e2e/shop", "hosts": hosts, "health_host": SHOP}
    edit_shop(stack, 'VERSION = "1"', 'raise RuntimeError("shop is ill")\nVERSION = "1"')
    output = stack.up(fails=True)
    assert "shop: shop-1, stage: " in output
    assert "RuntimeError: shop is ill" in output
    edit_shop(stack, 'raise RuntimeError("shop is ill")\n', "")
    stack.up()
    return stack


def test_a_host_leads_to_the_application_that_names_it_and_every_other_to_the_one_that_names_none(two: Stack) -> None:
    assert [who(two, host=host) for host in (SHOP, f"eu.{SHOP}", f"{SHOP.upper()}:80")] == ["shop"] * 3
    assert [who(two, host=host) for host in ("127.0.0.1", "example.org", f"not{SHOP}")] == ["probe"] * 3
    assert who(two, "/anything/else?x=1", host=SHOP) == "shop"


def test_the_operators_command_shows_both_and_works_on_each(two: Stack) -> None:
    report = json.loads(two.fleet("status", "--json").stdout)
    assert report["healthy"] is True, report
    assert {name: [each["name"] for each in app["servers"]] for name, app in report["apps"].items()} == {
        "probe": ["probe-1"],
        "shop": ["shop-1"],
    }
    script = "import os; print(os.environ['WSGI_FLEET_SERVER'])"
    output = two.fleet("exec", "--server", "shop-1", "--", "python", "-c", script)
    assert output.stdout.strip() == two.servers()["shop-1"], output.stderr
    refused = two.fleet("rollback", "--yes")
    assert (refused.returncode, "add `--app` with one of probe, shop" in refused.stderr) == (2, True)


def test_a_release_of_one_touches_neither_the_other_nor_nginx_and_loses_nothing(two: Stack) -> None:
    probe, balancer = two.servers()["probe-1"], two.balancer()
    before = journal(two, "probe"), on(probe, *LIVE), on(balancer, *NGINX_WORKERS)
    with Load(two.url) as on_probe, load_on_shop(two) as on_shop:
        edit_shop(two, 'VERSION = "1"', 'VERSION = "two"')
        output = two.up()
        on_probe.wait_for(30)
        on_shop.wait_for(30)
    for outcome in (on_probe.outcome, on_shop.outcome):
        assert_fresh_ones_got_an_answer(outcome)
        assert outcome.failed_kept == [], outcome
    assert (set(on_probe.outcome.versions), set(on_shop.outcome.versions)) == ({"1"}, {"1", "two"})
    assert (journal(two, "probe"), on(probe, *LIVE), on(balancer, *NGINX_WORKERS)) == before
    assert re.findall(r"([a-z]\S+) (?:created|updated|replaced)", output) == ["shop-rollout"]


@pytest.mark.long
def test_an_operator_takes_one_back_and_the_other_stays(two: Stack) -> None:
    if ask(two, "/", SHOP)[1]["version"] == "1":
        # Alone in `make test-long`.
        edit_shop(two, 'VERSION = "1"', 'VERSION = "two"')
        two.up()
    left = ask(two, "/", SHOP)[1]["release"]
    with Load(two.url) as on_probe:
        back = two.fleet("rollback", "--yes", "--app", "shop")
        on_probe.wait_for(20)
    assert back.returncode == 0, back.stderr
    assert (ask(two, "/", SHOP)[1]["version"], ask(two, "/")[1]["version"]) == ("1", "1")
    assert on_probe.outcome.failed_fresh == [] == on_probe.outcome.failed_kept
    assert two.fleet("allow", left, "--app", "shop").returncode == 0
    edit_shop(two, 'VERSION = "two"', 'VERSION = "1"')


def test_a_path_leads_there_as_script_name_or_whole_and_costs_no_release(two: Stack) -> None:
    shop = two.settings["apps"]["shop"]
    shop.update(hosts=[], path="/s.1")
    release = ask(two, "/", SHOP)[1]["release"]
    with Load(two.url) as load:
        two.up()
        load.wait_for(20)
    assert_fresh_ones_got_an_answer(load.outcome)
    assert who(two, "/s.1/") == "shop"
    assert [who(two, path) for path in ("/", "/s.12", "/sx1/", "/s")] == ["probe"] * 4
    seen = {path: ask(two, path)[1] for path in ("/s.1/", "/s.1/a%20b/%2e%0Ac?q=1", "/s.1//x", "/x/../s.1/y")}
    assert {path: (response["script_name"], response["path"]) for path, response in seen.items()} == {
        "/s.1/": ("/s.1", "/"),
        "/s.1/a%20b/%2e%0Ac?q=1": ("/s.1", "/a b/.\nc"),
        "/s.1//x": ("/s.1", "/x"),
        "/x/../s.1/y": ("/s.1", "/y"),
    }
    # Of a path Apache makes a URL.
    status, location = ask(two, "/s.1?q=1")
    assert (status, location.removeprefix("http://127.0.0.1")) == (308, "/s.1/?q=1")
    # Whatever a client says.
    seen = [ask(two, f"{path}/headers", **{"X-Forwarded-Prefix": "/x"})[1] for path in ("/s.1", "")]
    assert [each.get("HTTP_X_FORWARDED_PREFIX") for each in seen] == ["/s.1", None]
    assert ask(two, "/s.1/")[1]["release"] == release


@pytest.mark.long
def test_an_application_may_see_whole_paths_and_is_watched_by_its_own_during_maintenance(two: Stack) -> None:
    two.settings["apps"]["shop"].update(hosts=[SHOP], path="/s.1", strip_path=False, health_path="/s.1/well")
    two.up()
    assert [ask(two, path, SHOP)[1]["path"] for path in ("/s.1", "/s.1/y")] == ["/s.1", "/s.1/y"]
    # What shop does not take of its host is for the application on every host.
    assert [who(two, path, SHOP) for path in ("/s.1", "/s.1/y", "/s.2")] == ["shop", "shop", "probe"]
    assert two.fleet("maintenance", "on").returncode == 0
    asked = [("/s.1/a", SHOP), ("/s.1/well", SHOP), ("/", SHOP), ("/a", "a.example"), ("/s.1/well", "a.example")]
    responses = {(path, host): ask(two, path, host)[0] for path, host in asked}
    assert two.fleet("maintenance", "off").returncode == 0
    # The health path of probe is "/".
    assert list(responses.values()) == [503, 200, 200, 503, 503], responses


@pytest.mark.long
def test_one_that_is_added_broken_leaves_the_others_as_they_are(two: Stack) -> None:
    before = two.machines("app"), on(two.balancer(), *NGINX_WORKERS)
    two.settings["apps"]["late"] = two.app | {"path": "/late", "module": "probe:nothing"}
    try:
        with Load(two.url) as load:
            output = two.up("--continue-on-error", fails=True)
            load.wait_for(20)
        status = two.fleet("status", "--app", "probe")
    finally:
        del two.settings["apps"]["late"]
    # Pulumi does not know the URL then.
    assert status.returncode == 0, status
    assert "late: late-1, stage: " in output
    assert load.outcome.failed_fresh == [] == load.outcome.failed_kept, load.outcome
    assert two.machines("app").items() > before[0].items()
    assert on(two.balancer(), *NGINX_WORKERS) == before[1]
    assert [who(two, path) for path in ("/late", "/")] == ["probe", "probe"]


@pytest.mark.long
def test_a_bare_callable_with_a_middleware_deploys_unchanged(two: Stack) -> None:
    bare = {"source": "examples/bare-wsgi", "module": "bare:app", "health_path": "/healthz"}
    two.settings["apps"]["shop"].update(bare, hosts=[], path="/bare", strip_path=True)
    two.up()
    with urllib.request.urlopen(f"{two.url}/bare/", timeout=30) as response:
        text, took = response.read().decode(), response.headers["X-Runtime-Ms"]
    release = two.output("releases")["shop"]
    assert text == f"Hello from {two.servers()['shop-1']}, release {release}\n"
    # What the middleware adds, whatever the callable answers.
    assert re.fullmatch(r"\d+\.\d\d", took)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{two.url}/bare/nothing", timeout=30)
    with error.value as reply:
        assert (reply.code, reply.read()) == (404, b"nothing here\n")
        assert re.fullmatch(r"\d+\.\d\d", reply.headers["X-Runtime-Ms"])


@pytest.mark.long
def test_one_that_is_removed_goes_with_all_it_had_and_the_other_loses_nothing(two: Stack) -> None:
    store = two.folder / ".state" / two.name / "store"
    assert any(file.is_file() for file in (store / "shop").rglob("*"))
    networks = {each["name"] for each in json.loads(lxc("query", "/1.0/networks?recursion=1").stdout)}
    network = label.network_name(label.owner(two.name, two.folder), "app-shop")
    assert network in networks
    probe = two.servers()["probe-1"], journal(two, "probe")
    with Load(two.url) as load:
        del two.settings["apps"]["shop"]
        two.up()
        load.wait_for(30)
    assert_fresh_ones_got_an_answer(load.outcome)
    assert set(load.outcome.servers) == {probe[0]}
    assert two.machines("app") == {"probe-1": probe[0]}
    # But for the mark by which a machine knows an empty store from one that is not mounted.
    assert [file for file in (store / "shop").rglob("*") if file.is_file() and file.name != ".store"] == []
    assert journal(two, "probe") == probe[1]
    assert network not in {each["name"] for each in json.loads(lxc("query", "/1.0/networks?recursion=1").stdout)}
    assert "app_shop" not in on(two.balancer(), "sh", "-c", "cat /etc/*/wsgi-fleet/site.conf")
    assert who(two, host=SHOP) == "probe"
