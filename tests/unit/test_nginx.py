"""Nginx on the balancer: a site is read before it is taken, and taken only when workers serve it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nginx
import proxy
import proxy_site
import pytest
import site_state
from proxy import ProxyError
from site_state import State

from rendering.filters import nginx_quote
from rendering.site import render_site
from rendering.upstream import Upstream
from settings.balancer import Balancer as BalancerSettings

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Balancer:
    """generation: reloads so far, and the process id of its worker. lingers: how often old ones are found yet."""

    folder: Path
    called: list[str] = field(default_factory=list[str])
    included: list[str] = field(default_factory=list[str])
    refuses: str = ""
    starts_workers: bool = True
    generation: int = 1
    lingers: int = 0
    notices_after: int = 0

    def command(self, *arguments: str) -> str:
        self.called.append(" ".join(arguments[:2]))
        if arguments[0] == "-t":
            main = Path(arguments[-1]).read_text()
            paths = [line.split()[1].rstrip(";") for line in main.splitlines() if line.strip().startswith("include ")]
            self.included = [Path(path).read_text() for path in paths if path.startswith(str(self.folder))]
            if self.refuses:
                raise ProxyError(self.refuses)
        else:
            self.generation += self.starts_workers
        return ""

    def workers(self) -> set[int]:
        self.lingers -= 1
        return {self.generation, *(range(1, self.generation) if self.lingers >= 0 else ())}

    def accepts(self, pid: int) -> bool:
        self.notices_after -= 1
        return pid == self.generation or self.notices_after >= 0

    @property
    def files(self) -> dict[str, str]:
        return {each.name: each.read_text() for each in self.folder.iterdir()}


@pytest.fixture
def balancer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Balancer:
    """Create a balancer that serves a site. No code under test waits."""
    made = Balancer(tmp_path)
    for name in ("MAIN", "SITE"):
        monkeypatch.setattr(nginx, name, tmp_path / f"{name.lower()}.conf")
    nginx.MAIN.write_text((ROOT / "templates" / "nginx" / "nginx.conf").read_text())
    nginx.SITE.write_text("old")
    for name in ("command", "workers", "accepts"):
        monkeypatch.setattr(nginx, name, getattr(made, name))

    def sleep(seconds: float) -> None:
        del seconds

    monkeypatch.setattr("time.sleep", sleep)
    return made


def test_nginx_reads_a_site_in_the_place_of_the_one_that_serves(balancer: Balancer) -> None:
    before = balancer.files
    nginx.test("new")
    assert (balancer.called, balancer.included, balancer.files) == (["-t -q"], ["new"], before)
    balancer.refuses = "[emerg] unknown directive"
    with pytest.raises(ProxyError, match="unknown directive"):
        nginx.test("new")
    assert balancer.files == before


def test_a_site_is_swapped_in_once_new_workers_serve_and_no_old_one_accepts(balancer: Balancer) -> None:
    balancer.lingers = balancer.notices_after = 9
    assert proxy.swap_in("new") == {1}
    assert balancer.called == ["-s reload"]
    assert nginx.SITE.read_text() == "new"
    assert balancer.notices_after == -1


def test_a_site_for_which_no_workers_start_is_a_failure(balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "PROBE_S", 0)
    # The old ones end all the same.
    monkeypatch.setattr(nginx, "accepts", {1: False}.__getitem__)
    balancer.starts_workers = False
    with pytest.raises(ProxyError, match=r"Nginx did not start new workers; see /var/log/wsgi-fleet/error.log"):
        proxy.swap_in("new")


def test_old_workers_are_waited_for_until_they_have_gone(balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
    balancer.generation, balancer.lingers = 3, 7
    proxy.wait_for({1, 2})
    assert balancer.lingers == -1
    monkeypatch.setattr(proxy, "DRAIN_S", 0)
    balancer.lingers = 9999
    with pytest.raises(ProxyError, match="old workers still run after 0 s"):
        proxy.wait_for({1, 2})


def test_servers_that_a_killed_run_was_draining_are_drained_by_the_next(
    balancer: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[set[int]] = []

    def wait_for(old: set[int]) -> None:
        waits.append(old)
        if len(waits) == 1:
            raise InterruptedError

    def probe(_place: str, *, https: bool) -> None:
        del https

    def serve(*servers: str) -> None:
        site = render_site(BalancerSettings(), [Upstream("a", servers, 60, "/healthz")])
        proxy_site.serve(State(json.loads(json.dumps(site)), [], []))

    monkeypatch.setattr(site_state, "STATE", balancer.folder / "STATE")
    monkeypatch.setattr(proxy_site, "LEAVING", balancer.folder / "LEAVING")
    monkeypatch.setattr(proxy, "probe", probe)
    monkeypatch.setattr(proxy, "wait_for", wait_for)
    serve("10.0.0.1", "10.0.0.2")
    serve("10.0.0.1")
    for _ in range(2):
        with contextlib.suppress(InterruptedError):
            proxy_site.wait_for_leaving()
    serve("10.0.0.1")
    proxy_site.wait_for_leaving()
    assert (len(waits), waits[0]) == (2, waits[1])


class Handler(BaseHTTPRequestHandler):
    statuses: list[int]
    asked: tuple[str, str]

    def do_GET(self) -> None:
        Handler.asked = self.headers["Host"], self.path
        self.send_response(self.statuses.pop(0))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield a path of a site that responds with Handler.statuses, one by one. Two seconds pass at each look."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    times = iter(range(0, 1000, 2))
    monkeypatch.setattr(proxy, "time", SimpleNamespace(monotonic=times.__next__, sleep=float))
    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        for scheme in ("http", "https"):
            monkeypatch.setattr(proxy, scheme.upper(), f"{scheme}://127.0.0.1:{made.server_port}")
        yield "/healthz"
        made.shutdown()
        thread.join()


def test_a_path_answers_once_it_answers_below_500(path: str) -> None:
    for statuses in ([200], [404], [503, 502, 200]):
        Handler.statuses = [*statuses, 418]
        proxy.probe(path, https=False)
        assert Handler.statuses == [418]
    Handler.statuses = [503] * 6 + [500, 418]
    with pytest.raises(ProxyError, match=rf"GET {path} through the new site: HTTP Error 500"):
        proxy.probe(path, https=False)
    assert Handler.statuses == [418]


def test_an_application_with_a_host_is_asked_for_by_it(path: str) -> None:
    Handler.statuses = [200, 200]
    proxy.probe(f"shop.example.org/shop{path}", https=False)
    assert Handler.asked == ("shop.example.org", "/shop/healthz")
    proxy.probe(path, https=False)
    assert Handler.asked == (proxy.HTTP.removeprefix("http://"), "/healthz")


def test_a_site_with_tls_is_probed_by_https(path: str) -> None:
    Handler.statuses = [200]
    # The server of the test speaks plain HTTP only.
    with pytest.raises(ProxyError, match=rf"GET {path} through the new site: .*SSL"):
        proxy.probe(path, https=True)
    assert Handler.statuses == [200]


def test_nothing_in_a_word_ends_its_quotes() -> None:
    assert nginx_quote('a" b; \\"') == r'"a\" b; \\\""'
