"""Unquoted text in a stack file is read as Pulumi reads it, or rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from settings.stack_file import SettingsError, load_config, read
from settings.yaml_file import YamlError, load
from tests.unit.stack_blocks import ROOT

# Unquoted text -> what `pulumi config --json` 3.250.0 prints of it; 7,000 random ones were compared in the same way.
PULUMI: dict[str, Any] = {
    **{
        text: text
        for text in (
            "NO", "no", "Yes", "yes", "on", "On", "off", "y", "N", "nan", "inf", "12:30", "-1:30", "190:20:30",
            "1:30.5", "_1", "0o8", "0b12", "0x", "1.2.3", ".1.2", "1,000", "=", "<<", "v1", "1e", "e1", "2024-1", "++1",
        )
    },
    "": None, "~": None, "null": None, "true": True, "false": False, "0": 0, "-7": -7, "9223372036854775807": 2**63 - 1,
    "0.5": 0.5, "1e-07": 1e-07, "1e+21": 1e21,
}  # fmt: skip
# Unquoted text that Pulumi reads as something else, or cannot read.
REJECTED = [
    "012", "08", "-012", "0o14", "0O14", "0_7", "1_000", "1_", "0x1F", "-0x1F", "0b101", "-0b11", "+12", "+_1", "-0",
    "00", "1e3", "1E3", "1e+3", "1.0", "1.10", "3.10", "5.", ".5", "+.5", ".5_0", "1.e3", "-0.0", "9223372036854775808",
    "1e400", "18446744073709551616", ".inf", "-.Inf", "+.INF", ".nan", ".NaN", "True", "FALSE", "Null", "NULL",
    "2024-01-02", "2024-1-2", "2024-01-02T03:04:05Z", "2024-01-02 03:04:05",
]  # fmt: skip


@pytest.mark.parametrize("text", PULUMI)
def test_unquoted_text_is_read_as_pulumi_reads_it(text: str) -> None:
    (found,) = load(f"- {text}\n")
    assert json.dumps(found) == json.dumps(PULUMI[text])
    if PULUMI[text] is not None and text != "<<":
        assert load(f"{text}: 1\n") == {text: 1}


@pytest.mark.parametrize("text", REJECTED)
def test_unquoted_text_that_pulumi_rewrites_is_rejected_with_line_and_remedy(text: str) -> None:
    for document in (f"a:\n  - {text}\n", f"a:\n  {text}: x\n"):
        with pytest.raises(YamlError, match=r"line 2, column \d: .*; quote it"):
            load(document)
    for quoted in (f'- "{text}"\n', f"- '{text}'\n", f"- !!str {text}\n", f"- |-\n  {text}\n"):
        assert load(quoted) == [text]


def test_words_of_yaml_1_1_are_names_of_variables_and_values(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    hello = "{source: examples/flask-hello, module: 'hello.wsgi:app', environment: &more {M: '1'}}"
    shop = hello.replace("&more {M: '1'}", '{NO: "1", on: yes, yes: no, y: 12:30, <<: *more}, path: /s')
    file.write_text(f"config:\n  platform: lxd\n  wsgi-fleet:config:apps:\n    hello: {hello}\n    shop: {shop}\n")
    settings = read(file, project=ROOT)
    assert settings.platform == "lxd"
    assert settings.apps["shop"].environment == {"NO": "1", "on": "yes", "yes": "no", "y": "12:30", "M": "1"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "config:\n  platform: lxd\n  wsgi-fleet:platform: aws\n",
            "wsgi-fleet:platform: is set under two names; keep one of them",
        ),
        (
            "config:\n  wsgi-flet:os: debian-12\n  aws:region: eu-west-1\n",
            "wsgi-flet:os: is of another namespace, and not read; did you mean wsgi-fleet?",
        ),
        ("confg:\n  wsgi-fleet:platform: lxd\n", "confg: is nothing that Pulumi reads; did you mean config?"),
    ],
)
def test_a_key_that_would_not_be_read_is_rejected(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_config(file)
    assert error.value.problems == [problem]
