"""Static files in the site, read back by crossplane. Nginx itself serves them in tests/e2e/test_static.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import static_files

from rendering.upstream import Upstream
from settings import Balancer
from settings.static import Static
from tests.unit.nginx_reader import args, directives, find, location
from tests.unit.site_text import site_text

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


def test_without_static_files_a_site_says_nothing_of_them(tmp_path: Path) -> None:
    plain = site_text(Balancer(), [Upstream("my-shop", ["10.0.0.1"], 60, "/healthz")])
    assert "static" not in plain
    assert "$static_" not in plain
    both = json.dumps([find(directives(plain, tmp_path), "location"), args(site(tmp_path, {}), "location")])
    # That of error pages, in both; and that of files.
    assert both.count("^~") == 3


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


@pytest.mark.parametrize(
    "name",
    [
        "css/app.55e7cbb9ba48.css",  # Django
        "app.min.55e7cbb9ba48.js",
        "LICENSE.55e7cbb9ba48",
        "main.1f0e3dad.js",  # webpack, contenthash:8
        "787.1f0e3dad.chunk.js",
        "main.8e0d6e0b7d2a5f4c9b1a.js.map",
    ],
)
def test_a_name_with_a_hash_of_its_content_is_kept_for_a_year(tmp_path: Path, name: str) -> None:
    assert cache(site(tmp_path, {}), 200, f"/static/{name}") == YEAR


@pytest.mark.parametrize(
    "name",
    [
        "app.css",
        "report.20261125.pdf",
        "data.202611250300.json",
        "words.deadbeef.css",
        "name.1f0e3da.js",
        "jquery-3.7.1.min.js",
        "font-Version2.woff2",
        "1f0e3dad.js",
        "a.1f0e3dad.js/b.css",
        "a.1f0e3dad.b.c.js",
        "app.55E7CBB9BA48.css",
    ],
)
def test_a_name_that_only_looks_like_that_is_kept_for_a_short_time(tmp_path: Path, name: str) -> None:
    assert cache(site(tmp_path, {"max_age_s": 17}), 200, f"/static/{name}") == "public, max-age=17"


def test_all_in_a_folder_of_hashed_names_is_kept_for_a_year(tmp_path: Path) -> None:
    block = site(tmp_path, {"immutable_folders": ["assets", "a.b/c"]})
    for path, kept in (
        ("/static/assets/index-BkX3f2aQ.js", YEAR),
        ("/static/a.b/c/x.js", YEAR),
        ("/static/axb/c/x.js", "public, max-age=300"),
        ("/static/assets.js", "public, max-age=300"),
        ("/static/other/static/assets/x.js", "public, max-age=300"),
    ):
        assert cache(block, 200, path) == kept, path


def test_what_is_missing_is_not_kept_at_all(tmp_path: Path) -> None:
    block = site(tmp_path, {"immutable_folders": ["assets"]})
    for path in ("app.css", "app.55e7cbb9ba48.css", "assets/a.js"):
        assert cache(block, 404, f"/static/{path}") == "no-store"
    assert cache(block, 304, "/static/app.55e7cbb9ba48.css") == YEAR
