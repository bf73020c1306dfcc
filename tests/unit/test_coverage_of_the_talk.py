"""docs/coverage-of-the-talk.md says what shows that each thing the talk names works: by tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MENU = (ROOT / "docs" / "coverage-of-the-talk.md").read_text()


def test_the_menu_has_each_row_of_the_talk_once() -> None:
    assert re.findall(r"^\| (\d+) \|", MENU, re.MULTILINE) == [str(number) for number in range(1, 16)]


def test_every_test_that_the_menu_names_is_there() -> None:
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)", MENU))
    assert named
    assert named - there == set()
