"""What pages that benchmarks write have in common: places for what was measured, tables, goals, and the run itself."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import PAUSE_S, ROOT

README, PAGE = ROOT / "README.md", ROOT / "docs" / "performance.md"
# Columns of text; those of numbers are aligned to the right.
TEXTS = {"met", "why", "even", "command"}


@dataclass(frozen=True)
class Goal:
    """text: what is wanted. measured, is_met: what was. missed: the reason, shown where it is not met.

    command: measures this alone.
    """

    text: str
    measured: str
    is_met: bool
    missed: str = ""
    command: str = ""

    def met(self) -> str:
        """Return the cell of a table that says whether it is met."""
        return "yes" if self.is_met else "**no**" + f": {self.missed}" * bool(self.missed)


def fill(pages: Iterable[Path], target: str, made: Mapping[str, str]) -> None:
    """Write what a target of make measured into its places of the pages. made: text of each part, by its name.

    Raises ValueError where the pages have places for other parts.
    """
    place = re.compile(rf"(<!-- by `make {target}`: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    texts = {page: page.read_text() for page in pages}
    named = [match[2] for text in texts.values() for match in place.finditer(text)]
    if sorted(named) != sorted(made):
        shown = ", ".join(map(str, texts))
        raise ValueError(f"{shown}: have places for {sorted(named)}, and the run makes {sorted(made)}")
    for page, text in texts.items():
        page.write_text(place.sub(lambda match: match[1] + made[match[2]] + match[3], text))


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; numbers to the right."""
    sides = ["---" if title in TEXTS else "---:" for title in titles[1:]]
    lines = [
        f"| {' | '.join(titles)} |",
        f"| --- | {' | '.join(sides)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(re.sub(" +", " ", line) for line in lines) + "\n"


def describe(result: Mapping[str, Any], what: str) -> str:
    """Return when and where a result was measured, in one line. what: was measured, how often."""
    day = result["when"].partition("T")[0]
    where = f"{result['cores']} cores for all machines, Linux {result['kernel']}"
    return f"Measured on {day}, commit {result['commit']}: {where}; {what} {_other_work(result)}\n"


def _other_work(result: Mapping[str, Any]) -> str:
    shares: list[float] = result.get("other_work", [])
    if not shares:
        return "What other work the cores had was not measured."
    return (
        f"Other work had {statistics.median(shares):.0%} of the cores, and {max(shares):.0%} at most, "
        f"in {len(shares)} pauses of {PAUSE_S:.0f} s."
    )
