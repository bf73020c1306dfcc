"""Read the settings of the stack from Pulumi's configuration."""

from __future__ import annotations

from pathlib import Path

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env, get_config_secret_keys_env

from settings import Settings
from settings.limits import warnings
from settings.stack_file import SettingsError, parse


def read_settings(project: Path, stack: str) -> Settings:
    """Return the settings of a stack; log what is allowed and unwise. Raises pulumi.RunError with every mistake."""
    try:
        settings = parse(
            get_config_env() | CONFIG.get(),
            project=project,
            where=f"stacks/Pulumi.{stack}.yaml",
            encrypted=get_config_secret_keys_env(),
        )
    except SettingsError as error:
        # Ends the program with this text and without a traceback.
        raise pulumi.RunError(str(error)) from None
    for warning in warnings(settings):
        pulumi.log.warn(warning)
    return settings
