"""Read what the program is made of: the stack's settings and the sources of its applications."""

from __future__ import annotations

from pathlib import Path

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, get_config_secret_keys_env

from platforms import STATE
from platforms.failure import end_program
from releases import python_requirement
from releases.archive import SourceError
from releases.source import Source
from settings.limits import warnings
from settings.secrets import KeyPath, encrypted_paths
from settings.stack import Settings
from settings.stack_file import SettingsError, load_config, parse, where_of

# The stack of `make local`; its file is committed.
LOCAL = "local"


def read_settings(project: Path, stack: str) -> Settings:
    """Return the settings of a stack; log what is allowed and unwise. With mistakes, log every one and exit."""
    file = project / "stacks" / f"Pulumi.{stack}.yaml"
    try:
        settings = parse(
            get_config_env() | CONFIG.get(),
            project=project,
            where=where_of(file),
            encrypted=_encrypted_paths(file),
        )
    except SettingsError as error:
        end_program(str(error))
    for warning in warnings(settings):
        pulumi.log.warn(warning)
    if stack == LOCAL:
        _forget_salt(file)
    return settings


def read_sources(settings: Settings, project: Path) -> dict[str, Source]:
    """Return the sources of the applications by name.

    What cannot be released, or not be installed on the servers, is logged, all at once; then exit.
    """
    sources: dict[str, Source] = {}
    problems: list[str] = []
    for name, app in settings.apps.items():
        folder = (project / app.source).resolve()
        found = python_requirement.find_problems(folder, app.requirements, settings.operating_system)
        problems += [f"apps.{name}: {line}" for line in found]
        try:
            root = project.resolve()
            sources[name] = Source.read(folder, app, project=root, state=root / STATE)
        except SourceError as error:
            problems.append(str(error))
    if problems:
        end_program("\n".join(problems))
    return sources


def _forget_salt(file: Path) -> None:
    """Remove the salt of this machine's passphrase, which Pulumi has written into a stack file without secrets.

    That file is committed, and the salt is an error elsewhere. The state has its own.
    """
    text = file.read_text() if file.exists() else ""
    kept = [line for line in text.splitlines(keepends=True) if not line.startswith("encryptionsalt:")]
    if "secure:" not in text and "".join(kept) != text:
        file.write_text("".join(kept))


def _encrypted_paths(file: Path) -> set[KeyPath]:
    """Return the paths of the encrypted values.

    Pulumi names only the blocks that contain any. The stack file shows which values these are.
    """
    paths = encrypted_paths(load_config(file) if file.exists() else {})
    blocks = {(key.partition(":")[2],) for key in get_config_secret_keys_env()}
    return paths | {block for block in blocks if block[0] not in {path[0] for path in paths}}
