"""balancer.self_healing: what is rejected, and what the program asks AWS for."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from unittest import mock

import pytest
from pydantic import SecretStr

from harness.mock_engine import Build, Secret
from harness.program import plan, project
from policies import findings
from policies.cost import costs
from policies.plan import from_build
from rendering.htpasswd import htpasswd_line
from settings import self_healing
from settings.access import BasicAuth
from settings.balancer import Balancer
from settings.proxy import Proxy
from settings.tls import Tls
from tests.certificates import Authority
from tests.unit.aws_fleet import ASSOCIATION, EIP, INSTANCE, POLICY, STEP, TOPIC, statements
from tests.unit.stack_blocks import problems_of, production

GROUP, TEMPLATE = "aws:autoscaling/group:Group", "aws:ec2/launchTemplate:LaunchTemplate"
OBJECT, PARAMETER = "aws:s3/bucketObjectv2:BucketObjectv2", "aws:ssm/parameter:Parameter"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
NAME, STORE = "wsgi-fleet-prod._balancer", "prod/_balancer"
HOST = "shop.example.org"


def stack(balancer: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    blocks = production()
    return blocks | {"balancer": blocks["balancer"] | {"self_healing": True} | (balancer or {})} | changes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a stack with a certificate and alarms."""
    signed = Authority().sign([HOST])
    tls = {"certificate": signed.certificate, "private_key": signed.private_key}
    blocks = stack({"hostnames": [HOST], "tls": tls})
    blocks["aws"]["alarms"] = {"sns_topic_arn": TOPIC}
    # No file has the key encrypted.
    of_file = mock.patch("settings.stack_file.find_misplaced", return_value=[])
    with of_file, contextlib.chdir(project(tmp_path_factory.mktemp("whole"))):
        return plan("prod", **blocks)


def test_secrets_that_are_too_long_to_keep_are_rejected() -> None:
    signed = Authority().sign([HOST])

    def found(certificates: int, users: int) -> list[str]:
        tls = Tls(certificate=signed.certificate * certificates, private_key=SecretStr(signed.private_key))
        access = BasicAuth(realm="x", users={f"user-{each:03}": SecretStr("opensesame-1234") for each in range(users)})
        # Copied, not made: that they are a chain is checked elsewhere.
        balancer = Balancer(proxy=Proxy(basic_auth=access)).model_copy(update={"tls": tls})
        return [*self_healing.check_lengths(balancer)]

    assert found(30, 160) == []
    first, second = found(40, 200)
    assert first.startswith("balancer.tls.certificate: has 24,")
    assert second.startswith("balancer.proxy.basic_auth.users: 200 users take 25,600 characters, and with ")
    assert len(htpasswd_line("user-000", "x", "key")) == len("user-000") + self_healing.LINE_CHARS


