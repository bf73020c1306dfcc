"""Static files at the balancer: what a browser gets, and that a page finds its file whatever is released meanwhile."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from harness.stack import Stack, lxc, on, proxy_complaints

SCRIPT = "/usr/local/lib/wsgi-fleet/static_files.py"
BUILD = "python build.py"
CLIENTS = 4
PAUSE_S = 0.02
# Names that hold a hash; the build of the tests ends them with a letter, so that none has digits alone.
HASHED = re.compile(r"/static/app\.[0-9a-f]{11}a\.css")

MAINTENANCE = "<p>back at noon ${uri} %{HTTP_HOST} \"';}\n"

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def shop(make_module_stack: Callable[..., Stack]) -> Stack:
    """Create two servers of version 1. Tests leave them with a good release everywhere."""
    stack = make_module_stack(
        "static",
        source="tests/e2e/static_app",
        module="pages:app",
        build=BUILD,
        static={"folder": "out", "max_age_s": 77, "immutable_folders": ["deep"]},
        environment={"T_PLAIN": "plain"},
        fleet={"servers": 2},
    )
    (stack.folder / "maintenance.html").write_text(MAINTENANCE)
    stack.settings["balancer"] = {"error_pages": {"maintenance": "maintenance.html"}}
    stack.up()
    return stack


def set_version(stack: Stack, version: str) -> None:
    file = stack.folder / "tests" / "e2e" / "static_app" / "pages.py"
    file.write_text(re.sub(r'VERSION = ".*"', f'VERSION = "{version}"', file.read_text()))


def ask(stack: Stack, path: str, method: str = "GET", **headers: str) -> Answer:
    """Return status, headers (small letters, - as _) and body, on a fresh connection."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.settings["lxd"]["port"], timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        with connection.getresponse() as response:
            found = {name.lower().replace("-", "_"): value for name, value in response.getheaders()}
            return response.status, found, response.read()
    finally:
        connection.close()


def page(stack: Stack) -> dict[str, str]:
    return json.loads(ask(stack, "/")[2])


def asked_of_the_application(stack: Stack) -> list[str]:
    """Return the paths below /static/ that reached the application, on any server."""
    read = ("sh", "-c", "cat /var/lib/app/asked 2>/dev/null || true")
    return [path for machine in stack.servers().values() for path in on(machine, *read).split()]


def static_status(stack: Stack) -> dict[str, Any]:
    """Return the status of the application's static files on the balancer."""
    return json.loads(on(stack.balancer(), SCRIPT, "status", "probe"))


