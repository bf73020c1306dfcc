"""docs/tutorial.md is read whole: each block is a step, and its commands, targets, options and settings exist."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer.main
import yaml

from commands.__main__ import app
from harness.mock_aws import fill_placeholders
from harness.program import ROOT
from tests.tutorial import PAGE, Step, missing_lines, steps
from tests.unit.stack_blocks import problems_of

STEPS = steps(PAGE.read_text())
FLEET: Any = typer.main.get_command(app)


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text().splitlines()) <= 250


def test_a_block_that_is_no_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 3: the block is not commands"):
        steps("Hello:\n\n```python\nx = 1\n```\n")


@pytest.mark.parametrize("step", [step for step in STEPS if not step.file], ids=lambda step: f"line {step.line}")
def test_commands_of_a_block_exist(step: Step) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in step.text.splitlines():
        program, *words = shlex.split(line)
        if program == "make":
            assert words[0] in targets
        if program == "./fleet":
            command = FLEET.commands[words[0]]
            own = words[1 : words.index("--")] if "--" in words else words[1:]
            options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
            assert [word for word in own if word.startswith("-") and word not in options] == []


def test_each_stack_file_of_the_page_is_valid() -> None:
    files: dict[str, str] = {}
    for step in STEPS:
        if step.file.startswith("stacks/"):
            files[step.file] = files.get(step.file, "") * step.appends + step.text
            if step.file == "stacks/Pulumi.local.yaml":
                files["stacks/Pulumi.prod.yaml"] = files[step.file].replace("platform: lxd", "platform: aws")
    assert len(files) == 2
    for name, text in files.items():
        config: dict[str, Any] = yaml.safe_load(re.sub(r"\.\./\w+", "examples/flask-hello", text))["config"]
        blocks = fill_placeholders({key.removeprefix("wsgi-fleet:"): block for key, block in config.items()})
        assert problems_of(blocks) == [], name


def test_a_line_that_varies_is_compared_for_the_rest() -> None:
    assert missing_lines("a … c\nz", "x\n  a  b c\ny\nz\n") == []
    assert missing_lines("z\na", "a\nz\n") == ["a"]
