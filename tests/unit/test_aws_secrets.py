"""Secrets of releases as parameters of Systems Manager: on an emulated account, and from there to a machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import pytest
import staging
from common import AppServerError
from fetch import fetch_secrets

from platforms import operator
from platforms.aws import parameters
from platforms.aws.ssm import SsmSecrets
from releases.manifest import secrets_digest
from releases.rollout import RolloutError
from tests.aws.kind import Clients
from tests.aws.server import serving
from tests.unit.app_server import lay_out
from tests.unit.cloud import REGION, on_this_host
from tests.unit.fake_fleet import FakeFleet, MemorySecrets, MemoryStore, release, roll_out

KEY = f"arn:aws:kms:{REGION}:123456789012:key/12345678-1234-1234-1234-123456789012"
AWKWARD = {
    "EMPTY": "",
    "BRACES": "{{ssm:x}} {% raw %}",
    "LINES": 'first\nsecond "quoted" \\ $HOME',
    "UNICODE": "Grüße ☃",
    "LONG": "x" * 5000,
}
PROVIDER = parameters._Provider()  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve an emulated account by HTTP, for the programs that are not in Python as well."""
    with serving() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def _emulated(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)


class Parameters:
    """The parameters of a stack in an account that all tests share. secrets: of its application hello."""

    def __init__(self, ssm: Any, path: str) -> None:
        self.ssm, self.path = ssm, path
        self.secrets = SsmSecrets(f"{path}/hello", REGION)

    def found(self) -> dict[str, dict[str, Any]]:
        """Return name below the path -> parameter, decrypted, with the description."""
        pages = self.ssm.get_paginator("describe_parameters").paginate()
        described = [each for page in pages for each in page["Parameters"] if each["Name"].startswith(f"{self.path}/")]
        return {each["Name"].removeprefix(f"{self.path}/"): each | self._value(each["Name"]) for each in described}

    def _value(self, name: str) -> dict[str, Any]:
        return self.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]


@pytest.fixture
def account_parameters(endpoint: str, request: pytest.FixtureRequest) -> Parameters:
    return Parameters(Clients(endpoint, REGION).ssm, f"/wsgi-fleet/{request.node.name}")


def test_each_secret_is_an_encrypted_parameter_below_its_release(account_parameters: Parameters) -> None:
    account_parameters.secrets.write("r1", {"PASSWORD": "hunter2"})
    SsmSecrets(f"{account_parameters.path}/hello", REGION, KEY).write("r2", {"PASSWORD": "hunter2"})
    found = {name: (each["Type"], each["KeyId"], each["Value"]) for name, each in account_parameters.found().items()}
    assert found == {
        "hello/r1/PASSWORD": ("SecureString", "alias/aws/ssm", '"hunter2"'),
        "hello/r2/PASSWORD": ("SecureString", KEY, '"hunter2"'),
    }


def test_what_is_there_is_not_written_again_and_what_is_wrong_is_mended(account_parameters: Parameters) -> None:
    many = {f"NAME_{number:02}": str(number) for number in range(25)}
    account_parameters.secrets.write("r1", many)
    account_parameters.ssm.put_parameter(
        Name=f"{account_parameters.path}/hello/r1/NAME_07", Value="x", Type="SecureString", Overwrite=True
    )
    account_parameters.secrets.write("r1", many)
    assert {
        name[-2:]: each["Version"] for name, each in account_parameters.found().items() if each["Version"] != 1
    } == {"07": 3}


def test_values_are_such_that_systems_manager_takes_them_or_refused_by_name(account_parameters: Parameters) -> None:
    account_parameters.secrets.write("r1", AWKWARD)
    assert [
        name for name, each in account_parameters.found().items() if not each["Value"] or "{{" in each["Value"]
    ] == []
    with pytest.raises(ValueError, match="the secret BIG has 9002 characters as JSON, and a parameter takes 8192"):
        account_parameters.secrets.write("r2", {"BIG": "x" * 9000})
    with pytest.raises(ValueError, match=r"the parameter aws/hello/r1/A was not written: \w+$") as error:
        SsmSecrets("aws/hello", REGION).write("r1", {"A": "hunter2"})
    assert "hunter2" not in repr(error.value)
    assert error.value.__suppress_context__
    assert account_parameters.secrets.releases() == ["r1"]


