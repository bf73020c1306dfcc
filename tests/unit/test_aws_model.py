"""The program of each AWS stack, carried out on an emulated account by AWS's own calls and taken away again."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import mock_aws, mock_lxd
from harness.mock_engine import Registered, build
from harness.program import ROOT, project, run, stack_file, text_of
from platforms.aws.image import ImageKind
from settings.operating_system import OPERATING_SYSTEMS
from tests.aws.account import LOOKUPS, Account
from tests.aws.endpoint_calls import Endpoints
from tests.aws.group_calls import Groups
from tests.aws.scaling_calls import added_to_moto
from tests.aws.scaling_policies import Policies
from tests.aws.server import DEFAULT_IMAGE, prepared, serving
from tests.unit.aws_fleet import TOPIC
from tests.unit.stack_blocks import app
from tests.unit.test_alb_settings import SERVERS, stack
from tests.unit.test_aws_group import SPOT
from tests.unit.test_capacity_settings import group

pytestmark = pytest.mark.aws
STACKS = sorted(path.name.split(".")[1] for path in (ROOT / "stacks").glob("Pulumi.*.yaml"))
# Pulumi only forgets them.
FORGOTTEN = (
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", "aws:acm/certificateValidation:CertificateValidation",
)  # fmt: skip
WITHOUT_NAT = stack_file("prod")
WITHOUT_NAT["aws"]["vpc"] |= {"nat_gateways": "none", "ipv6_egress": True}
# What no stack file of ours has: groups behind a load balancer, entered by an endpoint.
FRONT: dict[str, Any] = {"request_certificate": True, "access_logs": {}, "slow_start_s": 30}
SCALED = stack(
    aws={"route53_zone_id": "Z1", "alarms": {"sns_topic_arn": TOPIC}, "protect": False, "ssm": True},
    balancer={"kind": "alb", "hostnames": ["shop.example.com"], "alb": FRONT},
    apps={
        "hello": SPOT,
        "docs": group({"requests_per_target": 900}, path="/docs", sticky_sessions=True),
        "api": app(**SERVERS, path="/api"),
    },
)


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


@contextmanager
def account_in(region: str) -> Generator[Account]:
    """Yield an empty account, with the calls about groups and endpoints that moto itself does not carry out."""
    with serving() as endpoint, Endpoints("eice.example").added_to_moto():
        account = Account(endpoint, region)
        groups = Groups(account.aws)
        policies = Policies(account.aws, groups, requests=lambda _: 0, cpu_s=lambda _: 0, minute_s=60)
        with added_to_moto(groups.lock, groups.calls(), policies.calls()):
            yield account


@pytest.mark.parametrize(
    ("name", "blocks", "image"),
    [
        *((name, stack_file(name), DEFAULT_IMAGE) for name in STACKS if stack_file(name)["platform"] == "aws"),
        ("prod", WITHOUT_NAT, ImageKind(OPERATING_SYSTEMS["debian-12"], "amd64")),
        ("scaled", SCALED, DEFAULT_IMAGE),
    ],
)
def test_aws_takes_every_resource_and_a_destroyed_stack_leaves_nothing(
    name: str, blocks: dict[str, Any], image: ImageKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path))
    blocks = copy.deepcopy(blocks) | {"os": image.system.name}
    if image.architecture == "amd64":
        blocks = json.loads(json.dumps(blocks).replace('"t4g.', '"t3.'))
    with account_in(blocks["aws"]["region"]) as account:
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
        has_balancer = blocks["balancer"].get("kind") != "alb"
        fleets = [each["fleet"] for each in blocks["apps"].values()]
        assert len(found) == has_balancer + sum(each.get("servers", 3) for each in fleets if "capacity" not in each)
        public = [f"http://{each['PublicIpAddress']}" for each in found if "PublicIpAddress" in each]
        assert public == [built.exports["url"]] * has_balancer

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
        assert [urn for urn in made.keys() - differ() if made[urn].type not in FORGOTTEN] == []
        reservations = aws.ec2.describe_instances()["Reservations"]
        states = {each["State"]["Name"] for reservation in reservations for each in reservation["Instances"]}
        groups = {each["GroupName"] for each in aws.ec2.describe_security_groups()["SecurityGroups"]}
        assert (states, groups) == ({"terminated"}, {"default"})
        assert aws.ec2.describe_volumes()["Volumes"] + aws.ec2.describe_addresses()["Addresses"] == []
        assert aws.iam.list_roles()["Roles"] + aws.iam.list_instance_profiles()["InstanceProfiles"] == []
        assert aws.s3.list_buckets()["Buckets"] + aws.logs.describe_log_groups()["logGroups"] == []
