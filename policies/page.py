"""The tables of docs/security.md; what stands around them there is written by hand.

python -m policies.page writes those that the code knows, and the costs in docs/aws.md. `make security` measures a
fleet, and writes all of docs/security.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from policies import ACCEPTED, CONTROLS, cost
from policies.compliance import OPEN, OUR_CONTROLS
from policies.plan import from_program

PAGE = Path(__file__).resolve().parents[1] / "docs" / "security.md"
AWS_PAGE = PAGE.with_name("aws.md")
HEADS = {
    "units": ("machine", "unit", "exposure"),
    "ports": ("machine", "TCP port", "who reaches it"),
    "secrets": ("place", "what is there", "who reads it"),
    "attacks": ("what is sent", "proxy", "tried, and withstood"),
    "controls": ("id", "control", "what we do", "where", "test"),
    "accepted": ("id", "what", "why"),
}


def table(name: str, rows: Iterable[Sequence[str]]) -> str:
    """Return rows as Markdown, beneath the heads of that table."""
    head = HEADS[name]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


def render_tables() -> dict[str, str]:
    """Return the tables that need no machine."""
    controls = [
        (each.id, each.title, kept.what, ", ".join(f"`{file}`" for file in kept.where), f"`{kept.test}`")
        for each, kept in ((each, OUR_CONTROLS[each.id]) for each in CONTROLS)
    ]
    accepted = [(each.control, each.resource, each.reason) for each in (*ACCEPTED, *OPEN)]
    return {"controls": table("controls", controls), "accepted": table("accepted", accepted)}


def fill_tables(page: str, tables: Mapping[str, str]) -> str:
    """Put tables between their marks. Raises ValueError for one that the page has no place for."""
    for name, text in tables.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        if not end:
            raise ValueError(f"the page should have one line <!-- {name} -->, and <!-- end --> after its table")
        page = before + mark + text + end + after
    return page


def write(tables: Mapping[str, str], file: Path = PAGE) -> None:
    """Write these, and those that the code knows."""
    file.write_text(fill_tables(file.read_text(), {**tables, **render_tables()}))


def page_of_costs() -> str:
    """Return the text of docs/aws.md with the costs of the stack files as the code has them now."""
    table_of_costs = cost.markdown_table({stack: from_program(stack) for stack in ("dev", "staging", "prod")})
    return fill_tables(AWS_PAGE.read_text(), {"costs": table_of_costs})


if __name__ == "__main__":
    write({})
    AWS_PAGE.write_text(page_of_costs())
