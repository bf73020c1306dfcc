"""docs/tutorial.md as steps: files that the reader writes, and commands with the output that the page shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The sentence before a file names it last, relative to the clone.
_FILE = re.compile(r".*`((?:\.\./|stacks/)[\w./-]+)`[^`]*:\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A block of the page. line: where it begins. shown: the output below commands.

    file: what the block is written to, or appended to where the sentence before says so; "" where it is commands.
    """

    line: int
    text: str
    file: str = ""
    appends: bool = False
    shown: str = ""

    @property
    def fails(self) -> bool:
        """Return whether the page shows that the commands fail."""
        return re.search(r"^error:|\bError\b", self.shown, re.MULTILINE) is not None


def steps(page: str) -> list[Step]:
    """Return the steps in their order. Raises ValueError for a block that is neither file, commands nor output."""
    found: list[Step] = []
    for line, language, text, before in _blocks(page):
        if language == "sh":
            found.append(Step(line, text))
        elif file := _FILE.match(before):
            found.append(Step(line, text, file=file[1], appends="Append to" in before))
        elif language == "text" and found and not found[-1].file and not before.strip():
            found[-1] = Step(found[-1].line, found[-1].text, shown=text)
        else:
            raise ValueError(f"line {line}: the block is not commands, and the sentence before it names no file")
    return found


def _blocks(page: str) -> Iterator[tuple[int, str, str, str]]:
    """Yield line, language and text of each block, and the text between it and the one before."""
    end = 0
    for block in _BLOCK.finditer(page):
        yield page[: block.start()].count("\n") + 1, block[1], block[2], page[end : block.start()]
        end = block.end()


def missing_lines(printed: str, output: str) -> list[str]:
    """Return the lines that the page shows and the output does not have, in the page's order. `…`: anything."""
    rest, missing = [" ".join(line.split()) for line in output.splitlines()], list[str]()
    for line in map(str.strip, printed.splitlines()):
        pattern = re.compile(".*".join(re.escape(" ".join(part.split())) for part in line.split("…")))
        at = next((number for number, each in enumerate(rest) if pattern.fullmatch(each)), None)
        if at is None:
            missing.append(line)
        else:
            rest = rest[at + 1 :]
    return missing
