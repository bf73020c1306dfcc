"""Who takes the balancer's requests: drained and admitted by hand, whatever site `up` brings. Nginx is stood in for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import certificate
import group_members
import nginx
import proxy
import proxy_site
import pytest
import site_state
from hypothesis import given
from hypothesis import strategies as st
from proxy import ProxyError
from site_state import State

from rendering.site import render_site
from rendering.templates import ROOT
from rendering.upstream import Upstream
from settings.balancer import Balancer
from settings.route import Route
from tests.unit.script_input import call_with_input

ONE, TWO, THREE = "10.0.0.1", "10.0.0.2", "10.0.0.3"
OLD_WORKERS = {11, 12}


def site(*addresses: str) -> str:
    """Return the site of application a, as its step brings it."""
    return json.dumps(render_site(Balancer(), [Upstream("a", addresses, 60, "/healthz")]))


def state(site: str, drained: Sequence[str] = (), unhealthy: Sequence[str] = ()) -> State:
    return State(json.loads(site), drained, unhealthy)


@dataclass
class FakeNginx:
    """Nginx's part: keeps the sites that were swapped in, and what was asked of it in order."""

    folder: Path
    did: list[str] = field(default_factory=list[str])
    fails: dict[str, str] = field(default_factory=dict[str, str])
    failing: set[str] = field(default_factory=set[str])

    def test(self, text: str) -> None:
        del text
        self._do("test")

    def swap_in(self, text: str) -> set[int]:
        self._do("swap")
        nginx.SITE.write_text(text)
        return OLD_WORKERS

    def probe(self, path: str, *, https: bool) -> None:
        del https
        self._do(f"probe {path}")

    def error_of(self, place: str, *, https: bool) -> str:
        del https
        return "HTTP Error 503" if place in self.failing else ""

    def wait_for(self, old: set[int]) -> None:
        assert old == OLD_WORKERS
        self._do("wait")

    def _do(self, what: str) -> None:
        self.did.append(what)
        if what in self.fails:
            raise ProxyError(self.fails[what])

    @property
    def addresses(self) -> list[str]:
        """Return the servers in the text that Nginx serves. The only one of an application is there twice."""
        lines = re.findall(r"^    server (\S+):8000 max_fails=0 max_conns=2048;$", nginx.SITE.read_text(), re.MULTILINE)
        return list(dict.fromkeys(lines))


@pytest.fixture
def balancer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNginx:
    """Create a balancer that has no site of `up` yet."""
    fake = FakeNginx(tmp_path)
    for name in ("test", "swap_in", "probe", "error_of", "wait_for"):
        monkeypatch.setattr(proxy, name, getattr(fake, name))
    monkeypatch.setattr(nginx, "SITE", tmp_path / "site.conf")
    monkeypatch.setattr(nginx, "workers", set[int])
    monkeypatch.setattr(site_state, "STATE", tmp_path / "site.json")
    for name, file in (("LOCK", "lock"), ("DEFAULT_PAGE", "maintenance.html"), ("LEAVING", "leaving")):
        monkeypatch.setattr(proxy_site, name, tmp_path / file)
    # A site without TLS has them removed.
    for name in ("FOLDER", "RENEWAL"):
        monkeypatch.setattr(certificate, name, tmp_path / "certificate" / name)
    monkeypatch.setattr(proxy_site, "PAGE", tmp_path / "errors" / "maintenance.html")
    (tmp_path / "maintenance.html").write_text("ours")
    nginx.SITE.write_text((ROOT / "templates/nginx/no-site.conf").read_text())
    return fake


call = partial(call_with_input, proxy_site.main)


def with_site(balancer: FakeNginx, *addresses: str) -> FakeNginx:
    call("site", stdin=site(*addresses))
    balancer.did.clear()
    return balancer


def test_one_server_is_no_plural(balancer: FakeNginx, capsys: Any) -> None:
    call("site", stdin=site(ONE))
    assert (balancer.addresses, capsys.readouterr().out) == ([ONE], f"the balancer sends requests to 1 server: {ONE}\n")


def test_a_site_is_tested_swapped_in_and_probed_on_each_path(balancer: FakeNginx, capsys: Any) -> None:
    call("site", stdin=two_applications([ONE], [TWO]))
    assert balancer.did == ["test", "swap", "probe /a/healthz", "probe /b/healthz"]
    assert balancer.addresses == [ONE, TWO]
    assert capsys.readouterr().out == f"the balancer sends requests to 2 servers: {ONE}, {TWO}\n"
    upstream = site_state.read_state().site["upstreams"]["app_b"]
    assert (list(upstream["servers"]), upstream["protocol"], upstream["health_path"]) == ([TWO], "uwsgi", "/healthz")


