"""The folder of a machine's programs, for the modules that render and run them."""

SCRIPTS = "/usr/local/lib/wsgi-fleet"
