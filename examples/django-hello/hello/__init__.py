"""A Django project and its one application."""