def test_releases_are_told_apart_and_forgotten_one_by_one(account_parameters: Parameters) -> None:
    mine, other = account_parameters.secrets, SsmSecrets(f"{account_parameters.path}/hello-2", REGION)
    for kept in ("r1", "r10", "r2"):
        mine.write(kept, {f"N{number}": "x" for number in range(12)})
    other.write("r1", {"A": "x"})
    assert mine.releases() == ["r1", "r10", "r2"]
    sizes: list[int] = []

    def count(params: dict[str, list[str]], **_: Any) -> None:
        sizes.append(len(params["Names"]))

    mine.client.meta.events.register("provide-client-params.ssm.DeleteParameters", count)
    mine.delete("r1")
    mine.delete("never-there")
    # moto takes any number at once.
    assert sizes == [10, 2]
    assert mine.releases() == ["r10", "r2"]
    assert other.releases() == ["r1"]


def test_a_stack_takes_a_free_path_and_leaves_nothing_below_it(account_parameters: Parameters) -> None:
    props = {"path": account_parameters.path, "region": REGION}
    made = PROVIDER.create(props)
    assert (made.id, made.outs) == (account_parameters.path, props)
    account_parameters.secrets.write("r1", {f"N{number}": "x" for number in range(12)})
    beside = SsmSecrets(f"{account_parameters.path}-2/hello", REGION)
    beside.write("r1", {"A": "x"})
    with pytest.raises(
        parameters.ParametersThere, match=f"there are parameters below {account_parameters.path} in {REGION} alr"
    ):
        PROVIDER.create(props)
    assert len(account_parameters.found()) == 12
    for _ in range(2):
        PROVIDER.delete(account_parameters.path, props)
        assert (account_parameters.found(), beside.releases()) == ({}, ["r1"])


def test_another_region_is_another_place_and_nothing_else_changes() -> None:
    old = {"path": "/p", "region": REGION}
    assert PROVIDER.diff("/p", old, dict(old)).changes is False
    moved = PROVIDER.diff("/p", old, old | {"region": "eu-west-1"})
    assert (moved.changes, moved.replaces) == (True, ["region"])


def test_a_store_without_parameters_keeps_no_secrets() -> None:
    assert operator.secrets({"platform": "lxd", "path": "/srv"}, "hello") is None


def test_a_rollout_publishes_secrets_and_forgets_them_with_the_release() -> None:
    fleet, kept = FakeFleet(MemoryStore()), MemorySecrets()
    ids = [roll_out(fleet, number, keep_releases=2, kept=kept) for number in (1, 2, 3)]
    assert kept.kept == {id_: {"PASSWORD": "hunter2"} for id_ in ids[1:]}
    assert not any(b"hunter2" in content for content in fleet.store.files.values())
    roll_out(fleet, 4, keep_releases=1, kept=kept, secrets={})
    assert kept.kept == {}


def test_secrets_that_cannot_be_published_stop_the_release_before_any_server() -> None:
    fleet, kept = FakeFleet(MemoryStore()), MemorySecrets()
    kept.fails = "the secret BIG has 9002 characters"
    with pytest.raises(RolloutError, match="the secret BIG has 9002 characters"):
        roll_out(fleet, 1, kept=kept)
    assert fleet.did("stage") == fleet.did("switch") == []
    assert "pointer" not in fleet.store.files
    assert release(1).id not in kept.kept


def test_a_booting_server_reads_what_the_rollout_wrote(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, monkeypatch)
    (common.CONFIG / "key").write_text("0123")
    (common.CONFIG / "store").write_text("s3://releases/prod/hello")
    many = AWKWARD | {f"NAME_{number}": str(number) for number in range(20)}
    spec = {"platform": "aws", "secrets": {"path": "/wsgi-fleet/prod", "region": REGION, "kms_key_arn": ""}}
    found = operator.secrets(spec, "hello")
    assert found
    found.write("r2", many)
    with on_this_host(monkeypatch, ssm=endpoint):
        assert fetch_secrets("s3://releases/prod/hello", "r2") == many
        assert staging.find_secrets("r2", secrets_digest("0123", many)) == many
        with pytest.raises(AppServerError, match="its secrets changed while this server was away; run `pulumi up`"):
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
