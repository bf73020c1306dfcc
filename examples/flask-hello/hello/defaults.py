"""Settings that are right anywhere. SECRET_KEY has no default on purpose."""

GREETING = "Hello"
