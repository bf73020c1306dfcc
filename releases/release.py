"""A release: one immutable build of an application, named by a hash of all that it is made of."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from releases.archive import tar
from rendering.app_server import ProcessLayout
from rendering.gateway_files import background_units, gateway_files
from rendering.settings_file import FORMATS
from settings import App

ID_LENGTH = 12


@dataclass(frozen=True)
class Release:
    """manifest: canonical JSON of everything but the files. archive: gzipped tar of the source."""

    manifest: bytes
    archive: bytes

    @property
    def id(self) -> str:
        """Return 12 hexadecimal digits of the manifest's sha256; the manifest names the sha256 of the files."""
        return hashlib.sha256(self.manifest).hexdigest()[:ID_LENGTH]

    def save(self, folder: Path) -> None:
        """Write it where the rollout finds it: folder/manifest.json and folder/code.tar.gz."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "code.tar.gz").write_bytes(self.archive)
        (folder / "manifest.json").write_bytes(self.manifest)

    def is_archive(self, content: bytes | None) -> bool:
        """Return whether bytes are the release's archive, whatever compressed it."""
        try:
            tar_ = gzip.decompress(content or b"")
        except (OSError, EOFError, zlib.error):
            return False
        return hashlib.sha256(tar_).hexdigest() == json.loads(self.manifest).get("tar_sha256")

    @classmethod
    def load(cls, folder: Path) -> Release:
        """Read what save() wrote."""
        return cls((folder / "manifest.json").read_bytes(), (folder / "code.tar.gz").read_bytes())


def secrets_digest(key: str, secrets: Mapping[str, str]) -> str:
    """Return the digest of secrets for a manifest; "" where there are none.

    It is an HMAC-SHA256 with the stack's own key: all that a manifest may contain of secrets.
    """
    if not secrets:
        return ""
    return hmac.new(key.encode(), json.dumps(dict(secrets), sort_keys=True).encode(), "sha256").hexdigest()


def build(app: App, *, project: Path, key: str, secrets: Mapping[str, str]) -> Release:
    """Make the release of an application as its source stands now.

    project: what app.source is relative to. key: the stack's own key for secrets_digest. Raises SourceError.
    """
    content = tar(project / app.source)
    manifest = {
        "module": app.module,
        "requirements_path": app.requirements,
        "health_path": app.health_path,
        "environment": app.environment,
        **_gateway(app),
        "drain_timeout_s": app.drain_timeout_s,
        "release_task": app.rollout.release_task,
        "workers": {name: worker.model_dump() for name, worker in app.workers.items()},
        "schedules": {name: schedule.model_dump() for name, schedule in app.schedules.items()},
        "units": background_units(app),
        "healthy_threshold": app.rollout.healthy_threshold,
        "start_timeout_s": app.rollout.start_timeout_s,
        "stage_timeout_s": app.rollout.stage_timeout_s,
        "secrets_digest": secrets_digest(key, secrets),
        "tar_sha256": hashlib.sha256(content).hexdigest(),
    }
    # Only where they are: an application without them keeps its id.
    if app.build:
        manifest["build"] = app.build
    if app.static:
        manifest["static"] = {"folder": app.static.folder, "url_path": app.static.url_path}
    if app.settings_file:
        file, write = FORMATS[app.settings_file.format]
        text = write(app.settings_file.values)
        manifest["settings_file"] = {"name": file, "variable": app.settings_file.variable, "text": text}
    return Release(json.dumps(manifest, sort_keys=True, indent=1).encode(), gzip.compress(content, 6, mtime=0))


def _gateway(app: App) -> dict[str, Any]:
    """Return which gateway and which processes the release is made for, and the gateway's files."""
    processes = ProcessLayout.of(app)
    found = {"gateway": app.gateway.kind, "gateway_files": gateway_files(app)}
    return found | ({"processes": str(processes)} if processes else {})