def test_the_same_site_again_is_probed_and_not_reloaded(balancer: FakeNginx) -> None:
    with_site(balancer, ONE)
    call("site", stdin=site(ONE))
    assert balancer.did == ["probe /healthz"]


@pytest.mark.parametrize("step", ["test", "probe /healthz"])
def test_a_site_that_fails_leaves_the_one_before_it_and_all_that_was_known(balancer: FakeNginx, step: str) -> None:
    with_site(balancer, ONE, TWO)
    call("drain", ONE)
    before = {file.name: file.read_text() for file in balancer.folder.iterdir() if file.is_file()}
    balancer.fails[step] = "no"
    with pytest.raises(ProxyError, match="no"):
        call("site", stdin=site(ONE, TWO, THREE))
    assert {file.name: file.read_text() for file in balancer.folder.iterdir() if file.is_file()} == before


def two_applications(a: Sequence[str], b: Sequence[str]) -> str:
    """Return the site of applications a and b."""
    upstreams = [Upstream(name, each, 60, "/healthz", Route(path=f"/{name}")) for name, each in
                 (("a", a), ("b", b))]  # fmt: skip
    return json.dumps(render_site(Balancer(), upstreams))


def test_an_application_that_was_unhealthy_before_does_not_hold_up_another(balancer: FakeNginx, capsys: Any) -> None:
    call("site", stdin=two_applications([ONE], [TWO]))
    balancer.failing = {"/a/healthz"}
    balancer.fails = {"probe /a/healthz": "503"}
    capsys.readouterr()
    call("site", stdin=two_applications([ONE], [TWO, THREE]))
    assert balancer.addresses == [ONE, TWO, THREE]
    report = capsys.readouterr().out.splitlines()
    assert report[0] == "app_a is unhealthy, as it was before: GET /a/healthz: HTTP Error 503"


@pytest.mark.parametrize(
    ("failing", "addresses"), [({"/a/healthz"}, [ONE, THREE]), ({"/a/healthz"}, [THREE]), (set[str](), [ONE])]
)
def test_an_application_that_a_change_makes_unhealthy_or_with_other_members_must_answer(
    balancer: FakeNginx, failing: set[str], addresses: list[str]
) -> None:
    call("site", stdin=two_applications([ONE], [TWO]))
    balancer.failing, balancer.fails = failing, {"probe /a/healthz": "503"}
    with pytest.raises(ProxyError, match="503"):
        call("site", stdin=two_applications(addresses, [TWO, "10.0.0.4"]))
    assert balancer.addresses == [ONE, TWO]


def test_draining_takes_out_one_line_and_ends_after_the_old_workers(balancer: FakeNginx, capsys: Any) -> None:
    with_site(balancer, ONE, TWO, THREE)
    capsys.readouterr()
    call("drain", TWO)
    assert balancer.did == ["test", "swap", "probe /healthz", "wait"]
    assert balancer.addresses == [ONE, THREE]
    assert capsys.readouterr().out == f"draining {TWO}\n{TWO} is drained: no request is on its way to it any more\n"


def test_what_was_drained_is_admitted_in_its_old_place(balancer: FakeNginx) -> None:
    with_site(balancer, ONE, TWO, THREE)
    call("drain", ONE)
    call("drain", TWO)
    call("admit", ONE)
    assert balancer.addresses == [ONE, THREE]
    call("admit", TWO)
    assert nginx.SITE.read_text() == state(site(ONE, TWO, THREE)).render()


@pytest.mark.parametrize("verb", ["drain", "admit"])
def test_draining_and_admitting_twice_changes_nothing(balancer: FakeNginx, verb: str) -> None:
    with_site(balancer, ONE, TWO)
    call("drain", ONE)
    if verb == "admit":
        call("admit", ONE)
    balancer.did.clear()
    call(verb, ONE)
    assert balancer.did == []


def test_the_last_server_is_not_drained_and_the_remedy_is_told(balancer: FakeNginx) -> None:
    with_site(balancer, ONE, TWO)
    call("drain", ONE)
    with pytest.raises(ProxyError, match=rf"app_a would have no server left.*{TWO}.*`\./fleet maintenance on`"):
        call("drain", TWO)
    assert balancer.addresses == [TWO]
    assert site_state.read_state().drained == [ONE]


