"""Tables of docs/ that are made from the code are as the code is."""

from __future__ import annotations

import re

import pytest

from harness.program import ROOT
from harness.tables import TABLES, page_with_table


@pytest.mark.parametrize("page", TABLES)
def test_a_table_of_a_page_is_the_one_of_the_code(page: str) -> None:
    assert (ROOT / page).read_text() == page_with_table(page), "run `make tables`"


def test_each_file_that_a_recipe_names_is_there() -> None:
    named = re.findall(r"`((?:\w+/)+[\w.-]+)`", (ROOT / "docs" / "extending.md").read_text().split("## How files")[0])
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_stacks_of_the_table_use_every_file_but_those_of_upstart_and_grafana() -> None:
    unused = re.findall(r"^\| `(.+?)` \| nothing \|", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE)
    for_no_machine = ["templates/prometheus/dashboard.yml", "templates/upstart/app.conf.j2"]
    assert unused == for_no_machine, "let harness/delivery.py set what brings the file"
