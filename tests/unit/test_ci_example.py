"""The example of CI on AWS: who gets which credentials, and that docs/aws.md tells what it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "examples" / "github-actions" / "fleet.yml").read_text()
GUIDE = (ROOT / "docs" / "aws.md").read_text()


@pytest.fixture
def workflow() -> dict[Any, Any]:
    return yaml.safe_load(TEXT)


def test_a_pull_request_previews_and_only_a_merge_runs_up(workflow: dict[Any, Any]) -> None:
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True] == {"pull_request": {"branches": ["main"]}, "push": {"branches": ["main"]}}
    preview, up = workflow["jobs"]["preview"], workflow["jobs"]["up"]
    assert (preview["if"], up["if"]) == ("github.event_name == 'pull_request'", "github.event_name == 'push'")
    ran = {name: " ".join(step.get("run", "") for step in job["steps"]) for name, job in workflow["jobs"].items()}
    assert "pulumi up" not in ran["preview"]
    assert "pulumi up" in ran["up"]


def test_nothing_of_a_pull_request_runs_on_a_runner_that_reaches_machines(workflow: dict[Any, Any]) -> None:
    assert workflow["jobs"]["preview"]["runs-on"] == "ubuntu-24.04"
    assert "self-hosted" in workflow["jobs"]["up"]["runs-on"]


def test_jobs_have_tokens_for_aws_and_no_secret_of_the_repository(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] == {"contents": "read", "id-token": "write"}
    assert "secrets." not in TEXT


def test_an_up_is_never_ended_by_the_next_one(workflow: dict[Any, Any]) -> None:
    assert workflow["jobs"]["up"]["concurrency"] == {"group": "fleet-up", "cancel-in-progress": False}


def test_every_action_is_pinned_to_a_version(workflow: dict[Any, Any]) -> None:
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+", each)] == []


def test_the_guide_names_every_variable_and_the_environment(workflow: dict[Any, Any]) -> None:
    variables = set(re.findall(r"\bvars\.(\w+)", TEXT))
    assert variables == {"AWS_REGION", "PULUMI_BACKEND_URL", "PREVIEW_ROLE", "UP_ROLE", "UP_RUNNER"}
    assert {name for name in variables if f"`{name}`" not in GUIDE} == set()
    assert f"environment:{workflow['jobs']['up']['environment']}" in GUIDE
