"""The doctor on AWS: what of account, image, plugins and way in is wrong is told with its remedy, and nothing else."""

from __future__ import annotations

import json
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws

from platforms import operator
from platforms.aws import diagnosis
from platforms.aws.credentials import LOG_IN
from platforms.aws.image import DEBIAN_OWNER
from platforms.diagnosis import Finding
from settings.aws import Aws

MINE = "123456789012"
VERSIONS = {name: version(f"pulumi-{name}") for name in ("aws", "command")}
PLUGINS = [{"name": name, "version": version_} for name, version_ in VERSIONS.items()]
BLOCK: dict[str, Any] = {
    "region": "eu-central-1",
    "ami": "ami-0123456789abcdef0",
    "vpc_id": "vpc-01234567",
    "balancer_subnet_id": "subnet-0123456a",
    "app_subnet_ids": ["subnet-0123456b"],
    "admin_cidrs": ["198.51.100.0/24"],
}


def make_config(**changes: Any) -> Aws:
    return Aws.model_validate(BLOCK | changes)


def format_finding(finding: Finding) -> str:
    return f"{finding.subject}: {finding.problem} -> {finding.remedy}" if finding.problem else finding.subject


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the credentials of the user who runs this, and those that a machine of EC2 would get."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")


def list_plugins(monkeypatch: pytest.MonkeyPatch, plugins: list[dict[str, str]]) -> None:
    """Set the response of `pulumi plugin ls`."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        assert command == ["pulumi", "plugin", "ls", "--json"]
        return subprocess.CompletedProcess(command, 0, json.dumps(plugins).encode())

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setenv("PATH", "")


@mock_aws
def test_where_all_is_well_who_we_are_is_told_and_an_image_that_the_region_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    list_plugins(monkeypatch, PLUGINS)
    ec2 = cast("Any", boto3).client("ec2", region_name="eu-central-1")
    there = [each for each in ec2.describe_images()["Images"] if each["Architecture"] == "x86_64"]
    amd64 = {"size": {"instance_type": "t3.small"}}
    ami, owner = there[0]["ImageId"], there[0]["OwnerId"]
    # As it stands in a stack file: what Pulumi has encrypted is no value.
    block = BLOCK | {"ami": ami, "ssh_key_name": "ops", "ssh_private_key": {"secure": "v1:abc"}}
    checked = operator.check_host("aws", {"aws": block, "balancer": amd64}, stack="prod", project=Path())
    assert [format_finding(each) for each in checked] == [
        "plugin aws",
        "plugin command",
        f"AWS credentials (arn:aws:sts::{MINE}:user/moto)",
        f"image {ami} (of account {owner})",
    ]
    _, found = diagnosis.check_account(make_config(), diagnosis.image_kind({}))
    assert format_finding(found).startswith(
        "image ami-0123456789abcdef0: eu-central-1 has no such image, or it is not for your"
    )


def test_settings_that_cannot_work_are_named_and_aws_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    list_plugins(monkeypatch, PLUGINS)
    block = BLOCK | {"ami": "ami-00000000000000000", "app_subnet_ids": ["subnet-00000001", "subnet-1"], "amis": 1}
    found = operator.check_host("aws", {"aws": block}, stack="prod", project=Path())
    assert format_finding(found[-1]) == (
        "settings of AWS: these cannot work: ami, app_subnet_ids, amis -> "
        "`./fleet config -s prod` tells each with what is allowed; mend stacks/Pulumi.prod.yaml."
    )
    assert [each.subject for each in found] == ["plugin aws", "plugin command", "settings of AWS"]


def test_plugins_that_are_not_there_are_told_with_the_command_that_fetches_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    list_plugins(monkeypatch, [{"name": "aws", "version": "6.0.0"}])
    assert [format_finding(each) for each in diagnosis.check_plugins()] == [
        f"plugin {name}: version {version_} is not installed -> "
        f"`pulumi plugin install resource {name} {version_}` fetches it, as the first `pulumi up` does."
        for name, version_ in VERSIONS.items()
    ]
    for name in ("aws", "command"):
        (tmp_path / f"pulumi-resource-{name}").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [format_finding(each) for each in diagnosis.check_plugins()] == ["plugin aws", "plugin command"]


def test_without_credentials_or_with_a_profile_that_is_not_there_the_ways_to_log_in_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (found,) = diagnosis.check_account(make_config(), diagnosis.image_kind({}))
    assert format_finding(found) == f"AWS credentials: Unable to locate credentials -> {LOG_IN}"
    monkeypatch.setenv("AWS_PROFILE", "nope")
    (found,) = diagnosis.check_account(make_config(), diagnosis.image_kind({}))
    assert format_finding(found).startswith(
        "AWS credentials: The config profile (nope) could not be found -> `aws configure list-profiles` lists"
    )


@pytest.mark.usefixtures("credentials")
def test_a_region_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        (found,) = diagnosis.check_account(make_config(region="eu-nowhere-9"), diagnosis.image_kind({}))
    assert found.subject == "region eu-nowhere-9"
    assert found.problem.startswith("Could not connect to the endpoint URL")
    assert "`aws.region`" in found.remedy


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("call", "code", "subject", "remedy"),
    [
        ("GetCallerIdentity", "ExpiredToken", "AWS credentials", "They ended; log in again"),
        ("GetCallerIdentity", "InvalidClientTokenId", "AWS credentials", "That access key was deleted"),
        ("GetCallerIdentity", "SignatureDoesNotMatch", "AWS credentials", "The secret key is another"),
        ("GetCallerIdentity", "Throttling", "AWS credentials", "`aws sts get-caller-identity` asks the same"),
        (
            "DescribeImages",
            "UnauthorizedOperation",
            "image ami-0123456789abcdef0",
            "Ask the administrator of the account",
        ),
        ("DescribeImages", "AuthFailure", "image ami-0123456789abcdef0", "The region may be switched off"),
        ("DescribeImages", "InvalidAMIID.Unavailable", "image ami-0123456789abcdef0", "Ids differ by region"),
    ],
)
def test_what_aws_refuses_is_told_in_its_words_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, call: str, code: str, subject: str, remedy: str
) -> None:
    def answer(_client: object, operation: str, _arguments: object) -> dict[str, str]:
        if operation == call:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)
        return {"Arn": "arn:aws:iam::123456789012:user/ann", "Account": MINE}

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)
    wrong = [each for each in diagnosis.check_account(make_config(), diagnosis.image_kind({})) if each.problem]
    assert [each.subject for each in wrong] == [subject]
    assert wrong[0].remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("changes", "subject", "problem"),
    [
        ({}, "image ami-1 (Debian's)", ""),
        ({"OwnerId": MINE, "Name": "golden"}, "image ami-1 (yours)", ""),
        ({"OwnerId": "999999999999", "Name": "golden"}, "image ami-1 (of account 999999999999)", ""),
        (
            {"Architecture": "x86_64"},
            "image ami-1 (Debian's)",
            "it is for x86_64, and the instance types here are arm64",
        ),
        ({"State": "deregistered"}, "image ami-1 (Debian's)", "it is deregistered"),
        ({"Name": "debian-11-1"}, "image ami-1 (Debian's)", "it is debian-11-1, and `os` is debian-12"),
    ],
)
def test_an_image_is_judged_by_what_machines_here_can_boot(changes: Any, subject: str, problem: str) -> None:
    debian = {"ImageId": "ami-1", "OwnerId": DEBIAN_OWNER, "Architecture": "arm64", "State": "available"}
    kind = diagnosis.image_kind({"os": "debian-12"})
    found = diagnosis.image(debian | {"Name": "debian-12-arm64-20261101-2288"} | changes, MINE, kind)
    assert (found.subject, found.problem) == (subject, problem)
    assert bool(found.remedy) == bool(problem)


def test_the_way_in_is_open_closed_or_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert operator.check_connection({"platform": "lxd", "owner": "local-1"}) == []
    reach = {"platform": "aws", "jump_address": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(diagnosis, "SSH", server.getsockname()[1])
        (found,) = operator.check_connection(reach)
        assert format_finding(found) == f"port {diagnosis.SSH} of the balancer (127.0.0.1)"
    (found,) = operator.check_connection(reach)
    assert found.problem.endswith("Connection refused")
    assert found.remedy.startswith("Its SSH server is down")

    def silent(address: tuple[str, int], timeout: float) -> None:
        raise TimeoutError(address, timeout)

    monkeypatch.setattr("socket.create_connection", silent)
    (found,) = operator.check_connection(reach)
    assert found.problem == "it did not respond in 5 s"
    assert "aws.admin_cidrs" in found.remedy


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({"State": "update-in-progress"}, "endpoint eice-1"),
        ({"State": "create-in-progress"}, "endpoint eice-1: it is create-in-progress -> A new one takes minutes"),
        (
            {"State": "create-failed", "StateMessage": "no room"},
            "endpoint eice-1: it is create-failed: no room -> A new",
        ),
        ("InvalidInstanceConnectEndpointId.NotFound", " -> `pulumi up --refresh` makes it again."),
        ("UnauthorizedOperation", " -> Ask the administrator of the account for ec2:DescribeInstanceConnectEndpoints."),
    ],
)
def test_an_endpoint_takes_tunnels_or_it_is_said_why_not(
    monkeypatch: pytest.MonkeyPatch, response: dict[str, str] | str, message: str
) -> None:
    def ask(_client: BaseClient, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        assert (operation, given) == (
            "DescribeInstanceConnectEndpoints", {"InstanceConnectEndpointIds": ["eice-1"]},
        )  # fmt: skip
        if isinstance(response, str):
            raise ClientError({"Error": {"Code": response, "Message": "no"}}, operation)
        return {"InstanceConnectEndpoints": [response]}

    monkeypatch.setattr(BaseClient, "_make_api_call", ask)
    endpoint = {"id": "eice-1", "dns_name": "eice.example", "region": "eu-central-1"}
    (found,) = operator.check_connection({"platform": "aws", "endpoint": endpoint})
    assert message in format_finding(found)