@pytest.mark.parametrize(
    ("balancer", "changes", "told"),
    [
        ({}, {"platform": "lxd"}, "balancer.self_healing: true: lxd replaces no machine by itself"),
        ({"proxy": {"kind": "apache"}}, {}, "balancer.proxy.kind: apache:"),
        ({"tls": {"acme": {"email": "ops@example.org"}}, "hostnames": [HOST]}, {}, "balancer.tls.acme: with"),
        ({}, {"security_updates": {"reboot": True}}, "security_updates.reboot: true: with"),
        (
            {}, {"aws": production(transport="instance_connect_endpoint", admin_cidrs=[])["aws"]},
            "aws.transport: instance_connect_endpoint: with",
        ),
    ],
)  # fmt: skip
def test_what_a_machine_cannot_do_that_comes_by_itself_is_rejected(
    balancer: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    found = problems_of(stack(balancer, **changes))
    assert any(each.startswith(told) for each in found), found


def test_the_balancer_is_a_group_of_one_over_the_public_subnets_and_keeps_its_address(whole: Build) -> None:
    given, template = whole.one(GROUP).inputs, whole.one(TEMPLATE).inputs
    assert (given["name"], given["minSize"], given["maxSize"]) == (NAME, 1, 1)
    assert given["vpcZoneIdentifiers"] == ["public-a-id", "public-b-id", "public-c-id"]
    assert [each["lifecycleTransition"] for each in given["initialLifecycleHooks"]] == [
        "autoscaling:EC2_INSTANCE_LAUNCHING"
    ]
    assert template["networkInterfaces"][0]["associatePublicIpAddress"] == "true"
    assert whole.of(ASSOCIATION) == []
    assert "balancer" not in {each.name for each in whole.of(INSTANCE)}
    assert [each.name for each in whole.of(EIP) if each.name.startswith("balancer")] == ["balancer-address"]


def test_its_role_moves_that_address_to_its_own_machines_alone(whole: Build) -> None:
    (policy,) = [each.inputs["policy"] for each in whole.of(POLICY) if each.name == "balancer"]
    address, machines = [each for each in statements(policy) if each["Action"] == "ec2:AssociateAddress"]
    assert address["Resource"] == "arn:aws:ec2:eu-central-1:*:elastic-ip/eipalloc-balancer-address"
    assert machines["Condition"]["StringEquals"] == {
        "aws:ResourceTag/wsgi-fleet:stack": "prod", "aws:ResourceTag/Name": "prod-balancer",
    }  # fmt: skip
    tagged = [each["tags"] for each in whole.one(TEMPLATE).inputs["tagSpecifications"]]
    assert all((each["wsgi-fleet:stack"], each["Name"]) == ("prod", "prod-balancer") for each in tagged)
    (dead,) = [each for each in statements(policy) if each["Action"] == "autoscaling:SetInstanceHealth"]
    assert dead["Resource"].endswith(f":autoScalingGroupName/{NAME}")


def test_each_step_is_kept_once_it_was_done_and_no_secret_in_plain(whole: Build) -> None:
    kept = {each.inputs["key"].removeprefix(f"{STORE}/"): each for each in whole.of(OBJECT)}
    steps = {each.name.removeprefix("balancer-"): each for each in whole.of(STEP) if each.name.startswith("balancer")}
    assert {*steps} == {"booted", "monitoring", "certificate", "site"}
    assert {key for key in kept if key.startswith("steps/")} == {f"steps/{name}.json" for name in steps}
    for name, step in steps.items():
        assert step.urn in kept[f"steps/{name}.json"].dependencies
    site = json.loads(kept["steps/site.json"].inputs["content"])
    assert site["stdin"] == steps["site"].inputs["stdin"]
    certificate = json.loads(kept["steps/certificate.json"].inputs["content"])
    assert (certificate["stdin"], certificate["command"][1]) == ("", "given")
    parts = [each for each in whole.of(PARAMETER) if each.name.startswith("balancer-certificate-")]
    path = f"/wsgi-fleet/{STORE}/{certificate['secret']}"
    assert [each.inputs["name"] for each in parts] == [f"{path}/{number}" for number in range(len(parts))]
    values = [each.inputs["value"] for each in parts]
    assert all(isinstance(each, Secret) for each in values)
    assert "".join(json.loads(each.value) for each in values) == steps["certificate"].inputs["stdin"].value


def test_its_metrics_and_alarms_have_the_name_of_the_group(whole: Build) -> None:
    of_balancer = [each.inputs for each in whole.of(ALARM) if each.name in ("balancer-errors", "balancer-disk")]
    assert [each["dimensions"] for each in of_balancer] == [{"AutoScalingGroupName": NAME}] * 2
    assert any(each.name == "balancer-missing" for each in whole.of(ALARM))


def test_it_keeps_to_the_controls_and_costs_what_one_machine_costs(whole: Build) -> None:
    assert findings(from_build(whole), stack="prod") == []
    assert {each.what: each.number for each in costs(from_build(whole))}["machine, t4g.medium"] == 4
