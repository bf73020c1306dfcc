"""The settings file of an application: what may be in it, what its readers get of it, and names that must be set."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from releases.release import make_manifest
from rendering.settings_file import FORMATS
from settings import App
from settings.stack_file import parse, read
from tests.unit.stack_blocks import ROOT, config_of
from tests.unit.test_stack_file import app, of_app, problems

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for settings with values of these kinds, in lists and mappings of any depth."""
    value = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8)
    return st.dictionaries(st.from_regex(r"[A-Z_]{0,3}[A-Z][A-Z0-9_]{0,4}", fullmatch=True), value, max_size=4)


WITHOUT_NULL = trees(TEXT | NUMBERS | st.booleans())
ANY = trees(TEXT | NUMBERS | st.booleans() | st.none())


def settings_file(values: Mapping[str, Any], format_: str = "python") -> dict[str, Any]:
    return {"variable": "HELLO_SETTINGS_FILE", "format": format_, "values": values}


def written(values: Mapping[str, Any], format_: str = "python") -> dict[str, str]:
    """Return a release's entry of the settings file, built from a stack file's text as Pulumi hands it over."""
    hello = app(settings_file=settings_file(values, format_))
    settings = parse(config_of({"platform": "lxd", "apps": {"hello": hello}}), project=ROOT)
    return json.loads(make_manifest(settings.apps["hello"], "", key="", secrets={}))["settings_file"]


def same(read_back: Any, values: Any) -> None:
    """Check that values are equal, and of the same types: True is not 1, and 1.0 is not 1."""
    assert repr(read_back) == repr(values)


@given(ANY)
def test_flask_reads_every_value_to_the_letter(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    name, write = FORMATS["python"]
    file = tmp_path_factory.getbasetemp() / name
    file.write_text(write(values), "utf-8")
    config = flask.Config(str(file.parent))
    config.from_pyfile(name)
    same(dict(config), dict(sorted(values.items())))


@given(ANY)
def test_json_holds_every_value_to_the_letter(values: dict[str, Any]) -> None:
    read_back = json.loads(FORMATS["json"][1](values))
    assert json.dumps(read_back, sort_keys=True) == json.dumps(values, sort_keys=True)


@given(WITHOUT_NULL)
def test_toml_holds_every_value_to_the_letter(values: dict[str, Any]) -> None:
    same(tomllib.loads(FORMATS["toml"][1](values)), dict(sorted(values.items())))


NASTY: dict[str, Any] = {
    "QUOTES": "a\"b'c`d$e\\f",
    "CODE": '"""\n__import__("os").abort()\n#',
    "LINES": "first\r\nSECOND = 1\n[section]\n",
    "UNICODE": "Grüße ☃ \u2028 \ufeff \x7f \x00",
    "YES": True,
    "WHOLE": [2**63 - 1, -(2**63)],
    "HALF": -0.5,
    "LIST": [1, "a", [], {"k\n\"'": {"x = 1": False}}],
}


@pytest.mark.parametrize("format_", ["python", "json", "toml"])
def test_a_value_goes_from_the_stack_file_into_the_release_to_the_letter(format_: str, tmp_path: Path) -> None:
    made = written(NASTY, format_)
    assert (made["name"].partition(".")[0], made["variable"]) == ("settings", "HELLO_SETTINGS_FILE")
    (tmp_path / made["name"]).write_text(made["text"], "utf-8")
    config = flask.Config(str(tmp_path))
    if format_ == "python":
        config.from_pyfile(made["name"])
    else:
        load, mode = (json.load, "r") if format_ == "json" else (tomllib.load, "rb")
        config.from_file(made["name"], load=load, text=mode == "r")
    assert dict(config) == NASTY


def test_the_order_in_a_stack_file_makes_no_other_release() -> None:
    assert written({"A": 1, "B": 2}) == written({"B": 2, "A": 1})
    assert written({"A": 1}) != written({"A": 2}) != written({"A": True})


def test_a_release_without_a_settings_file_says_nothing_of_one() -> None:
    manifest = make_manifest(App.model_validate_json(json.dumps(app())), "", key="", secrets={})
    assert "settings_file" not in json.loads(manifest)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (settings_file({"A B": 1}), 'settings_file.values["A B"]: "A B": should be'),
        (settings_file({"A\nB": 1}), 'settings_file.values["A\\nB"]: "A\\nB": should be'),
        (settings_file({"A = 1 #": 1}, "toml"), 'settings_file.values["A = 1 #"]: "A = 1 #": should be'),
        (settings_file({"a": 1}), "settings_file.values.a: is in small letters, which Flask and Django do not read"),
        (settings_file({"A": float("nan")}), "settings_file.values.A: nan: is no finite number"),
        (settings_file({"A": [1, {"b": 1e999}]}), "settings_file.values.A.1.b: inf: is no finite number"),
        (settings_file({"A": {"x y": None}}, "toml"), 'settings_file.values.A."x y": null: TOML has none'),
        (settings_file({"A": 2**63}), "settings_file.values.A: 9223372036854775808: has more than 64 bits"),
        (settings_file({}, "ini"), 'settings_file.format: "ini": should be "python", "json" or "toml"'),
        ({"variable": "A"}, "settings_file.values: missing"),
        (settings_file({}) | {"variable": "A=B"}, 'settings_file.variable: "A=B": should be'),
        (settings_file({}) | {"variable": "WSGI_FLEET_RELEASE"}, "variable: WSGI_FLEET_RELEASE: is set by the product"),
    ],
)  # fmt: skip
def test_what_a_file_cannot_say_is_refused_with_its_path(wrong: dict[str, Any], told: str) -> None:
    assert told in of_app(settings_file=wrong)[0]


