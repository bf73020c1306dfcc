"""The program of each AWS stack, carried out on an emulated account by AWS's own calls and taken away again."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import mock_aws, mock_lxd
from harness.mock_engine import Registered, build
from harness.program import ROOT, project, run, stack_file, text_of
from platforms.aws.image import ImageKind
from settings.operating_system import OPERATING_SYSTEMS
from tests.aws.account import LOOKUPS, Account
from tests.aws.server import DEFAULT_IMAGE, prepared, serving

pytestmark = pytest.mark.aws
STACKS = sorted(path.name.split(".")[1] for path in (ROOT / "stacks").glob("Pulumi.*.yaml"))


class Outputs(Mapping[str, Callable[[Registered], Mapping[str, Any]]]):
    """The responses of the account, for every type of AWS. For a type that it does not know the program fails.

    states: URN -> id and state of what was made, each when the program registered it.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._others = {**mock_lxd.OUTPUTS, **mock_aws.OUTPUTS}
        self.states: dict[str, tuple[str, dict[str, Any]]] = {}

    def __getitem__(self, type_: str) -> Callable[[Registered], Mapping[str, Any]]:
        if type_ == "pulumi:providers:aws":
            return self._configure
        return self._make if type_.startswith("aws:") else self._others[type_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)

    def _configure(self, provider: Registered) -> Mapping[str, Any]:
        assert provider.inputs["region"] == self._account.region
        self._account.default_tags = json.loads(provider.inputs["defaultTags"])["tags"]
        return {}

    def _make(self, resource: Registered) -> Mapping[str, Any]:
        id_, state = self._account.create(resource.type, resource.values)
        self.states[resource.urn] = id_, state
        # Inputs stay as they are: some are secret.
        return {"id": id_, **{key: value for key, value in state.items() if key not in resource.inputs}}


@pytest.mark.parametrize(
    ("name", "image", "vpc"),
    [
        *((name, DEFAULT_IMAGE, {}) for name in STACKS if stack_file(name)["platform"] == "aws"),
        ("prod", ImageKind(OPERATING_SYSTEMS["debian-12"], "amd64"), {"nat_gateways": "none", "ipv6_egress": True}),
    ],
)
def test_aws_takes_every_resource_and_a_destroyed_stack_leaves_nothing(
    name: str, image: ImageKind, vpc: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path))
    blocks: dict[str, Any] = stack_file(name) | {"os": image.system.name}
    blocks["aws"].setdefault("vpc", {}).update(vpc)
    if image.architecture == "amd64":
        blocks = json.loads(json.dumps(blocks).replace('"t4g.', '"t3.'))
    with serving() as endpoint:
        account = Account(endpoint, blocks["aws"]["region"])
        aws: Any = account.aws
        outputs = Outputs(account)
        # What the settings name and no resource makes (a VPC, the image) is there before. All may have secrets in them.
        blocks["aws"] = prepared(account, blocks["aws"], kind=image)
        config = {f"wsgi-fleet:{key}": text_of(value) for key, value in blocks.items()}
        lookups = {token: functools.partial(account.invoke, token) for token in LOOKUPS}
        built = build(run, secret_config=config, lookups=lookups, outputs=outputs, stack=name)
        made = {each.urn: each for each in built.resources if each.type.startswith("aws:")}
        assert set(outputs.states) == made.keys()
        reservations = aws.ec2.describe_instances()["Reservations"]
        found: list[Any] = [each for reservation in reservations for each in reservation["Instances"]]
        family = "t3" if image.architecture == "amd64" else "t4g"
        assert {each["InstanceType"].split(".")[0] for each in found} == {family}
        assert built.logs == []
        assert len(found) == 1 + sum(app["fleet"]["servers"] for app in blocks["apps"].values())
        public = [each["PublicIpAddress"] for each in found if "PublicIpAddress" in each]
        assert [f"http://{address}" for address in public] == [built.exports["url"]]

        def differ() -> list[str]:
            """Return what a refresh would find changed or gone."""
            states = outputs.states.items()
            return [urn for urn, (id_, state) in states if account.read(made[urn].type, id_, state) != state]

        assert differ() == []
        left = list(made.values())
        while left:
            needed = {urn for each in left for urn in (*each.dependencies, each.parent)}
            for each in [each for each in left if each.urn not in needed]:
                account.delete(each.type, *outputs.states[each.urn])
                left.remove(each)
        assert [urn for urn in made.keys() - differ() if "defaultSecurityGroup" not in urn] == []
        reservations = aws.ec2.describe_instances()["Reservations"]
        states = {each["State"]["Name"] for reservation in reservations for each in reservation["Instances"]}
        groups = {each["GroupName"] for each in aws.ec2.describe_security_groups()["SecurityGroups"]}
        assert (states, groups) == ({"terminated"}, {"default"})
        assert aws.ec2.describe_volumes()["Volumes"] + aws.ec2.describe_addresses()["Addresses"] == []
        assert aws.iam.list_roles()["Roles"] + aws.iam.list_instance_profiles()["InstanceProfiles"] == []
        assert aws.s3.list_buckets()["Buckets"] + aws.logs.describe_log_groups()["logGroups"] == []
