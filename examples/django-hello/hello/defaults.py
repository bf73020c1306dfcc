"""Settings that are right anywhere. SECRET_KEY has no default on purpose."""

GREETING = "Hello"
# Names that the site is asked by, separated by commas. The health path is asked by one of them.
ALLOWED_HOSTS = "localhost,127.0.0.1"
# Folder of the database. systemd names the one that the application may write to (/var/lib/app).
STATE_DIRECTORY = "."
