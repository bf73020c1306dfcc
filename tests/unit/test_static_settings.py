"""What a stack file may say of static files: paths that are plain ones, and a folder that is there or is made."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from releases.release import make_manifest
from settings import App
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
    return json.loads(make_manifest(App.model_validate_json(json.dumps(app(**changes))), "", key="k", secrets={}))


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
