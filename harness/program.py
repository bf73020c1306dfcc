"""Run the program of this project by the mock engine; responses of AWS and LXD are made up."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any, cast

import yaml

from harness import mock_aws, mock_lxd
from harness.mock_engine import Build, build
from platforms import STATE
from platforms.aws.diagnosis import image_kind

ROOT = Path(__file__).resolve().parents[1]


def project(folder: Path) -> Path:
    """Create a folder in which the program runs as in this project; what it writes, it writes there."""
    for each in ROOT.iterdir():
        if each.name not in (".git", STATE):
            (folder / each.name).symlink_to(each)
    return folder


def plan(stack: str, *, preview: bool = False, name: str | None = None, **changes: Any) -> Build:
    """Run the program with the settings of a stack file. Responses of AWS are made up, as are ids and secrets in it.

    Blocks given in `changes` take the place of its own. preview: nothing is known that AWS would report. name: of the
    stack, if not that of the file.
    """
    blocks = mock_aws.fill_placeholders(stack_file(stack) | changes)
    return build(
        run,
        secret_config={f"wsgi-fleet:{key}": text_of(value) for key, value in blocks.items()},
        lookups=mock_aws.lookups(image_kind(blocks)),
        outputs={**mock_lxd.OUTPUTS, **mock_aws.OUTPUTS},
        stack=name or stack,
        preview=preview,
    )


def stack_file(stack: str) -> dict[str, Any]:
    """Return the blocks of a stack file by name, with made-up text in the place of what is encrypted."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "stacks" / f"Pulumi.{stack}.yaml").read_text())["config"]
    return {key.removeprefix("wsgi-fleet:"): _without_secure(value) for key, value in config.items()}


def _without_secure(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return (
            "made-up" if fields.keys() == {"secure"} else {key: _without_secure(item) for key, item in fields.items()}
        )
    return [_without_secure(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def run() -> None:
    """Run the program in the current folder."""
    runpy.run_path(str(ROOT / "__main__.py"))


def text_of(value: Any) -> str:
    """Return a value as Pulumi passes it on."""
    return value if isinstance(value, str) else json.dumps(value)
