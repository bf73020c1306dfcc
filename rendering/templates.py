"""Render a file of templates/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from rendering.filters import FILTERS
from settings.application import APP_PORT
from settings.limits import STOP_TIMEOUT_S, TARGET_HEALTH_TIMEOUT_S

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
# Of people's browsers: every value in them is escaped.
_pages = _environment.overlay(autoescape=True)
# In a list of media types, behind one that has no weight of 0, by which a client refuses it (RFC 9110, 12.4.2).
_NOT_REFUSED = r"(?![^,]{0,99};\s*q=0(\.0*)?\s*(,|;|$))"
# The Accept header of a client that names JSON, and HTML not before it: it gets the balancer's own errors as JSON.
_ACCEPTS_JSON = rf"^((?!text/html{_NOT_REFUSED}).)*application/([a-z0-9.+-]+\+)?json(?![a-z0-9.+-]){_NOT_REFUSED}"
# What every template knows.
CONSTANTS: dict[str, Any] = {
    "APP_PORT": APP_PORT,
    "STOP_TIMEOUT_S": STOP_TIMEOUT_S,
    "TARGET_HEALTH_TIMEOUT_S": TARGET_HEALTH_TIMEOUT_S,
    "ACCEPTS_JSON": _ACCEPTS_JSON,
}


def render_template(file: str, /, **values: Any) -> str:
    """Render a file of templates/ with these values."""
    return _environment.get_template(file, globals=CONSTANTS).render(**values)


def render_page(file: str, /, **values: Any) -> str:
    """Render an HTML file of templates/ with these values, each of which is text and no HTML."""
    return _pages.get_template(file).render(**values)


def read_file(name: str) -> str:
    """Return the text of a file of this project."""
    return (ROOT / name).read_text()
