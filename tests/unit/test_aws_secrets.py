"""Secrets of releases as parameters of Systems Manager: on an emulated account, and from there to a machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import boto3
import common
import pytest
import staging
from common import Failure
from fetch import fetch_secrets
from moto import mock_aws
from moto.server import ThreadedMotoServer

from platforms import operator
from platforms.aws import parameters
from platforms.aws.ssm import SsmSecrets
from releases.release import secrets_digest
from releases.rollout import RolloutError
from tests.unit.app_server import lay_out
from tests.unit.cloud import REGION, on_this_host
from tests.unit.fake_fleet import FakeFleet, MemorySecrets, MemoryStore, release, roll_out

PATH = "/wsgi-fleet/prod"
AWKWARD = {
    "EMPTY": "",
    "BRACES": "{{ssm:x}} {% raw %}",
    "LINES": 'first\nsecond "quoted" \\ $HOME',
    "UNICODE": "Grüße ☃",
    "LONG": "x" * 5000,
}
PROVIDER = parameters._Provider()  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(autouse=True)
def _nobodys_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")


@pytest.fixture
def ssm() -> Iterator[Any]:
    """Yield the Systems Manager of an empty account."""
    with mock_aws():
        yield cast("Any", boto3).client("ssm", region_name=REGION)


def names(ssm: Any) -> list[str]:
    pages = ssm.get_paginator("describe_parameters").paginate()
    return sorted(each["Name"] for page in pages for each in page["Parameters"])


def secrets() -> SsmSecrets:
    return SsmSecrets(f"{PATH}/hello", REGION)


def test_each_secret_is_an_encrypted_parameter_below_its_release(ssm: Any) -> None:
    secrets().write("r1", {"PASSWORD": "hunter2"})
    (made,) = ssm.describe_parameters()["Parameters"]
    assert (made["Name"], made["Type"], made["KeyId"]) == (f"{PATH}/hello/r1/PASSWORD", "SecureString", "alias/aws/ssm")
    assert ssm.get_parameter(Name=made["Name"], WithDecryption=True)["Parameter"]["Value"] == '"hunter2"'


def test_a_key_that_is_given_is_used(ssm: Any) -> None:
    key = f"arn:aws:kms:{REGION}:123456789012:key/12345678-1234-1234-1234-123456789012"
    SsmSecrets(f"{PATH}/hello", REGION, key).write("r1", {"PASSWORD": "hunter2"})
    assert [each["KeyId"] for each in ssm.describe_parameters()["Parameters"]] == [key]


def test_what_is_there_is_not_written_again_and_what_is_wrong_is_mended(ssm: Any) -> None:
    many = {f"NAME_{number:02}": str(number) for number in range(25)}
    secrets().write("r1", many)
    ssm.put_parameter(Name=f"{PATH}/hello/r1/NAME_07", Value="x", Type="SecureString", Overwrite=True)
    secrets().write("r1", many)
    versions = {name: ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Version"] for name in names(ssm)}
    assert {name[-2:]: version for name, version in versions.items() if version != 1} == {"07": 3}


def test_a_value_has_no_braces_that_systems_manager_would_refuse(ssm: Any) -> None:
    secrets().write("r1", AWKWARD)
    values = [ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"] for name in names(ssm)]
    assert [value for value in values if not value or "{{" in value] == []


def test_a_secret_that_is_too_long_is_refused_by_name_before_it_is_sent(ssm: Any) -> None:
    with pytest.raises(ValueError, match="the secret BIG has 9002 characters as JSON, and a parameter takes 8192"):
        secrets().write("r1", {"BIG": "x" * 9000})
    assert names(ssm) == []


@pytest.mark.usefixtures("ssm")
def test_a_refusal_of_systems_manager_does_not_quote_the_secret() -> None:
    with pytest.raises(ValueError, match=r"the parameter aws/hello/r1/A was not written: \w+$") as error:
        SsmSecrets("aws/hello", REGION).write("r1", {"A": "hunter2"})
    assert "hunter2" not in repr(error.value)
    assert error.value.__suppress_context__


@pytest.mark.usefixtures("ssm")
def test_releases_are_told_apart_and_forgotten_one_by_one() -> None:
    mine, other = secrets(), SsmSecrets(f"{PATH}/hello-2", REGION)
    for kept in ("r1", "r10", "r2"):
        mine.write(kept, {f"N{number}": "x" for number in range(12)})
    other.write("r1", {"A": "x"})
    assert mine.releases() == ["r1", "r10", "r2"]
    mine.delete("r1")
    mine.delete("never-there")
    assert mine.releases() == ["r10", "r2"]
    assert other.releases() == ["r1"]


def test_a_stack_takes_a_free_path_and_leaves_nothing_below_it(ssm: Any) -> None:
    made = PROVIDER.create({"path": PATH, "region": REGION})
    assert (made.id, made.outs) == (PATH, {"path": PATH, "region": REGION})
    secrets().write("r1", {f"N{number}": "x" for number in range(12)})
    SsmSecrets("/wsgi-fleet/prod-2/hello", REGION).write("r1", {"A": "x"})
    PROVIDER.delete(PATH, {"path": PATH, "region": REGION})
    assert names(ssm) == ["/wsgi-fleet/prod-2/hello/r1/A"]
    PROVIDER.delete(PATH, {"path": PATH, "region": REGION})


def test_a_path_that_is_in_use_is_not_taken(ssm: Any) -> None:
    secrets().write("r1", {"A": "x"})
    with pytest.raises(parameters.ParametersThere, match=f"there are parameters below {PATH} in {REGION} already"):
        PROVIDER.create({"path": PATH, "region": REGION})
    assert names(ssm) == [f"{PATH}/hello/r1/A"]


def test_another_region_is_another_place_and_nothing_else_changes() -> None:
    there = {"path": PATH, "region": REGION}
    assert PROVIDER.diff(PATH, there, dict(there)).changes is False
    moved = PROVIDER.diff(PATH, there, there | {"region": "eu-west-1"})
    assert (moved.changes, moved.replaces) == (True, ["region"])


def test_a_store_without_parameters_keeps_no_secrets() -> None:
    assert operator.secrets({"platform": "lxd", "path": "/srv"}, "hello") is None


def test_a_rollout_publishes_secrets_and_forgets_them_with_the_release() -> None:
    fleet, kept = FakeFleet(MemoryStore()), MemorySecrets()
    ids = [roll_out(fleet, number, keep=2, kept=kept) for number in (1, 2, 3)]
    assert kept.kept == {id_: {"PASSWORD": "hunter2"} for id_ in ids[1:]}
    assert not any(b"hunter2" in content for content in fleet.store.files.values())


def test_a_release_without_secrets_publishes_none() -> None:
    kept = MemorySecrets()
    roll_out(FakeFleet(MemoryStore()), 1, kept=kept, secrets={})
    assert kept.kept == {}


def test_secrets_that_cannot_be_published_stop_the_release_before_any_server() -> None:
    fleet, kept = FakeFleet(MemoryStore()), MemorySecrets()
    kept.fails = "the secret BIG has 9002 characters"
    with pytest.raises(RolloutError, match="the secret BIG has 9002 characters"):
        roll_out(fleet, 1, kept=kept)
    assert fleet.did("stage") == fleet.did("switch") == []
    assert "pointer" not in fleet.store.files
    assert release(1).id not in kept.kept


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the URL of an emulated account behind HTTP, for a program that is not in Python."""
    emulated = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    emulated.start()
    url = "http://{}:{}".format(*emulated.get_host_and_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    yield url
    emulated.stop()


def test_a_booting_server_reads_what_the_rollout_wrote(
    account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, monkeypatch)
    (common.CONFIG / "key").write_text("0123")
    (common.CONFIG / "store").write_text("s3://releases/prod/hello")
    many = AWKWARD | {f"NAME_{number}": str(number) for number in range(20)}
    spec = {"platform": "aws", "secrets": {"path": PATH, "region": REGION, "kms_key_arn": ""}}
    found = operator.secrets(spec, "hello")
    assert found
    found.write("r2", many)
    with on_this_host(monkeypatch, ssm=account):
        assert fetch_secrets("s3://releases/prod/hello", "r2") == many
        assert staging.find_secrets("r2", secrets_digest("0123", many)) == many
        with pytest.raises(Failure, match="its secrets changed while this server was away; run `pulumi up`"):
            staging.find_secrets("r3", secrets_digest("0123", many))


def test_a_server_that_has_the_secrets_already_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = lay_out(tmp_path, monkeypatch)
    (common.CONFIG / "key").write_text("0123")
    (common.CONFIG / "store").write_text("s3://releases/prod/hello")
    digest = secrets_digest("0123", {"A": "x"})
    (host.place("r1", secrets_digest=digest) / "secrets.json").write_text('{"A": "x"}')
    with on_this_host(monkeypatch) as cloud:
        assert staging.find_secrets("r2", digest) == {"A": "x"}
        assert staging.find_secrets("r2", "") == {}
        assert cloud.wanted == []