def test_every_value_that_cannot_be_is_told_at_once() -> None:
    told = of_app(settings_file=settings_file({"a": float("inf"), "b": 1}))
    assert [line.partition(":")[0].removeprefix("settings_file.") for line in told] == [
        "values.a",
        "values.a",
        "values.b",
    ]


def test_values_are_as_deep_as_readers_take() -> None:
    def nested(levels: int) -> Any:
        return {"A": nested(levels - 1)} if levels > 1 else 1

    compile(written({"A": nested(40)})["text"], "settings.py", "exec")
    (told,) = of_app(settings_file=settings_file({"A": nested(41)}))
    assert told.endswith(": is more than 40 levels deep; write it with fewer")


def test_a_file_named_by_a_variable_that_is_set_already_is_refused() -> None:
    (told,) = of_app(settings_file=settings_file({}), environment={"HELLO_SETTINGS_FILE": "other.cfg"})
    assert told.endswith("variable: HELLO_SETTINGS_FILE: is set by environment as well; give each variable once")


def test_an_encrypted_value_is_refused_where_the_stack_file_is_read(tmp_path: Path) -> None:
    stack = tmp_path / "Pulumi.x.yaml"
    secret = {"A": [{"secure": "v1:abc"}]}
    blocks = {"platform": "lxd", "apps": {"hello": app(settings_file=settings_file(secret))}}
    stack.write_text(json.dumps({"config": {f"wsgi-fleet:{name}": value for name, value in blocks.items()}}))
    with pytest.raises(
        Exception, match=r"values\.A\.0: \(secret\): is encrypted,\s+and .* set it in `apps\.hello\.secrets`"
    ):
        read(stack, project=ROOT)


def test_a_required_name_may_be_set_at_any_place() -> None:
    given = {
        "environment": {"A": ""},
        "secrets": {"B": "x"},
        "generated_secrets": ["C"],
        "settings_file": settings_file({"D": None}),
        "required": ["A", "B", "C", "D", "HELLO_SETTINGS_FILE", "WSGI_FLEET_SERVER"],
    }
    parse(config_of({"platform": "lxd", "apps": {"hello": app(**given)}}), project=ROOT)


def test_required_names_that_are_set_nowhere_are_told_at_once_with_the_remedy() -> None:
    remedy = "set it in environment, settings_file.values or generated_secrets, or by `pulumi config set --secret"
    found = problems(
        apps={
            "a": app(required=["SHOP_KEY", "FOUND"], environment={"FOUND": "1"}, hosts=["a.example.org"]),
            "b": app(required=["FOUND"], hosts=["b.example.org"]),
        },
        balancer={"hostnames": ["other.example.org"]},
    )
    assert found == [
        "balancer.hostnames: other.example.org: no application serves it; give one that host, or one no hosts",
        f"apps.a.required: SHOP_KEY: is set nowhere; {remedy} --path wsgi-fleet:apps.a.secrets.SHOP_KEY`",
        f"apps.b.required: FOUND: is set nowhere; {remedy} --path wsgi-fleet:apps.b.secrets.FOUND`",
    ]


def test_a_required_name_that_is_no_name_is_refused() -> None:
    assert of_app(required=["A B"])[0].startswith(
        'required.0: "A B": should be a name of letters, digits and _ that begins with no digit, such as LOG_LEVEL'
    )
