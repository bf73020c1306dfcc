"""Render a file of templates/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from rendering.filters import FILTERS
from settings.application import APP_PORT
from settings.limits import STOP_TIMEOUT_S

ROOT = Path(__file__).resolve().parents[1]
_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(ROOT / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    # Configuration files, not HTML: what goes in is checked by the types of settings/.
    autoescape=False,  # noqa: S701
)
_environment.filters |= FILTERS
# What every template knows.
CONSTANTS: dict[str, Any] = {"APP_PORT": APP_PORT, "STOP_TIMEOUT_S": STOP_TIMEOUT_S}


def render_template(file: str, /, **values: Any) -> str:
    """Render a file of templates/ with these values."""
    return _environment.get_template(file, globals=CONSTANTS).render(**values)


def read_file(name: str) -> str:
    """Return the text of a file of this project."""
    return (ROOT / name).read_text()
