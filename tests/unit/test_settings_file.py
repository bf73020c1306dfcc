"""The settings file of an application: what may be in it, what its readers get of it, and names that must be set."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from releases.manifest import make_manifest
from rendering.settings_file import FORMATS
from settings.application import App
from settings.stack_file import parse
from tests.unit.source_archive import SOURCE
from tests.unit.stack_blocks import ROOT, app, config_of, of_app, smallest

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = st.booleans() | TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    value = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8)
    return st.dictionaries(st.from_regex(r"[A-Z_]{0,3}[A-Z][A-Z0-9_]{0,4}", fullmatch=True), value, max_size=4)


def settings_file(values: Mapping[str, Any], format_: str = "python") -> dict[str, Any]:
    return {"variable": "HELLO_SETTINGS_FILE", "format": format_, "values": values}


def write_settings_file(values: Mapping[str, Any], format_: str = "python") -> dict[str, str]:
    """Return a release's entry of the settings file, built from a stack file's text as Pulumi hands it over."""
    hello = app(settings_file=settings_file(values, format_))
    settings = parse(config_of(smallest({"apps": {"hello": hello}})), project=ROOT)
    return json.loads(make_manifest(settings.apps["hello"], SOURCE, key="", secrets={}))["settings_file"]


def flask_read(text: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "settings.py").write_text(text, "utf-8")
        config = flask.Config(folder)
        config.from_pyfile("settings.py")
        return dict(config)


READERS: dict[str, Callable[[str], Any]] = {"python": flask_read, "json": json.loads, "toml": tomllib.loads}


@pytest.mark.parametrize("format_", READERS)
@given(data=st.data())
def test_a_reader_gets_every_value_to_the_letter(format_: str, data: st.DataObject) -> None:
    values = data.draw(trees(LEAVES if format_ == "toml" else LEAVES | st.none()))
    read_back = READERS[format_](FORMATS[format_][1](values))
    # Of the same types as well: True is not 1, and 1.0 is not 1. TOML and JSON do not keep the order of keys.
    assert list(read_back) == sorted(values)
    assert json.dumps(read_back, sort_keys=True) == json.dumps(values, sort_keys=True)


@pytest.mark.parametrize("format_", READERS)
def test_a_value_goes_from_the_stack_file_into_the_release_to_the_letter(format_: str) -> None:
    values: dict[str, Any] = {
        "WHOLE": [2**63 - 1, -(2**63)],
        "LINES": "\"'$`\r\nA = 1\n",
        "DEEP": [1, {"k\n\"'": [True]}],
    }
    made = write_settings_file(values, format_)
    assert (made["name"], made["variable"]) == (FORMATS[format_][0], "HELLO_SETTINGS_FILE")
    assert READERS[format_](made["text"]) == values


def test_the_order_in_a_stack_file_makes_no_other_release() -> None:
    assert write_settings_file({"A": 1, "B": 2}) == write_settings_file({"B": 2, "A": 1})
    assert write_settings_file({"A": 1}) != write_settings_file({"A": 2}) != write_settings_file({"A": True})


def test_a_release_without_a_settings_file_says_nothing_of_one() -> None:
    manifest = make_manifest(App.model_validate_json(json.dumps(app())), SOURCE, key="", secrets={})
    assert "settings_file" not in json.loads(manifest)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (settings_file({"A B": 1}), 'settings_file.values["A B"]: "A B": should be'),
        (settings_file({"A\nB": 1}), 'settings_file.values["A\\nB"]: "A\\nB": should be'),
        (settings_file({"A = 1 #": 1}, "toml"), 'settings_file.values["A = 1 #"]: "A = 1 #": should be'),
        (settings_file({"a": 1}), "settings_file.values.a: is in small letters, which Flask and Django do not read"),
        (settings_file({"a": float("inf")}), "settings_file.values.a: inf: is no finite number"),
        (settings_file({"A": float("nan")}), "settings_file.values.A: nan: is no finite number"),
        (settings_file({"A": [1, {"b": 1e999}]}), "settings_file.values.A.1.b: inf: is no finite number"),
        (settings_file({"A": {"x y": None}}, "toml"), 'settings_file.values.A."x y": null: TOML has none'),
        (settings_file({"A": 2**63}), "settings_file.values.A: 9223372036854775808: has more than 64 bits"),
        (settings_file({}, "ini"), 'settings_file.format: "ini": should be "python", "json" or "toml"'),
        ({"variable": "A"}, "settings_file.values: missing"),
        (settings_file({}) | {"variable": "A=B"}, 'settings_file.variable: "A=B": should be'),
        (settings_file({}) | {"variable": "WSGI_FLEET_RELEASE"}, "variable: WSGI_FLEET_RELEASE: is set by the product"),
        (settings_file({}) | {"variable": "SET_ALREADY"}, "variable: SET_ALREADY: is set by environment as well; give"),
    ],
)  # fmt: skip
def test_what_a_file_cannot_say_is_refused_with_its_path(wrong: dict[str, Any], message: str) -> None:
    assert message in "\n".join(of_app(settings_file=wrong, environment={"SET_ALREADY": ""}))


def test_values_are_as_deep_as_readers_take() -> None:
    def nested(levels: int) -> Any:
        return {"A": nested(levels - 1)} if levels > 1 else 1

    compile(write_settings_file({"A": nested(40)})["text"], "settings.py", "exec")
    (message,) = of_app(settings_file=settings_file({"A": nested(41)}))
    assert message.endswith(": is more than 40 levels deep; write it with fewer")


def test_a_required_name_may_be_set_at_any_place() -> None:
    given = {"environment": {"A": ""}, "secrets": {"B": "x"}, "generated_secrets": ["C"]}
    required = ["A", "B", "C", "D", "HELLO_SETTINGS_FILE", "WSGI_FLEET_SERVER"]
    assert of_app(**given, settings_file=settings_file({"D": None}), required=required) == []


def test_required_names_that_are_set_nowhere_are_told_at_once_with_the_remedy() -> None:
    remedy = "set it in environment, settings_file.values or generated_secrets, or by `pulumi config set --secret"
    assert of_app(required=["SHOP_KEY", "FOUND", "OTHER"], environment={"FOUND": "1"}) == [
        f"required: {name}: is set nowhere; {remedy} --path wsgi-fleet:apps.hello.secrets.{name}`"
        for name in ("SHOP_KEY", "OTHER")
    ]
