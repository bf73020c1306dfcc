"""The stack `prod` of a test: stacks/Pulumi.prod.yaml on a stand-in of AWS, with the tests' application."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml

from harness.stack import Stack, copy_of_checkout, lxc
from platforms.lxd import label
from tests.aws.region import FILE
from tests.aws.server import prepared
from tests.aws.session import Running
from tests.aws.subnets import free_block

NAME = "prod"
# Where a folder is named here, its plugins go before the stand-ins: to try the real `command` provider.
PLUGINS = "WSGI_FLEET_TEST_PLUGINS"


@dataclass
class AwsStack(Stack):
    """A stack `prod`, in a project folder and with a state of its own."""

    running: Running = field(kw_only=True)

    @classmethod
    def prepare(cls, tmp: Path, running: Running, *, servers: int) -> Self:
        """Return the stack as a user prepares it, not up yet: ids in its file, the private key as a secret."""
        stack = cls(NAME, tmp / "project", running=running)
        copy_of_checkout(stack.folder)
        running.region.save(tmp / "region.json")
        (tmp / "authority.pem").write_text(running.region.authority)
        (tmp / "state").mkdir()
        blocks: dict[str, Any] = yaml.safe_load(stack.file.read_text())["config"]
        stack.settings = {name.partition(":")[2]: block for name, block in blocks.items()}
        block = str(free_block())
        aws = prepared(running.account, stack.settings["aws"], block=block)
        # Its own, where it names none that is there.
        if "vpc" in aws:
            aws["vpc"]["cidr"] = block
        # Generated where none is given.
        key = aws.pop("ssh_private_key", None)
        stack.settings["aws"] = aws | {"region": running.region.name}
        stack.app.update(source="tests/e2e/app", module="probe:app", health_path="/")
        stack.app["fleet"]["servers"] = servers
        stack.pulumi("stack", "init", stack.name)
        stack.write()
        if key:
            stack.set_config_secret("aws.ssh_private_key", key)
        return stack

    @contextmanager
    def serving(self) -> Generator[AwsStack]:
        """Run `up` for the block; its processes and folder are gone after it, whatever happened."""
        try:
            self.up()
            yield self
        finally:
            self.end_processes()
            shutil.rmtree(self.folder.parent, ignore_errors=True)

    def destroy_protected(self) -> Any:
        """Lift the protection and destroy. Return the clients of the account, which has neither machines nor groups."""
        self.settings["aws"]["protect"] = False
        self.up()
        self.destroy()
        aws = self.running.account.aws
        assert self.instances() == []
        assert {each["GroupName"] for each in aws.ec2.describe_security_groups()["SecurityGroups"]} == {"default"}
        return aws

    @property
    def app(self) -> dict[str, Any]:
        return self.settings["apps"]["hello"]

    @cached_property
    def url(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the URL as the first `up` reported it. It is to stay the same, whatever happens behind it."""
        return self.output("url")

    def write(self) -> None:
        """Write the stack file; what Pulumi keeps in it beside the settings stays."""
        document: dict[str, Any] = yaml.safe_load(self.file.read_text())
        document["config"] = {f"wsgi-fleet:{name}": block for name, block in self.settings.items()}
        self.file.write_text(yaml.safe_dump(document))

    def set_secret(self, name: str, value: str) -> None:
        self.set_config_secret(f"apps.hello.secrets.{name}", value)

    def environment(self) -> dict[str, str]:
        """Return a user's shell variables without AWS settings of their own, and the stand-ins on the PATH."""
        ours = {name: text for name, text in super().environment().items() if not name.startswith("AWS_")}
        plugins = [os.environ[PLUGINS]] if PLUGINS in os.environ else []
        return ours | self.running.region.environment() | {
            "PATH": ":".join([*plugins, str(self.folder / "tests" / "aws" / "bin"), ours["PATH"]]),
            FILE: str(self.folder.parent / "region.json"),
            "AWS_CA_BUNDLE": str(self.folder.parent / "authority.pem"),
        }  # fmt: skip

    def private_key(self) -> str:
        """Return the private key of its machines, as the operator's command finds it."""
        output = self.pulumi("stack", "output", "-s", self.name, "--json", "--show-secrets", "fleet")
        return json.loads(output)["reach"]["private_key"]

    def instances(self) -> list[dict[str, Any]]:
        """Return this region's machines as LXD has them."""
        every = json.loads(lxc("query", "/1.0/instances?recursion=1").stdout)
        return [each for each in every if label.is_labelled(each, self.running.region.owner)]
