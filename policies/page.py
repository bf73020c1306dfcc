"""The tables of docs/security.md; what stands around them there is written by hand.

python -m policies.page writes those that the code knows, and the costs in docs/aws.md and docs/scaling.md. `make
security` measures a fleet, and writes all of docs/security.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import program
from policies import ACCEPTED, CONTROLS, cost
from policies.compliance import OPEN, OUR_CONTROLS
from policies.control import Planned
from policies.plan import from_program

PAGE = Path(__file__).resolve().parents[1] / "docs" / "security.md"
AWS_PAGE, SCALING_PAGE = PAGE.with_name("aws.md"), PAGE.with_name("scaling.md")
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


def pages_of_costs() -> dict[Path, str]:
    """Return the pages that say what stacks cost, with the costs as the code has them now."""
    stacks = {stack: from_program(stack) for stack in ("dev", "staging", "prod")}
    scaling = {"one machine, 3 servers": stacks["prod"], **_scaled()}
    return {
        AWS_PAGE: fill_tables(AWS_PAGE.read_text(), {"costs": cost.markdown_table(stacks)}),
        SCALING_PAGE: fill_tables(SCALING_PAGE.read_text(), {"scaling": cost.markdown_table(scaling)}),
    }


def _scaled() -> dict[str, list[Planned]]:
    """Return the plans of prod as docs/scaling.md changes it, by what they are."""
    blocks = program.stack_file("prod")
    ((name, app),) = blocks["apps"].items()
    alb: dict[str, Any] = {
        "balancer": {
            "kind": "alb",
            "hostnames": ["shop.example.org"],
            "alb": {"request_certificate": True, "access_logs": {}},
        },
        "aws": {key: value for key, value in blocks["aws"].items() if key != "admin_cidrs"}
        | {"transport": "instance_connect_endpoint", "route53_zone_id": "Z0123456789ABC"},
    }

    def plan(fleet: Mapping[str, Any], **front: Any) -> list[Planned]:
        servers = {"local_proxy": True, "size": app["fleet"]["size"], **fleet}
        return from_program("prod", apps={name: {**app, "gateway": {"processes": 4}, "fleet": servers}}, **front)

    def group(least: int) -> dict[str, Any]:
        return {"capacity": {"min": least, "max": 8, "cpu_percent": 60}}

    return {
        "one machine, group at 2": plan(group(2)),
        "ALB, 3 servers": plan({"servers": 3}, **alb),
        "ALB, group at 2": plan(group(2), **alb),
        "ALB, group at 8": plan(group(8), **alb),
    }


if __name__ == "__main__":
    write({})
    for file, text in pages_of_costs().items():
        file.write_text(text)
