"""Names on machines, for the modules that render, run and read them: of programs, of units, of applications."""

SCRIPTS = "/usr/local/lib/wsgi-fleet"
# Of an app server, by what journalctl and systemctl select units. The slots by name: they look up what matches a
# pattern once, and the other slot may never have run.
APP_UNITS = (
    *("app@blue.service", "app@green.service", "app-proof.service", "app-build.service", "app-task.service"),
    # Where processes are balanced: each of a slot, and the Nginx in front of them.
    *("app@blue-*", "app@green-*", "nginx.service"),
    *("app-boot.service", "app-boot-retry*", "app-worker-*", "app-schedule-*"),
)


def site_identifier(app: str) -> str:
    """Return what an application is called inside the balancer's site, and in what is read there."""
    return app.replace("-", "_")
