"""Applications that nobody here wrote: installed by their own requirement line, asked something real, and released.

`make test-apps` runs all and writes docs/applications-tried.md; `make test` runs two.
"""

from __future__ import annotations

import base64
import http.cookiejar
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from email.message import Message
from typing import Any

import pytest
import yaml

from harness.stack import ROOT, Stack, eventually
from tests.e2e.steady import Steady

FOLDER = "examples/applications"
EVENT = (
    "BEGIN:VCALENDAR VERSION:2.0 PRODID:x BEGIN:VEVENT UID:1 DTSTAMP:{0} DTSTART:{0} SUMMARY:Tea END:VEVENT "
    "END:VCALENDAR "
)
NEW_USER = "python manage.py createsuperuser --noinput --username ann --email ann@example.org"
SUPERUSER = f"DJANGO_SUPERUSER_PASSWORD=$SECRET_KEY {NEW_USER}"


class Site:
    """A client with cookies, as a browser is."""

    def __init__(self, url: str) -> None:
        self.url, self.cookies = url, http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Message, bytes]:
        """Return status, headers and body; redirects are followed. headers: X_Name is X-Name."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, body, named, method=method)
        try:
            with self._opener.open(request, timeout=30) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def get(self, path: str) -> bytes:
        status, _, body = self.ask(path)
        assert status == 200, body[-2000:]
        return body

    def log_in(self, path: str, password: str) -> bytes:
        """Send Django's form of a log-in as a browser does, with its origin, and return the page that follows."""
        (token,) = re.findall(rb'name="csrfmiddlewaretoken" value="(\w+)"', self.get(path))[:1]
        fields = {"csrfmiddlewaretoken": token.decode(), "username": "ann", "password": password, "next": path}
        form = urllib.parse.urlencode(fields).encode()
        status, _, body = self.ask(path, "POST", form, Origin=self.url, Referer=self.url + path)
        assert status == 200, body[-2000:]
        return body


def httpbin(site: Site, _stack: Stack) -> None:
    def chunks() -> Any:
        yield b"first,"
        yield b"second"

    # urllib sends chunks where it does not know the length.
    assert json.loads(site.ask("/post", "POST", chunks(), Content_Type="text/plain")[2])["data"] == "first,second"
    status, headers, body = site.ask("/range/1024", Range="bytes=10-19")
    assert (status, headers["Content-Range"], body) == (206, "bytes 10-19/1024", b"klmnopqrst")
    assert len(site.get("/stream/5").splitlines()) == 5
    assert json.loads(site.get("/cookies/set?taste=sweet"))["cookies"] == {"taste": "sweet"}
    assert json.loads(site.get("/get?a=b"))["url"] == f"{site.url}/get?a=b"
    assert site.ask("/gzip", Accept_Encoding="gzip")[1]["Content-Encoding"] == "gzip"
    assert site.ask("/status/418")[0] == 418
    assert site.ask("/anything", "DELETE")[0] == 200


def log_in(site: Site, stack: Stack) -> bytes:
    """Make a user with the application's own secret as password, and return the page that follows a log-in."""
    made = stack.fleet("exec", "--", "sh", "-c", SUPERUSER)
    # After the second release it is there.
    assert "created successfully" in made.stdout or "already taken" in made.stdout + made.stderr, made
    return site.log_in("/admin/login/?next=/admin/", stack.fleet("exec", "--", "printenv", "SECRET_KEY").stdout.strip())


def django(site: Site, stack: Stack) -> None:
    page = log_in(site, stack)
    assert b"Site administration" in page
    for sheet in re.findall(rb'href="(/static/[^"]+\.css)"', page):
        assert site.get(sheet.decode())


def wagtail(site: Site, stack: Stack) -> None:
    assert b"Welcome to your new Wagtail site" in site.get("/")
    page = log_in(site, stack)
    assert b"Dashboard" in page
    assert b"<title" in site.get("/admin/pages/")


def kinto(site: Site, _stack: Stack) -> None:
    assert json.loads(site.get("/v1/"))["project_name"] == "kinto"
    name, json_ = uuid.uuid4().hex, {"Content_Type": "application/json"}
    assert site.ask(f"/v1/accounts/{name}", "PUT", b'{"data": {"password": "secret"}}', **json_)[0] == 201
    by = {"Authorization": "Basic " + base64.b64encode(f"{name}:secret".encode()).decode(), **json_}
    path = "/v1/buckets/default/collections/tasks/records/2f8b5a6e-8f3c-4d2a-9c1b-0a1b2c3d4e5f"
    status, headers, body = site.ask(path, "PUT", b'{"data": {"title": "buy"}}', **by)
    assert status == 201, body
    assert site.ask(path, "PUT", b'{"data": {}}', If_None_Match="*", **by)[0] == 412
    assert site.ask(path, "PATCH", b'{"data": {"done": true}}', If_Match=headers["ETag"], **by)[0] == 200


