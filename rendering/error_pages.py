"""Render the pages of the balancer's own errors: HTML, of the user's or a plain one, and JSON (RFC 9457)."""

from __future__ import annotations

import json

from rendering.templates import render_template
from settings.error_pages import ErrorPages

FOLDER = "/etc/wsgi-fleet/errors"
# `./fleet maintenance on` copies it into the folder; while it is there, clients get it.
MAINTENANCE_PAGE = "/etc/wsgi-fleet/maintenance.html"
# Setting -> (name of the file, status, title, detail).
PAGES = {
    "maintenance": (
        "maintenance", 503, "Down for maintenance",
        "We are working on this site and will be back soon. Please try again in a few minutes.",
    ),
    "bad_gateway": ("502", 502, "Bad Gateway", "This site could not answer the request."),
    "service_unavailable": (
        "503", 503, "Service Unavailable", "This site cannot take the request at the moment. Please try again soon.",
    ),
    "gateway_timeout": ("504", 504, "Gateway Timeout", "This site took too long to answer the request."),
}  # fmt: skip


def error_page_files(pages: ErrorPages) -> dict[str, tuple[str, str]]:
    """Return path -> (mode, text) of every page."""
    files: dict[str, tuple[str, str]] = {}
    for setting, (name, status, title, detail) in PAGES.items():
        file: str | None = getattr(pages, setting)
        text = render_template("error.html.j2", title=title, detail=detail) if file is None else file
        files[MAINTENANCE_PAGE if setting == "maintenance" else f"{FOLDER}/{name}.html"] = ("0644", text)
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        files[f"{FOLDER}/{name}.json"] = ("0644", json.dumps(problem) + "\n")
    return files


def maintenance_page(pages: ErrorPages) -> str:
    """Return the page that clients get during maintenance, unless the operator gives another one."""
    return error_page_files(pages)[MAINTENANCE_PAGE][1]