@pytest.mark.parametrize("verb", ["drain", "admit"])
def test_an_address_that_no_site_names_is_refused_with_those_it_names(balancer: FakeNginx, verb: str) -> None:
    with_site(balancer, ONE, TWO)
    with pytest.raises(
        ProxyError, match=f"{THREE} is no server of this balancer .its servers: {ONE}, {TWO}.; `pulumi up`"
    ):
        call(verb, THREE)


@pytest.mark.parametrize(("verb", "why"), [("drain", "drained by hand"), ("unhealthy", "unhealthy")])
def test_who_is_out_stays_so_when_up_brings_another_site_until_it_is_gone(
    balancer: FakeNginx, capsys: Any, verb: str, why: str
) -> None:
    with_site(balancer, ONE, TWO)
    call(verb, ONE)
    capsys.readouterr()
    call("site", stdin=site(ONE, TWO, THREE))
    assert balancer.addresses == [TWO, THREE]
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"2 servers: {TWO}, {THREE}; {why}: {ONE}")
    call("site", stdin=site(TWO, THREE))
    call("site", stdin=site(ONE, TWO))
    assert balancer.addresses == [ONE, TWO]


def test_of_two_applications_each_keeps_a_server() -> None:
    with pytest.raises(ProxyError, match="app_b would have no server left"):
        state(two_applications([ONE, TWO], [THREE]), [THREE]).render()


def test_who_is_unhealthy_is_taken_out_without_a_probe_and_without_waiting(balancer: FakeNginx) -> None:
    with_site(balancer, ONE, TWO, THREE)
    call("unhealthy", TWO)
    assert balancer.did == ["test", "swap"]
    assert balancer.addresses == [ONE, THREE]
    balancer.did.clear()
    call("unhealthy", TWO)
    assert balancer.did == []
    call("unhealthy")
    assert balancer.addresses == [ONE, TWO, THREE]