def isso(site: Site, _stack: Stack) -> None:
    comment = json.dumps({"text": "*Well* said", "author": "Ann", "title": "A page"}).encode()
    status, _, body = site.ask("/new?uri=%2Fpage%2F", "POST", comment, Content_Type="application/json", Origin=site.url)
    assert status == 201, body
    assert b"<em>Well</em>" in site.get("/?uri=%2Fpage%2F")


def pypiserver(site: Site, _stack: Stack) -> None:
    assert b"pypiserver" in site.get("/")
    assert b"Simple Index" in site.get("/simple/")


def radicale(site: Site, _stack: Stack) -> None:
    by = {"Authorization": "Basic YW5uOnNlY3JldA=="}
    event = EVENT.format("20260101T000000Z").replace(" ", "\r\n").encode()
    calendar = f"/ann/{uuid.uuid4()}/"
    assert site.ask(calendar, "MKCALENDAR", **by)[0] == 201
    assert site.ask(f"{calendar}1.ics", "PUT", event, Content_Type="text/calendar", **by)[0] == 201
    status, _, body = site.ask(calendar, "PROPFIND", b"", Depth="1", **by)
    assert (status, f"{calendar}1.ics".encode() in body) == (207, True), body


def falcon(site: Site, _stack: Stack) -> None:
    body = bytes(range(256)) * 4096
    assert json.loads(site.ask("/echo", "POST", body, Content_Type="application/octet-stream")[2]) == {
        "bytes": len(body)
    }
    assert site.ask("/echo", "PROPPATCH")[0] == 405


def socketio(site: Site, _stack: Stack) -> None:
    opened = json.loads(site.get("/socket.io/?EIO=4&transport=polling")[1:])
    path = f"/socket.io/?EIO=4&transport=polling&sid={opened['sid']}"
    assert site.ask(path, "POST", b"40")[2] == b"OK"
    assert site.get(path).startswith(b"40")
    assert site.ask(path, "POST", b'42["say","hello"]')[2] == b"OK"
    # Meanwhile it is a long poll, until there is something to say.
    assert b'42["said","hello"]' in site.get(path)


def celery(site: Site, _stack: Stack) -> None:
    task = site.ask("/add?a=2&b=3", "POST", b"")[2].decode()
    eventually(lambda: site.get(f"/result/{task}") == b"5", timeout_s=30, message="the worker's answer")


# What is asked of each, and a path that a load asks.
APPLICATIONS: dict[str, tuple[Callable[[Site, Stack], None], str]] = {
    "httpbin": (httpbin, "/get"),
    "django": (django, "/admin/login/"),
    "wagtail": (wagtail, "/admin/login/"),
    "kinto": (kinto, "/v1/"),
    "isso": (isso, "/info"),
    "pypiserver": (pypiserver, "/simple/"),
    "radicale": (radicale, "/.web/"),
    "falcon": (falcon, "/echo"),
    "flask-socketio": (socketio, "/"),
    "celery": (celery, "/"),
}
IN_MAKE_TEST = ("django",)


@pytest.mark.parametrize(
    "name", [name if name in IN_MAKE_TEST else pytest.param(name, marks=pytest.mark.long) for name in APPLICATIONS]
)
def test_an_application_is_served_and_released_with_a_stack_file_alone(
    make_stack: Callable[..., Stack], applications: Callable[..., None], name: str
) -> None:
    ask, quick = APPLICATIONS[name]
    text = (ROOT / FOLDER / name / "stack.yaml").read_text()
    settings: dict[str, Any] = yaml.safe_load(text)
    stack = make_stack(name, **settings)
    start_s = time.monotonic()
    stack.up()
    serving_s = time.monotonic() - start_s
    ask(Site(stack.url), stack)
    with Steady(stack.url, 20, [("GET", quick)], "") as load:
        stack.app.setdefault("environment", {})["RELEASED"] = "again"
        stack.up()
    assert (load.seen.failed, load.seen.sent > 40) == ([], True), load.seen
    ask(Site(stack.url), stack)
    more = ", ".join(f"`{key}`" for key in settings if key not in {"source", "module", "health_path", "fleet"})
    about, *why = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    row = (about, more or "none", " ".join(why), f"{serving_s:.0f}", load.seen.sent)
    applications(f"[{name}](../{FOLDER}/{name})", *row)
