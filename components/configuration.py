"""Read what the program is made of: the stack's settings and the sources of its applications."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pulumi
import yaml
from pulumi.runtime.config import CONFIG, get_config_env, get_config_secret_keys_env

from releases.archive import SourceError
from releases.source import Source
from settings import Settings
from settings.limits import warnings
from settings.secrets import KeyPath, encrypted_paths
from settings.stack_file import SettingsError, parse


def read_settings(project: Path, stack: str) -> Settings:
    """Return the settings of a stack; log what is allowed and unwise. Raises pulumi.RunError with every mistake."""
    file = project / "stacks" / f"Pulumi.{stack}.yaml"
    try:
        settings = parse(
            get_config_env() | CONFIG.get(),
            project=project,
            where=f"stacks/{file.name}",
            encrypted=_encrypted_paths(file),
        )
    except SettingsError as error:
        # Ends the program with this text and without a traceback.
        raise pulumi.RunError(str(error)) from None
    for warning in warnings(settings):
        pulumi.log.warn(warning)
    return settings


def read_sources(settings: Settings, project: Path) -> dict[str, Source]:
    """Return the sources of the applications by name. Raises pulumi.RunError with all that cannot be released."""
    sources: dict[str, Source] = {}
    problems: list[str] = []
    for name, app in settings.apps.items():
        try:
            sources[name] = Source.read(project / app.source)
        except SourceError as error:
            problems.append(str(error))
    if problems:
        raise pulumi.RunError("\n".join(problems))
    return sources


def _encrypted_paths(file: Path) -> set[KeyPath]:
    """Return the paths of the encrypted values.

    Pulumi names only the blocks that contain any. The stack file shows which values these are.
    """
    document: Any = yaml.safe_load(file.read_text()) if file.exists() else {}
    paths = encrypted_paths(document.get("config") or {})
    blocks = {(key.partition(":")[2],) for key in get_config_secret_keys_env()}
    return paths | {block for block in blocks if block[0] not in {path[0] for path in paths}}
