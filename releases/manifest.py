"""The manifest of a release, made of an application's settings and source. It says all but the files themselves."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any

from releases.source import Source
from rendering.app_server import ProcessLayout, process_properties
from rendering.gateway_files import background_units, gateway_files, install_files
from rendering.server_site import Front
from rendering.settings_file import FORMATS
from settings.application import App

# What each process of the application finds, unless the stack file says otherwise. The server puts the virtualenv's
# programs before PATH. HOME is StateDirectory= of the units: the only folder that lasts as long as the server.
ENVIRONMENT = {
    "HOME": "/var/lib/app",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    # Otherwise lines would appear late, or never if the process is killed.
    "PYTHONUNBUFFERED": "1",
}


def secrets_digest(key: str, secrets: Mapping[str, str]) -> str:
    """Return the digest of secrets for a manifest; "" where there are none.

    It is an HMAC-SHA256 with the stack's own key: all that a manifest may contain of secrets.
    """
    if not secrets:
        return ""
    return hmac.new(key.encode(), json.dumps(dict(secrets), sort_keys=True).encode(), "sha256").hexdigest()


def make_manifest(
    app: App,
    source: Source,
    *,
    key: str,
    secrets: Mapping[str, str],
    health_host: str = "localhost",
    https: bool = False,
    front: Front | None = None,
) -> bytes:
    """Return the manifest of an application's release.

    key: the stack's own key for secrets_digest. health_host: the name by which servers are asked for the health path.
    https: whether clients come by HTTPS. front: the load balancer in front, where the balancer is no machine.
    """
    manifest = {
        "module": app.module,
        "requirements_path": source.requirements.path,
        "health_path": app.health_path,
        "health_headers": {
            "Host": health_host,
            "User-Agent": "wsgi-fleet",
            "X-Forwarded-Host": health_host,
            "X-Forwarded-Proto": "https" if https else "http",
        },
        "environment": ENVIRONMENT | app.environment,
        # Of the processes that it runs beside the application: its build and its task.
        "properties": process_properties(),
        **_gateway(app, source, front),
        "drain_timeout_s": app.drain_timeout_s,
        "release_task": app.rollout.release_task,
        "workers": {name: worker.model_dump() for name, worker in app.workers.items()},
        "schedules": {name: schedule.model_dump() for name, schedule in app.schedules.items()},
        "units": background_units(app),
        "healthy_threshold": app.rollout.healthy_threshold,
        "start_timeout_s": app.rollout.start_timeout_s,
        "stage_timeout_s": app.rollout.stage_timeout_s,
        "secrets_digest": secrets_digest(key, secrets),
        "tar_sha256": source.tar_sha256,
    }
    # Only where they are: an application without them keeps its id.
    if front:
        manifest["front"] = front.balancer.kind
    if app.python_path:
        manifest["python_path"] = app.python_path
    if app.release.wheels:
        manifest["wheels"] = True
    if app.build:
        manifest["build"] = app.build
    if app.static:
        manifest["static"] = {"folder": app.static.folder, "url_path": app.static.url_path}
    if app.settings_file:
        file, write = FORMATS[app.settings_file.format]
        text = write(app.settings_file.values)
        manifest["settings_file"] = {"name": file, "variable": app.settings_file.variable, "text": text}
    return json.dumps(manifest, sort_keys=True, indent=1).encode()


def _gateway(app: App, source: Source, front: Front | None) -> dict[str, Any]:
    """Return which gateway and which processes the release is made for, and the gateway's files."""
    processes = ProcessLayout.of(app)
    files = gateway_files(app, front) | install_files(source.requirements.files)
    found = {"gateway": app.gateway.kind, "gateway_files": files}
    return found | ({"processes": str(processes)} if processes else {})
