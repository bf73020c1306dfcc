"""The pages that benchmarks write, as copies for tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import pages


class Pages:
    """Copies of docs/performance.md and the README, which benchmarks write instead."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.page, self.readme = folder, folder / "performance.md", folder / "README.md"
        self.page.write_text(pages.PAGE.read_text())
        self.readme.write_text(pages.README.read_text())
        monkeypatch.setattr(pages, "PAGE", self.page)
        monkeypatch.setattr(pages, "README", self.readme)

    def plots(self) -> set[str]:
        """Return the names of the plots that were written."""
        return {each.name for each in self.folder.glob("*.svg")}


def plots_in(text: str) -> set[str]:
    """Return the names of the plots that a text shows."""
    return set(re.findall(r"performance-\w+\.svg", text))
