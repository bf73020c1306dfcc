"""The Django example: built, migrated and served as its page (docs/django.md) says."""

from __future__ import annotations

import contextlib
import http.client
import re
import urllib.parse
from collections.abc import Callable

import pytest
import yaml

from harness.stack import ROOT, Stack, on
from tests.e2e.test_static import ask


def settings_of_the_page() -> dict[str, object]:
    """Return the application's block of the stack file that docs/django.md shows."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "django.md").read_text(), re.DOTALL)
    return yaml.safe_load(text)["config"]["wsgi-fleet:apps"]["hello"]


def log_in(stack: Stack, origin: str) -> tuple[int, str]:
    """Log in at the admin site as a browser does. Return the status and where it leads."""
    _, headers, body = ask(stack, "/admin/login/")
    (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', body.decode())
    form = {"csrfmiddlewaretoken": token, "username": "ann", "password": "opensesame", "next": "/admin/"}
    fields = {"Origin": origin, "Cookie": headers["set_cookie"].partition(";")[0]}
    fields["Content-Type"] = "application/x-www-form-urlencoded"
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", stack.settings["lxd"]["port"], timeout=30)) as made:
        made.request("POST", "/admin/login/", urllib.parse.urlencode(form), fields)
        with made.getresponse() as response:
            return response.status, response.headers["Location"] or ""


@pytest.mark.long
def test_the_django_example_serves_its_pages_and_the_balancer_their_files(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack("django", **settings_of_the_page())
    stack.up()
    status, _, body = ask(stack, "/", X_Forwarded_Proto="https")
    assert status == 200, body
    text = body.decode()
    assert "Hello, fleet" in text
    assert "by http; visit 1" in text
    (sheet,) = re.findall(r'href="(/static/hello/app\.[0-9a-f]{12}\.css)"', text)
    status, headers, _ = ask(stack, sheet)
    assert (status, headers["cache_control"]) == (200, "public, max-age=31536000, immutable")
    # Django's own pages as well: a form with its protection, and each file that it refers to.
    status, headers, body = ask(stack, "/admin/login/")
    assert (status, "csrftoken" in headers["set_cookie"]) == (200, True)
    files = re.findall(r'(?:href|src)="(/static/[^"]+)"', body.decode())
    assert len(files) > 3
    assert {file: ask(stack, file)[0] for file in files} == dict.fromkeys(files, 200)
    assert ask(stack, "/", Host="evil.example")[0] == 400
    make = (
        "read -r DJANGO_SUPERUSER_PASSWORD && export DJANGO_SUPERUSER_PASSWORD && "
        "python manage.py createsuperuser --noinput --username ann --email ann@example.org"
    )
    made = stack.fleet("exec", "--stdin", "--", "sh", "-c", make, stdin="opensesame\n")
    assert "Superuser created successfully" in made.stdout, made.stdout + made.stderr
    assert log_in(stack, stack.url) == (302, "/admin/")
    assert log_in(stack, "http://127.0.0.1") == (403, "")
    # As projects are set that ran behind another proxy.
    settings = stack.folder / "examples/django-hello/hello/settings.py"
    settings.write_text(settings.read_text() + "USE_X_FORWARDED_HOST = USE_X_FORWARDED_PORT = True\n")
    # A release keeps the database; `migrate` runs again and has nothing to do.
    (machine,) = stack.servers().values()
    (file,) = (stack.folder / "examples/django-hello").glob("production.toml")
    file.write_text('GREETING = "Good day"\n')
    stack.up()
    assert "Good day" in (again := ask(stack, "/")[2].decode())
    assert "visit 2" in again
    assert log_in(stack, stack.url) == (302, "/admin/")
    assert on(machine, "ls", "/var/lib/app").split() == ["hello.sqlite3"]
    # Without the key that it requires it stops before it could serve.
    del stack.app["generated_secrets"]
    assert "SECRET_KEY: required and not set" in stack.up(fails=True)
    assert "Good day" in ask(stack, "/")[2].decode()
