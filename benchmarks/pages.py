"""What benchmarks that write pages have in common: their commands, places in the pages, tables and goals."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import PAUSE_S, ROOT, keep

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


@dataclass(frozen=True)
class Part:
    """What a benchmark writes of the pages. target: its target of make. kept: how names of its files of results begin.

    blocks, draw: return its tables and other texts, and its plots as SVG, each by its name, from a result.
    """

    target: str
    kept: str
    blocks: Callable[[dict[str, Any]], dict[str, str]]
    draw: Callable[[dict[str, Any]], dict[str, str]]

    def run(self, arguments: argparse.Namespace, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure, keep the result, print it and write the pages; or write them again from a file that was kept.

        Raises SystemExit where that file is none of this benchmark.
        """
        if arguments.page:
            try:
                self.write(json.loads(arguments.page.read_text()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                there = f"benchmarks/results/{self.kept}-*.json, by `make {self.target}`"
                raise SystemExit(f"{arguments.page}: is none of {there} ({error!r})") from error
            return
        start_s = time.monotonic()
        result = measure()
        file = keep(result, f"{self.kept}-")
        print("\n".join(self.blocks(result).values()))
        if not arguments.quick:
            self.write(result)
        print(f"kept in {file}; it took {(time.monotonic() - start_s) / 60:.0f} minutes")

    def write(self, result: dict[str, Any]) -> None:
        """Write the pages and plots. Raises ValueError where the pages have places for other texts than a run makes."""
        fill((README, PAGE), self.target, self.blocks(result))
        for name, plot in self.draw(result).items():
            (PAGE.parent / f"performance-{name}.svg").write_text(plot)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that these benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure everything once and small, and write no page")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page again from this file of results")
    return parser


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