class Browsers:
    """Clients that open pages and fetch the file of each, and again and again that of the first page they ever saw.

    pages: how many of each version. files: answers to the files of pages just opened, and old ones: to those of the
    first. failed: what was not the file of that version.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack, self._stop, self._lock = stack, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._browse, daemon=True) for _ in range(CLIENTS)]
        self.pages, self.files, self.old = Counter[str](), Counter[int](), Counter[int]()
        self.failed: list[str] = []

    def __enter__(self) -> Browsers:
        for thread in self._threads:
            thread.start()
        self.wait_for(20)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, pages: int, timeout_s: float = 60) -> None:
        goal, deadline = self.pages.total() + pages, time.monotonic() + timeout_s
        while self.pages.total() < goal:
            assert time.monotonic() < deadline, f"no load: {self}"
            time.sleep(0.01)

    def __str__(self) -> str:
        return (
            f"pages {dict(self.pages)}, files {dict(self.files)}, old files {dict(self.old)}, failed {self.failed[:5]}"
        )

    def _browse(self) -> None:
        first: dict[str, str] | None = None
        while not self._stop.is_set():
            try:
                now = page(self._stack)
                first = first or now
                responses = [self._fetch(now), self._fetch(first)]
            except (OSError, ValueError, http.client.HTTPException) as error:
                with self._lock:
                    self.failed.append(f"{type(error).__name__}: {error}")
                continue
            with self._lock:
                self.pages[now["version"]] += 1
                for counter, status in zip((self.files, self.old), responses, strict=True):
                    counter[status] += 1
            time.sleep(PAUSE_S)

    def _fetch(self, of: dict[str, str]) -> int:
        status, _, body = ask(self._stack, of["file"])
        if status != 200 or not body.startswith(f"/* {of['version']} */".encode()):
            with self._lock:
                self.failed.append(f"{of['file']} of {of['version']}: {status} {body[:30]!r}")
        return status


def test_a_file_is_served_with_its_headers_and_the_application_is_not_asked(shop: Stack) -> None:
    hashed = page(shop)["file"]
    assert HASHED.fullmatch(hashed)
    status, headers, body = ask(shop, hashed)
    assert (status, headers["cache_control"]) == (200, "public, max-age=31536000, immutable")
    assert headers["content_type"] == "text/css; charset=utf-8"
    assert headers["x_content_type_options"] == "nosniff"
    assert re.fullmatch("[0-9a-f]{32}", headers["x_request_id"])
    assert body.startswith(b"/* 1 */ body")
    status, headers, body = ask(shop, "/static/plain.css")
    assert (status, headers["cache_control"]) == (200, "public, max-age=77")
    # Again: by its tag, by its time, a part, packed, without its body.
    assert ask(shop, "/static/plain.css", If_None_Match=headers["etag"])[0] == 304
    assert ask(shop, "/static/plain.css", If_Modified_Since=headers["last_modified"])[0] == 304
    assert ask(shop, "/static/plain.css", Range="bytes=0-1")[::2] == (206, b"p ")
    packed = ask(shop, "/static/plain.css", Accept_Encoding="gzip")
    assert (packed[1]["content_encoding"], packed[1]["vary"]) == ("gzip", "Accept-Encoding")
    assert len(packed[2]) < len(body)
    head = ask(shop, "/static/plain.css", "HEAD")
    assert (head[0], head[1]["content_length"], head[2]) == (200, str(len(body)), b"")
    script = ask(shop, "/static/deep/umlaut.js")
    assert script[1]["content_type"] == "application/javascript; charset=utf-8"
    assert script[1]["cache_control"].endswith("immutable")
    assert script[2].decode() == 'const text = "Grüße";'
    assert asked_of_the_application(shop) == []


def test_what_is_no_file_of_the_release_is_not_found_by_the_balancer_itself(shop: Stack) -> None:
    for path in ("gone.css", "", "deep", "deep/", ".hidden", "a%00"):
        status, headers, _ = ask(shop, f"/static/{path}")
        assert status in (400, 404), path
        assert headers.get("cache_control", "no-store") == "no-store", path
    # Nginx refuses it; Apache takes it for a path of the application's.
    assert b"root:" not in ask(shop, "/static/..%2f..%2f..%2fetc/passwd")[2]
    assert ask(shop, "/static/plain.css", "POST")[0] == 405
    assert asked_of_the_application(shop) == []
    # Its path is only its own: without the slash it is the application's.
    assert ask(shop, "/static")[0] == 200


def test_maintenance_goes_before_files_and_nginx_has_nothing_to_warn_of(shop: Stack) -> None:
    site = "/usr/local/lib/wsgi-fleet/proxy_site.py"
    on(shop.balancer(), site, "maintenance", "on")
    try:
        assert ask(shop, "/static/plain.css")[::2] == (503, MAINTENANCE.encode())
        _, headers, body = ask(shop, "/static/plain.css", Accept="application/json")
        assert (headers["content_type"], json.loads(body)["status"]) == ("application/problem+json", 503)
    finally:
        on(shop.balancer(), site, "maintenance", "off")
    assert proxy_complaints(shop.balancer()) == ""


def test_the_application_cannot_write_its_code_after_the_build_did(shop: Stack) -> None:
    for machine in shop.servers().values():
        assert "Permission denied" in on(
            machine, "runuser", "-u", "app", "--", "touch", "/srv/app/live/code/out/x", check=False
        )
        assert (
            on(machine, "find", "/srv/app/live/code/", "!", "-user", "root", "-o", "-perm", "/022", "!", "-type", "l")
            == ""
        )


def test_every_page_finds_its_file_during_a_release_and_after_it_and_when_it_is_taken_back(shop: Stack) -> None:
    first, plain = page(shop), ask(shop, "/static/plain.css")[1]["etag"]
    with Browsers(shop) as seen:
        set_version(shop, "2")
        shop.up()
        seen.wait_for(100)
    assert seen.failed == [], seen
    assert seen.files == seen.old == {200: seen.pages.total()}, seen
    assert min(seen.pages["1"], seen.pages["2"]) > 20, seen
    second = page(shop)
    assert second["file"] != first["file"]
    assert ask(shop, "/static/plain.css")[1]["etag"] == plain
    # The control: without the release before, who has an old page open gets no file.
    balancer, live = shop.balancer(), static_status(shop)["live"]
    on(balancer, "rm", "/srv/static/probe/before")
    on(balancer, SCRIPT, "point", "probe", live)
    assert [ask(shop, each["file"])[0] for each in (first, second)] == [404, 200]

    with Browsers(shop) as back:
        went_back = shop.fleet("rollback", "--yes")
        assert went_back.returncode == 0, went_back.stdout + went_back.stderr
        back.wait_for(100)
    assert back.failed == [], back
    assert back.files == back.old == {200: back.pages.total()}, back
    assert page(shop)["version"] == "1"
    assert static_status(shop)["before"] == live
    assert asked_of_the_application(shop) == []
    print(f"release: {seen}\nrollback: {back}")


@pytest.mark.long
def test_a_build_that_fails_stops_the_release_with_its_words_and_nothing_of_it_is_served(shop: Stack) -> None:
    before = static_status(shop)
    set_version(shop, "broken")
    output = shop.up(fails=True)
    assert f"`{BUILD}` failed with exit code 1; its last lines:" in output
    assert "    cannot build version broken" in output
    assert static_status(shop) == before
    assert page(shop)["version"] == "1"
    set_version(shop, "1")


@pytest.mark.long
def test_a_balancer_that_takes_another_ones_place_serves_the_files_at_once(shop: Stack) -> None:
    file, old = page(shop)["file"], shop.balancer()
    # Goes together with what a release that failed before left: a rollout of version 1 is due.
    lxc("delete", "--force", old)
    shop.up("--refresh")
    assert shop.balancer() != old
    assert ask(shop, file)[0] == 200
    assert static_status(shop)["live"] is not None
    assert asked_of_the_application(shop) == []
