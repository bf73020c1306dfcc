"""What a stack file may say of static files, and the site that serves them, read back by crossplane."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import static_files
import yaml

from releases.manifest import make_manifest
from rendering.upstream import Upstream
from settings.application import App
from settings.balancer import Balancer
from settings.static import Static
from tests.unit.nginx_reader import args, directives, find, location
from tests.unit.site_text import site_text
from tests.unit.source_archive import SOURCE
from tests.unit.stack_blocks import ROOT, app, of_app

ATTACKS = ["/", "static/", "/static", "//", "/a//", "/../", "/a/../b/", "/.git/", "/a b/", "/a;}/", "/$uri/", "/a\n/"]


def test_a_url_path_is_a_folder_of_the_site() -> None:
    for path in ("/assets/", "/a/b.c/", "/static-1/~x/"):
        assert of_app(static={"folder": "hello", "url_path": path}) == []
    for path in ATTACKS:
        (line,) = of_app(static={"folder": "hello", "url_path": path})
        assert line.startswith(f"static.url_path: {json.dumps(path)}: should be a path between two slashes")


@pytest.mark.parametrize("folder", ["", "/etc", "../other", "a/../../b", ".git", "a/.b", "a b", "a\n", "$x", "a;b"])
def test_a_folder_stays_in_the_source_and_says_nothing_to_nginx(folder: str) -> None:
    lines = of_app(static={"folder": "hello", "immutable_folders": [folder]}) + of_app(
        static={"folder": folder}, build="true"
    )
    assert [line.split(": ")[0] for line in lines] == ["static.immutable_folders.0", "static.folder"]


def test_a_folder_that_nothing_makes_must_be_there() -> None:
    (line,) = of_app(static={"folder": "public"})
    assert line == (
        'static.folder: "public": no such folder in examples/flask-hello; make one, or name the command '
        "that does as apps.hello.build"
    )
    assert of_app(static={"folder": "public"}, build="make public") == []


def test_the_health_path_is_none_that_the_balancer_answers() -> None:
    (line,) = of_app(static={"folder": "hello", "url_path": "/assets/"}, health_path="/assets/ok")
    assert "health_path: /assets/ok: should be outside of static.url_path (/assets/)" in line
    assert of_app(static={"folder": "hello", "url_path": "/assets/"}, health_path="/assets") == []


def manifest(**changes: Any) -> dict[str, Any]:
    return json.loads(make_manifest(App.model_validate_json(json.dumps(app(**changes))), SOURCE, key="k", secrets={}))


def test_folder_and_path_are_part_of_the_release_and_ages_are_not() -> None:
    plain = manifest()
    assert {"static", "build"}.isdisjoint(plain)
    static = manifest(static={"folder": "public"}, build="make public")
    assert static == plain | {"static": {"folder": "public", "url_path": "/static/"}, "build": "make public"}
    assert static == manifest(
        static={"folder": "public", "max_age_s": 9, "immutable_folders": ["a"]}, build="make public"
    )


@pytest.mark.parametrize("page", ["static", "django"])
def test_the_stack_files_that_the_pages_show_are_taken(page: str) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    (hello,) = yaml.safe_load(text)["config"]["wsgi-fleet:apps"].values()
    assert of_app(**hello) == []


YEAR = "public, max-age=31536000, immutable"


def site(folder: Path, static: dict[str, Any], **balancer: Any) -> list[dict[str, Any]]:
    given = Static.model_validate_json(json.dumps({"folder": "public"} | static))
    app = Upstream("my-shop", ["10.0.0.1"], 60, "/healthz", static=given)
    return directives(site_text(Balancer.model_validate_json(json.dumps(balancer)), [app]), folder)


def cache(block: list[dict[str, Any]], status: int, path: str) -> str:
    """Return the Cache-Control of a response, as Nginx's map gives it: the first pattern that matches."""
    (found,) = [each["block"] for each in find(block, "map") if each["args"] == ["$status:$uri", "$static_my_shop"]]
    for each in found:
        pattern = each["directive"]
        if pattern.startswith("~") and re.search(pattern.removeprefix("~"), f"{status}:{path}"):
            return each["args"][0]
    return next(each["args"][0] for each in found if each["directive"] == "default")


def test_without_static_files_a_site_says_nothing_of_them() -> None:
    assert "static" not in site_text(Balancer(), [Upstream("my-shop", ["10.0.0.1"], 60, "/healthz")])


def test_files_are_looked_for_where_they_are_kept_and_nobody_else_is_asked(tmp_path: Path) -> None:
    block = location(site(tmp_path, {"url_path": "/a/b/"}), "^~", "/a/b/")
    assert args(block, "root") == [[f"{static_files.ROOT}/my-shop/served"]]
    assert args(block, "try_files") == [["$uri", "=404"]]
    assert {"uwsgi_pass", "autoindex", "alias"}.isdisjoint(each["directive"] for each in block)


@pytest.mark.parametrize("tls", [None, {"self_signed": True}])
def test_every_answer_has_the_headers_that_the_applications_have(tmp_path: Path, tls: Any) -> None:
    headers = args(location(site(tmp_path, {}, tls=tls), "^~", "/static/"), "add_header")
    assert all(header[-1] == "always" for header in headers)
    names = [header[0] for header in headers]
    assert ["Strict-Transport-Security"] * bool(tls) == names[3:]
    assert names[:3] == ["Cache-Control", "X-Content-Type-Options", "X-Request-ID"]


# Of Django and of webpack (contenthash:8), as they name what they make.
HASHED = [
    "css/app.55e7cbb9ba48.css", "app.min.55e7cbb9ba48.js", "LICENSE.55e7cbb9ba48", "main.1f0e3dad.js",
    "787.1f0e3dad.chunk.js", "main.8e0d6e0b7d2a5f4c9b1a.js.map",
]  # fmt: skip
LOOKS_HASHED = [
    "app.css", "report.20261125.pdf", "data.202611250300.json", "words.deadbeef.css", "name.1f0e3da.js",
    "jquery-3.7.1.min.js", "font-Version2.woff2", "1f0e3dad.js", "a.1f0e3dad.js/b.css", "a.1f0e3dad.b.c.js",
    "app.55E7CBB9BA48.css",
]  # fmt: skip


def test_what_changes_its_name_with_its_content_is_kept_for_a_year_and_nothing_else(tmp_path: Path) -> None:
    block = site(tmp_path, {"max_age_s": 17, "immutable_folders": ["assets", "a.b/c"]})
    for path in (*HASHED, "assets/index-BkX3f2aQ.js", "a.b/c/x.js"):
        assert cache(block, 200, f"/static/{path}") == cache(block, 304, f"/static/{path}") == YEAR, path
        assert cache(block, 404, f"/static/{path}") == "no-store", path
    for path in (*LOOKS_HASHED, "axb/c/x.js", "assets.js", "other/static/assets/x.js"):
        assert cache(block, 200, f"/static/{path}") == "public, max-age=17", path
        assert cache(block, 404, f"/static/{path}") == "no-store", path
