"""A Flask application with settings as the talk recommends: defaults in code, then a file, then the environment."""

import os
import time

from flask import Flask, abort, jsonify, request
from werkzeug.middleware.proxy_fix import ProxyFix

from hello import defaults

# Without these the application must not start: a session signed with a default key is no secret.
REQUIRED = ("SECRET_KEY",)


class MissingSetting(Exception):
    """A required setting was given neither in the file nor in the environment."""


def create_app() -> Flask:
    """The application. Raises MissingSetting, by name, before it can serve anything."""
    app = Flask(__name__)
    app.config.from_object(defaults)
    app.config.from_envvar("HELLO_SETTINGS_FILE", silent=True)
    app.config.from_prefixed_env("HELLO")
    missing = [name for name in REQUIRED if not app.config.get(name)]
    if missing:
        raise MissingSetting(f"{', '.join(missing)}: required and not set; set HELLO_{missing[0]} in the environment")
    # Exactly one proxy, the balancer, stands in front and sets these headers itself.
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]

    @app.get("/")
    def index() -> str:
        server, release = os.environ.get("WSGI_FLEET_SERVER", "-"), os.environ.get("WSGI_FLEET_RELEASE", "-")
        return f"{app.config['GREETING']} from {server}, release {release}\n"

    @app.get("/healthz")
    def healthz() -> str:
        return "well\n"

    @app.route("/slow", methods=["GET", "POST"])
    def slow() -> str:
        seconds = request.args.get("s", default=0.2, type=float)
        if not 0 <= seconds <= 30:
            abort(400, "s must be between 0 and 30 seconds")
        time.sleep(seconds)
        return f"slept {seconds} s\n"

    @app.get("/whoami")
    def whoami():  # type: ignore[no-untyped-def]
        return jsonify(client=request.remote_addr, scheme=request.scheme, host=request.host)

    return app
