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

from harness.load import Load, LoadOutcome
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


def assert_fresh_ones_got_an_answer(*outcomes: LoadOutcome) -> None:
    for outcome in outcomes:
        assert outcome.responses > 0
        assert outcome.failed_fresh == [], outcome


def edit_shop(stack: Stack, old: str, new: str) -> None:
    file = stack.folder / "tests" / "e2e" / "shop" / "probe.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def journal(stack: Stack, app: str) -> list[str]:
    return sorted(file.name for file in (stack.folder / ".state" / stack.name / "store" / app / "journal").iterdir())


@pytest.fixture(scope="module")
def two_applications(make_module_stack: Callable[..., Stack]) -> Stack:
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


def test_a_host_leads_to_the_application_that_names_it_and_every_other_to_the_one_that_names_none(
    two_applications: Stack,
) -> None:
    assert [who(two_applications, host=host) for host in (SHOP, f"eu.{SHOP}", f"{SHOP.upper()}:80")] == ["shop"] * 3
    assert [who(two_applications, host=host) for host in ("127.0.0.1", "example.org", f"not{SHOP}")] == ["probe"] * 3
    assert who(two_applications, "/anything/else?x=1", host=SHOP) == "shop"


def test_the_operators_command_shows_both_and_works_on_each(two_applications: Stack) -> None:
    report = json.loads(two_applications.fleet("status", "--json").stdout)
    assert report["healthy"] is True, report
    assert {name: [each["name"] for each in app["servers"]] for name, app in report["apps"].items()} == {
        "probe": ["probe-1"],
        "shop": ["shop-1"],
    }
    script = "import os; print(os.environ['WSGI_FLEET_SERVER'])"
    output = two_applications.fleet("exec", "--server", "shop-1", "--", "python", "-c", script)
    assert output.stdout.strip() == two_applications.servers()["shop-1"], output.stderr
    refused = two_applications.fleet("rollback", "--yes")
    assert (refused.returncode, "add `--app` with one of probe, shop" in refused.stderr) == (2, True)


def test_a_release_of_one_touches_neither_the_other_nor_nginx_and_loses_nothing(two_applications: Stack) -> None:
    probe, balancer = two_applications.servers()["probe-1"], two_applications.balancer()
    before = journal(two_applications, "probe"), on(probe, *LIVE), on(balancer, *NGINX_WORKERS)
    with Load(two_applications.url) as on_probe, load_on_shop(two_applications) as on_shop:
        edit_shop(two_applications, 'VERSION = "1"', 'VERSION = "two"')
        output = two_applications.up()
        on_probe.wait_for(30)
        on_shop.wait_for(30)
    for outcome in (on_probe.outcome, on_shop.outcome):
        assert_fresh_ones_got_an_answer(outcome)
        assert outcome.failed_kept == [], outcome
    assert (set(on_probe.outcome.versions), set(on_shop.outcome.versions)) == ({"1"}, {"1", "two"})
    assert (journal(two_applications, "probe"), on(probe, *LIVE), on(balancer, *NGINX_WORKERS)) == before
    assert re.findall(r"([a-z]\S+) (?:created|updated|replaced)", output) == ["shop-rollout"]


@pytest.mark.long
def test_an_operator_takes_one_back_and_the_other_stays(two_applications: Stack) -> None:
    if ask(two_applications, "/", SHOP)[1]["version"] == "1":
        # Alone in `make test-long`.
        edit_shop(two_applications, 'VERSION = "1"', 'VERSION = "two"')
        two_applications.up()
    left = ask(two_applications, "/", SHOP)[1]["release"]
    with Load(two_applications.url) as on_probe:
        back = two_applications.fleet("rollback", "--yes", "--app", "shop")
        on_probe.wait_for(20)
    assert back.returncode == 0, back.stderr
    assert (ask(two_applications, "/", SHOP)[1]["version"], ask(two_applications, "/")[1]["version"]) == ("1", "1")
    assert on_probe.outcome.failed_fresh == [] == on_probe.outcome.failed_kept
    assert two_applications.fleet("allow", left, "--app", "shop").returncode == 0
    edit_shop(two_applications, 'VERSION = "two"', 'VERSION = "1"')


def test_a_path_leads_there_as_script_name_or_whole_and_costs_no_release(two_applications: Stack) -> None:
    shop = two_applications.settings["apps"]["shop"]
    shop.update(hosts=[], path="/s.1")
    release = ask(two_applications, "/", SHOP)[1]["release"]
    with Load(two_applications.url) as load:
        two_applications.up()
        load.wait_for(20)
    assert_fresh_ones_got_an_answer(load.outcome)
    assert who(two_applications, "/s.1/") == "shop"
    assert [who(two_applications, path) for path in ("/", "/s.12", "/sx1/", "/s")] == ["probe"] * 4
    seen = {
        path: ask(two_applications, path)[1] for path in ("/s.1/", "/s.1/a%20b/%2e%0Ac?q=1", "/s.1//x", "/x/../s.1/y")
    }
    assert {path: (response["script_name"], response["path"]) for path, response in seen.items()} == {
        "/s.1/": ("/s.1", "/"),
        "/s.1/a%20b/%2e%0Ac?q=1": ("/s.1", "/a b/.\nc"),
        "/s.1//x": ("/s.1", "/x"),
        "/x/../s.1/y": ("/s.1", "/y"),
    }
    # Of a path Apache makes a URL.
    status, location = ask(two_applications, "/s.1?q=1")
    assert (status, location.removeprefix("http://127.0.0.1")) == (308, "/s.1/?q=1")
    # Whatever a client says.
    seen = [ask(two_applications, f"{path}/headers", **{"X-Forwarded-Prefix": "/x"})[1] for path in ("/s.1", "")]
    assert [each.get("HTTP_X_FORWARDED_PREFIX") for each in seen] == ["/s.1", None]
    assert ask(two_applications, "/s.1/")[1]["release"] == release


