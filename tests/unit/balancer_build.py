"""A balancer and its groups as the mock engine registers them, each made once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pulumi

from components.balancer import Balancer, BalancerArgs
from components.security_groups import SecurityGroups, SecurityGroupsArgs
from harness import mock_aws, mock_lxd
from harness.mock_engine import Build, build
from harness.mock_lxd import STEP
from platforms import Platform
from platforms.aws.platform import AwsPlatform
from platforms.lxd.platform import LxdPlatform
from settings.application import App
from settings.balancer import Balancer as Settings
from settings.lxd import Lxd
from tests.unit.test_components import AWS

COMMAND = "command:remote:Command"


def balancer_build(block: Mapping[str, Any], on: str = "lxd", *, preview: bool = False, **aws: Any) -> Build:
    """Build a balancer with these settings; its one application has one member. aws: changes of the AWS settings."""
    return _build(json.dumps(block), on, json.dumps(aws), preview)


@cache
def _build(block: str, on: str, aws: str, preview: bool) -> Build:
    given = Settings.model_validate_json(block)

    def program() -> None:
        platform: Platform = (
            LxdPlatform(Lxd(tls_port=9443), stack="test", project=Path("/nowhere"))
            if on == "lxd"
            else AwsPlatform(AWS.model_copy(update=json.loads(aws)), stack="test", project_name="wsgi-fleet")
        )
        groups = SecurityGroups("groups", SecurityGroupsArgs(["a"], https=given.tls is not None), platform=platform)
        addresses = {"a": pulumi.Output.from_input(["10.0.0.1"])}
        balancer = Balancer("balancer", BalancerArgs(given, groups.balancer), platform=platform)
        public = balancer.serve({"a": App(source="a", module="a:app")}, addresses, given.hostnames)
        pulumi.export("url", public.url)
        pulumi.export("address", public.host)

    outputs = {**mock_lxd.OUTPUTS, **mock_aws.OUTPUTS}
    return build(program, outputs=outputs, lookups=mock_aws.LOOKUPS, preview=preview)


def steps(built: Build) -> list[str]:
    """Return the names of the steps on machines, without that of their monitoring on AWS."""
    return [each.name for each in built.of(STEP) + built.of(COMMAND) if each.name != "balancer-monitoring"]


def names_that_tell(built: Build, words: list[str]) -> list[str]:
    """Return which resources, outputs and logs have one of these words in plain text."""
    texts = {each.name: each.plain_text + str(each.outputs) for each in built.resources}
    texts |= {"outputs of the stack": str(built.exports), "logs": str(built.logs)}
    return [name for name, text in texts.items() if any(word in text for word in words)]
