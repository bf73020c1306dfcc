"""Write the tables of docs/ that are made from the code: `python -m harness.tables`, or `make tables`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping

import gateways
from harness import delivery
from harness.program import ROOT
from rendering import apache_differences
from settings import alb_support

# As on a machine, where its scripts are in one folder.
sys.path.append(str(ROOT / "machine" / "monitoring"))
import metric_families

TABLES: Mapping[str, Callable[[], str]] = {
    "docs/gateways.md": gateways.markdown_table,
    "docs/balancer.md": apache_differences.markdown_table,
    "docs/extending.md": delivery.markdown_table,
    "docs/monitoring.md": metric_families.markdown_table,
    "docs/scaling.md": alb_support.markdown_table,
}
_PLACE = re.compile(r"(?<=<!-- by `make tables` -->\n)(\|.*\n)*")


def page_with_table(page: str) -> str:
    """Return the text of a page with its table as the code has it now. Raises ValueError where it has no place."""
    text, count = _PLACE.subn(lambda _: TABLES[page](), (ROOT / page).read_text())
    if count != 1:
        raise ValueError(f"{page}: has {count} places for a table; put `<!-- by `make tables` -->` above it once")
    return text


if __name__ == "__main__":
    for name in TABLES:
        (ROOT / name).write_text(page_with_table(name))