@pytest.mark.parametrize("verb", ["drain", "site"])
def test_who_was_unhealthy_is_waited_for_when_it_is_drained_or_removed(
    balancer: FakeNginx, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_site(balancer, ONE, TWO)
    call("unhealthy", TWO)
    monkeypatch.setattr(nginx, "workers", lambda: {*OLD_WORKERS, 13})
    monkeypatch.setattr(nginx, "accepts", lambda pid: pid not in OLD_WORKERS)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    balancer.did.clear()
    call(*(("drain", TWO) if verb == "drain" else ("site",)), stdin=site(ONE))
    assert balancer.did[-1] == "wait"


def test_a_change_that_waits_for_old_workers_lets_others_change_the_site(
    balancer: FakeNginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_site(balancer, ONE, TWO, THREE)

    def wait_for(old: set[int]) -> None:
        balancer.wait_for(old)
        call("unhealthy", THREE)

    monkeypatch.setattr(proxy, "wait_for", wait_for)
    call("drain", TWO)
    assert balancer.addresses == [ONE]
    assert site_state.read_state().drained == [TWO]


@pytest.mark.parametrize("verb", ["unhealthy", "site"])
def test_a_site_that_a_killed_change_left_on_disk_is_replaced_though_nothing_is_new(
    balancer: FakeNginx, verb: str
) -> None:
    with_site(balancer, ONE, TWO)
    nginx.SITE.write_text(state(site(ONE)).render())
    call(verb, stdin=site(ONE, TWO))
    assert balancer.did == ["test", "swap"] + ["probe /healthz"] * (verb == "site")
    assert balancer.addresses == [ONE, TWO]


@pytest.fixture
def group(balancer: FakeNginx, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what says which servers AWS names, by their instances; an address has its instance's number."""
    monkeypatch.setattr(group_members, "FILE", balancer.folder / "members.json")
    monkeypatch.setattr(group_members, "FIRST_LIST_S", 0.0)

    def name(*ids: str) -> None:
        named = {f"10.0.0.{id_.removeprefix('i-').partition('-')[0]}": id_ for id_ in ids}
        group_members.FILE.write_text(json.dumps({"g": named}))

    return name


def group_site(proxy: str = "nginx", *, sticky: bool = False) -> dict[str, Any]:
    """Return the site of an application whose servers a group has."""
    upstream = Upstream("a", [], 60, "/healthz", sticky_sessions=sticky, group="g", max_servers=2)
    return render_site(Balancer.model_validate({"proxy": {"kind": proxy}}), [upstream])


def test_the_servers_of_a_group_are_those_that_aws_names_whatever_site_up_brings(
    balancer: FakeNginx, group: Callable[..., None]
) -> None:
    group("i-1", "i-2")
    call("site", stdin=json.dumps(group_site()))
    assert balancer.addresses == [ONE, TWO]
    group("i-2", "i-3")
    balancer.did.clear()
    call("members")
    # Neither probed nor waited for: a server that leaves waits by itself.
    assert (balancer.addresses, balancer.did) == ([TWO, THREE], ["test", "swap"])
    group_members.FILE.unlink()
    call("site", stdin=json.dumps(group_site()))
    call("members")
    assert balancer.addresses == [TWO, THREE]


def test_who_is_drained_in_a_group_stays_so_and_another_machine_at_its_address_is_not(
    balancer: FakeNginx, group: Callable[..., None]
) -> None:
    group("i-1", "i-2")
    call("site", stdin=json.dumps(group_site()))
    call("drain", ONE)
    with pytest.raises(ProxyError, match="app_a would have no server left"):
        call("drain", TWO)
    for bring in ("members", "site"):
        group("i-1", "i-3")
        call(bring, stdin=json.dumps(group_site()))
        assert balancer.addresses == [THREE]
    group("i-1-new", "i-3")
    call("members")
    assert balancer.addresses == [ONE, THREE]


@pytest.mark.parametrize("left", [[], ["i-1"]])
def test_a_group_that_has_lost_all_who_are_not_drained_is_answered_for_with_503(
    balancer: FakeNginx, group: Callable[..., None], left: list[str]
) -> None:
    group("i-1", "i-2")
    call("site", stdin=json.dumps(group_site()))
    call("drain", ONE)
    group(*left)
    call("members")
    assert balancer.addresses == ["127.0.0.1"]


@pytest.mark.parametrize("proxy", ["nginx", "apache"])
def test_a_server_of_a_group_has_the_line_of_one_of_a_fixed_fleet(proxy: str) -> None:
    fixed = render_site(
        Balancer.model_validate({"proxy": {"kind": proxy}}),
        [Upstream("a", [ONE, TWO], 60, "/healthz", sticky_sessions=True)],
    )
    known = {"g": {ONE: "i-1", TWO: "i-2"}}
    state_ = group_members.with_members(State(json.loads(json.dumps(group_site(proxy, sticky=True))), [], []), known)
    assert state_.render() == state(json.dumps(fixed)).render()


def test_a_state_with_a_broken_group_is_refused(balancer: FakeNginx, group: Callable[..., None]) -> None:
    group("i-1")
    call("site", stdin=json.dumps(group_site()))
    broken = json.loads(site_state.STATE.read_text())
    broken["site"]["upstreams"]["app_a"]["group"]["members"] = {ONE: 1}
    site_state.STATE.write_text(json.dumps(broken))
    with pytest.raises(ProxyError, match="is broken"):
        call("members")
    assert balancer.addresses == [ONE]


@given(st.data())
def test_no_application_is_ever_left_without_a_server_by_its_health(data: st.DataObject) -> None:
    every = [f"10.0.0.{number}" for number in range(1, 7)]
    a, b = every[: (cut := data.draw(st.integers(1, 5)))], every[cut:]
    drained = data.draw(st.lists(st.sampled_from(every), unique=True))
    unhealthy = data.draw(st.lists(st.sampled_from(every), unique=True))
    for each in (a, b):
        if set(each) <= set(drained):
            drained.remove(each[0])
    left = state(two_applications(a, b), drained, unhealthy).active_servers()
    for name, each in (("app_a", a), ("app_b", b)):
        may = [address for address in each if address not in drained]
        well = [address for address in may if address not in unhealthy]
        assert left[name] == (well or may)


@given(st.lists(st.ip_addresses(v=4).map(str), min_size=1, max_size=6, unique=True), st.data())
def test_a_site_without_some_members_is_the_site_of_the_others(addresses: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.lists(st.sampled_from(addresses), max_size=len(addresses) - 1, unique=True))
    left = [member for member in addresses if member not in gone]
    # How often a request may be tried is left as it was wanted. The only server of a fleet is there twice.
    tries = [f"uwsgi_next_upstream_tries {max(2, min(len(each), 3))};" for each in (addresses, left)]
    others = state(site(*left)).render().replace(tries[1], tries[0])
    if len(left) == 1 < len(addresses):
        line = f"    server {left[0]}:8000 max_fails=0 max_conns=2048;\n"
        others = others.replace(line * 2, line)
    assert state(site(*addresses), gone).render() == others


def test_a_request_is_tried_again_on_the_only_server_of_an_application() -> None:
    text = state(two_applications([ONE], [TWO, THREE]), []).render()
    assert [text.count(f"server {address}:8000 ") for address in (ONE, TWO, THREE)] == [2, 1, 1]
    assert set(re.findall(r"next_upstream_tries (\d);", text)) == {"2"}


@pytest.mark.parametrize(("stdin", "page"), [("", "ours"), ("<h1>mine</h1>", "<h1>mine</h1>")])
def test_maintenance_is_a_file_that_nginx_finds_and_no_reload(balancer: FakeNginx, stdin: str, page: str) -> None:
    with_site(balancer, ONE)
    call("maintenance", "on", stdin=stdin)
    assert proxy_site.PAGE.read_text() == page
    assert oct(proxy_site.PAGE.stat().st_mode)[-3:] == "644"
    assert oct(proxy_site.PAGE.parent.stat().st_mode)[-3:] == "755"
    call("maintenance", "off")
    call("maintenance", "off")
    assert not proxy_site.PAGE.exists()
    assert balancer.did == []


BROKEN = [
    "",
    '{"site": {"parts": [',
    "[]",
    "{}",
    '{"site": [], "drained": [], "unhealthy": []}',
    '{"site": {"parts": [], "upstreams": {}, "https": false}, "drained": "10.0.0.1", "unhealthy": []}',
    '{"site": {"parts": [], "upstreams": {}, "https": false}, "drained": [], "unhealthy": [1]}',
    '{"site": {"parts": [], "upstreams": {}, "https": "no"}, "drained": [], "unhealthy": []}',
    '{"site": {"parts": [{"servers_of": "x"}], "upstreams": {}, "https": false}, "drained": [], "unhealthy": []}',
    '{"site": {"parts": [], "upstreams": {"a": {"servers": []}}, "https": false}, "drained": [], "unhealthy": []}',
    "[" * 100_000,
]


@pytest.mark.parametrize("arguments", [("drain", ONE), ("admit", ONE), ("unhealthy", ONE)])
@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_state_is_reported_with_its_path_and_what_writes_it_anew(
    balancer: FakeNginx, content: str, arguments: Sequence[str]
) -> None:
    with_site(balancer, ONE, TWO)
    site_state.STATE.write_text(content)
    with pytest.raises(ProxyError, match=rf"{site_state.STATE} is broken .*: `pulumi up --replace .*balancer-site'`"):
        call(*arguments)
    assert balancer.did == []


@pytest.mark.parametrize("content", BROKEN)
def test_the_step_replaces_a_broken_state_and_reloads_the_same_site(
    balancer: FakeNginx, content: str, capsys: Any
) -> None:
    with_site(balancer, ONE, TWO)
    site_state.STATE.write_text(content)
    call("site", stdin=site(ONE, TWO))
    assert balancer.did == ["test", "swap", "probe /healthz"]
    assert site_state.read_state().servers == [ONE, TWO]
    assert "drained by hand get requests again" in capsys.readouterr().out


def test_without_the_file_nobody_is_drained_and_the_step_brings_it(balancer: FakeNginx) -> None:
    with_site(balancer, ONE, TWO)
    site_state.STATE.unlink()
    with pytest.raises(ProxyError, match=rf"{site_state.STATE} is missing: `pulumi up` writes the first one"):
        call("drain", ONE)
    call("site", stdin=site(ONE, TWO))
    call("drain", ONE)
    assert balancer.addresses == [TWO]


def test_maintenance_is_refused_where_the_site_would_not_look_for_the_page(balancer: FakeNginx) -> None:
    del balancer
    with pytest.raises(ProxyError, match=r"site\.json is missing: `pulumi up"):
        call("maintenance", "on")
    assert not proxy_site.PAGE.exists()


def test_a_page_that_is_too_large_is_refused(balancer: FakeNginx) -> None:
    with_site(balancer, ONE)
    with pytest.raises(ProxyError, match="more than 1048576 bytes"):
        call("maintenance", "on", stdin="x" * ((1 << 20) + 1))
    assert balancer.did == []


@pytest.mark.parametrize("arguments", [[], ["/healthz"], ["drain"], ["maintenance", "perhaps"], ["admit", ONE, TWO]])
def test_what_is_no_verb_is_answered_with_the_verbs(balancer: FakeNginx, arguments: Sequence[str]) -> None:
    with pytest.raises(ProxyError, match=r"proxy_site\.py drain ADDRESS"):
        call(*arguments)
    assert balancer.did == []
