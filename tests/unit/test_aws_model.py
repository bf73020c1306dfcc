"""The program of each AWS stack, carried out on an emulated account by AWS's own calls and taken away again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.program import ROOT, project, stack_file
from tests.aws.account import Account
from tests.aws.program import carry_out
from tests.aws.server import serving

pytestmark = pytest.mark.aws
STACKS = sorted(path.name.split(".")[1] for path in (ROOT / "stacks").glob("Pulumi.*.yaml"))


@pytest.mark.parametrize("name", [name for name in STACKS if stack_file(name)["platform"] == "aws"])
def test_aws_takes_every_resource_and_a_destroyed_stack_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path))
    blocks = stack_file(name)
    with serving() as endpoint:
        carried = carry_out(name, Account(endpoint, blocks["aws"]["region"]))
        aws: Any = carried.account.aws
        assert set(carried.states) == {each.urn for each in carried.build.resources if each.type.startswith("aws:")}
        reservations = aws.ec2.describe_instances()["Reservations"]
        found: list[Any] = [each for reservation in reservations for each in reservation["Instances"]]
        assert len(found) == 1 + sum(app["fleet"]["servers"] for app in blocks["apps"].values())
        public = [each["PublicIpAddress"] for each in found if "PublicIpAddress" in each]
        assert [f"http://{address}" for address in public] == [carried.build.exports["url"]]
        kinds = {each.urn: each.type for each in carried.build.resources}
        read = carried.account.read
        # A refresh finds nothing to do.
        assert [urn for urn, (id_, state) in carried.states.items() if read(kinds[urn], id_, state) != state] == []
        carried.destroy()
        left = [urn for urn, (id_, state) in carried.states.items() if read(kinds[urn], id_, state)]
        assert [urn.rpartition("::")[2] for urn in left if "defaultSecurityGroup" not in urn] == []
        reservations = aws.ec2.describe_instances()["Reservations"]
        states = {each["State"]["Name"] for reservation in reservations for each in reservation["Instances"]}
        groups = {each["GroupName"] for each in aws.ec2.describe_security_groups()["SecurityGroups"]}
        assert (states, groups) == ({"terminated"}, {"default"})
        assert aws.ec2.describe_volumes()["Volumes"] + aws.ec2.describe_addresses()["Addresses"] == []
        assert aws.iam.list_roles()["Roles"] + aws.iam.list_instance_profiles()["InstanceProfiles"] == []
        assert aws.s3.list_buckets()["Buckets"] + aws.logs.describe_log_groups()["logGroups"] == []