@pytest.mark.long
def test_an_application_may_see_whole_paths_and_is_watched_by_its_own_during_maintenance(
    two_applications: Stack,
) -> None:
    two_applications.settings["apps"]["shop"].update(
        hosts=[SHOP], path="/s.1", strip_path=False, health_path="/s.1/well"
    )
    two_applications.up()
    assert [ask(two_applications, path, SHOP)[1]["path"] for path in ("/s.1", "/s.1/y")] == ["/s.1", "/s.1/y"]
    # What shop does not take of its host is for the application on every host.
    assert [who(two_applications, path, SHOP) for path in ("/s.1", "/s.1/y", "/s.2")] == ["shop", "shop", "probe"]
    assert two_applications.fleet("maintenance", "on").returncode == 0
    asked = [("/s.1/a", SHOP), ("/s.1/well", SHOP), ("/", SHOP), ("/a", "a.example"), ("/s.1/well", "a.example")]
    responses = {(path, host): ask(two_applications, path, host)[0] for path, host in asked}
    assert two_applications.fleet("maintenance", "off").returncode == 0
    # The health path of probe is "/".
    assert list(responses.values()) == [503, 200, 200, 503, 503], responses


@pytest.mark.long
def test_one_that_is_added_broken_leaves_the_others_as_they_are(two_applications: Stack) -> None:
    before = two_applications.machines("app"), on(two_applications.balancer(), *NGINX_WORKERS)
    two_applications.settings["apps"]["late"] = two_applications.app | {"path": "/late", "module": "probe:nothing"}
    try:
        with Load(two_applications.url) as load:
            output = two_applications.up("--continue-on-error", fails=True)
            load.wait_for(20)
        status = two_applications.fleet("status", "--app", "probe")
    finally:
        del two_applications.settings["apps"]["late"]
    # Pulumi does not know the URL then.
    assert status.returncode == 0, status
    assert "late: late-1, stage: " in output
    assert load.outcome.failed_fresh == [] == load.outcome.failed_kept, load.outcome
    assert two_applications.machines("app").items() > before[0].items()
    assert on(two_applications.balancer(), *NGINX_WORKERS) == before[1]
    assert [who(two_applications, path) for path in ("/late", "/")] == ["probe", "probe"]


@pytest.mark.long
def test_a_bare_callable_with_a_middleware_deploys_unchanged(two_applications: Stack) -> None:
    bare = {"source": "examples/bare-wsgi", "module": "bare:app", "health_path": "/healthz"}
    two_applications.settings["apps"]["shop"].update(bare, hosts=[], path="/bare", strip_path=True)
    two_applications.up()
    with urllib.request.urlopen(f"{two_applications.url}/bare/", timeout=30) as response:
        text, took = response.read().decode(), response.headers["X-Runtime-Ms"]
    release = two_applications.output("releases")["shop"]
    assert text == f"Hello from {two_applications.servers()['shop-1']}, release {release}\n"
    # What the middleware adds, whatever the callable answers.
    assert re.fullmatch(r"\d+\.\d\d", took)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{two_applications.url}/bare/nothing", timeout=30)
    with error.value as reply:
        assert (reply.code, reply.read()) == (404, b"nothing here\n")
        assert re.fullmatch(r"\d+\.\d\d", reply.headers["X-Runtime-Ms"])


@pytest.mark.long
def test_one_that_is_removed_goes_with_all_it_had_and_the_other_loses_nothing(two_applications: Stack) -> None:
    store = two_applications.folder / ".state" / two_applications.name / "store"
    assert any(file.is_file() for file in (store / "shop").rglob("*"))
    networks = {each["name"] for each in json.loads(lxc("query", "/1.0/networks?recursion=1").stdout)}
    network = label.network_name(label.owner(two_applications.name, two_applications.folder), "app-shop")
    assert network in networks
    probe = two_applications.servers()["probe-1"], journal(two_applications, "probe")
    with Load(two_applications.url) as load:
        del two_applications.settings["apps"]["shop"]
        two_applications.up()
        load.wait_for(30)
    assert_fresh_ones_got_an_answer(load.outcome)
    assert set(load.outcome.servers) == {probe[0]}
    assert two_applications.machines("app") == {"probe-1": probe[0]}
    # But for the mark by which a machine knows an empty store from one that is not mounted.
    assert [file for file in (store / "shop").rglob("*") if file.is_file() and file.name != ".store"] == []
    assert journal(two_applications, "probe") == probe[1]
    assert network not in {each["name"] for each in json.loads(lxc("query", "/1.0/networks?recursion=1").stdout)}
    assert "app_shop" not in on(two_applications.balancer(), "sh", "-c", "cat /etc/*/wsgi-fleet/site.conf")
    assert who(two_applications, host=SHOP) == "probe"
