"""What plots have in common: SVG without scripts, the same text for the same numbers, by leather."""

from __future__ import annotations

import importlib
from typing import Any

# It has no types.
leather: Any = importlib.import_module("leather")
OURS, THEIRS, THIRD = "#1f6f8b", "#c9772b", "#6b8e23"
WIDTH, HEIGHT = 900, 360
for _part in ("title", "legend", "axis_title", "tick"):
    setattr(leather.theme, f"{_part}_font_family", "sans-serif")
