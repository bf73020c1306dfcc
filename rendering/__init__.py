"""Render templates/ and machine/ from settings. Pure functions; the only user of jinja2."""
