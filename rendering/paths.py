"""Name the folder of the programs of a machine, for who renders them and who runs them."""

SCRIPTS = "/usr/local/lib/wsgi-fleet"
