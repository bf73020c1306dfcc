"""How an app server reads the release store: a folder, or a bucket in place of which a server of this host answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fetch as fetching
import pytest
from fetch import FetchError, fetch, fetch_file, fetch_secrets

from platforms.lxd import store
from tests.unit.cloud import Cloud, on_this_host


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Create a cloud on this host."""
    with on_this_host(monkeypatch) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Create the store of application hello in a folder and return its URL."""
    store.create(tmp_path / "store")
    return f"file://{tmp_path}/store/hello"


def test_a_missing_file_is_an_error_unless_it_may_be_missing(folder: str) -> None:
    with pytest.raises(
        FetchError, match=rf"the store {folder} has no releases/r1/x; publish it again with `pulumi up`"
    ):
        fetch(folder, "releases/r1/x")
    assert fetch(folder, "releases/r1/x", missing_ok=True) == b""


def test_a_folder_that_is_not_mounted_is_no_store_without_a_pointer(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for url in (f"file://{tmp_path}/store/hello", f"file://{tmp_path}/gone/hello"):
        with pytest.raises(FetchError, match=f"the store {url} does not respond: .* is not mounted"):
            fetch(url, "pointer", missing_ok=True)


def test_an_object_of_a_bucket_is_read_by_its_quoted_key_with_the_role_of_the_machine(cloud: Cloud) -> None:
    cloud.objects["/releases/prod/a%20b%2Bc"] = 200, b"\x1f\x8b\0\n404"
    assert fetch("s3://releases/prod", "a b+c") == b"\x1f\x8b\0\n404"
    ((_, headers),) = cloud.asked
    scheme, credential, *_ = headers["Authorization"].replace(",", " ").split()
    assert scheme == "AWS4-HMAC-SHA256"
    assert credential.startswith("Credential=AKIDEXAMPLE/")
    assert credential.endswith("/eu-central-1/s3/aws4_request")
    assert headers["X-Amz-Security-Token".lower()] == "session=="


def test_a_missing_object_is_an_error_unless_it_may_be_missing(cloud: Cloud) -> None:
    assert fetch("s3://releases/prod", "pointer", missing_ok=True) == b""
    assert cloud.asked[0][0] == "/releases/prod/pointer"
    with pytest.raises(FetchError, match=r"the store s3://releases/prod has no pointer; publish it again"):
        fetch("s3://releases/prod", "pointer")


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_large_file_goes_to_the_disk(kind: str, cloud: Cloud, folder: str, tmp_path: Path) -> None:
    content, target = b"\x1f\x8b\0\n404" * 99, tmp_path / "target"
    cloud.objects["/releases/hello/a%20b"] = 200, content
    (tmp_path / "store" / "hello").mkdir()
    (tmp_path / "store" / "hello" / "a b").write_bytes(content)
    url = folder if kind == "folder" else "s3://releases/hello"
    fetch_file(url, "a b", target)
    assert target.read_bytes() == content
    with pytest.raises(FetchError, match=rf"the store {url} has no gone; publish it again"):
        fetch_file(url, "gone", target)


def test_any_other_answer_of_s3_is_a_store_that_does_not_answer(cloud: Cloud) -> None:
    cloud.objects["/releases/prod/pointer"] = 403, b"<Error/>"
    with pytest.raises(FetchError, match="the store s3://releases/prod does not respond: S3 responded with 403"):
        fetch("s3://releases/prod", "pointer", missing_ok=True)


def test_a_machine_without_a_metadata_service_says_that_the_store_does_not_answer(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "METADATA", f"{cloud.url.rpartition(':')[0]}:9/latest")
    with pytest.raises(FetchError, match="the store s3://releases/prod does not respond"):
        fetch("s3://releases/prod", "pointer", missing_ok=True)
    assert cloud.asked == []


def page(*names: str, **more: str) -> tuple[int, dict[str, object]]:
    """Return a response of Systems Manager, with values as the rollout writes them."""
    values = [{"Name": f"/wsgi-fleet/prod/hello/r1/{name}", "Value": f'"{name} \\u007b"'} for name in names]
    return 200, {"Parameters": values, **more}


def test_secrets_are_all_parameters_below_the_release_with_the_role_of_the_machine(cloud: Cloud) -> None:
    cloud.pages = [page("A", NextToken='to"ken\\=='), page(NextToken="2"), page("B")]
    assert fetch_secrets("s3://releases/prod/hello", "r1") == {"A": "A {", "B": "B {"}
    first = {"Path": "/wsgi-fleet/prod/hello/r1", "WithDecryption": True}
    assert cloud.wanted == [first, first | {"NextToken": 'to"ken\\=='}, first | {"NextToken": "2"}]
    assert cloud.asked == []


def test_secrets_that_may_not_be_read_say_which_and_why(cloud: Cloud) -> None:
    cloud.pages = [(400, {"__type": "AccessDeniedException", "Message": "not authorized"})]
    with pytest.raises(
        FetchError,
        match=r"the parameters below /wsgi-fleet/prod/hello/r1 cannot be read: SSM responded with 400 .*not auth",
    ):
        fetch_secrets("s3://releases/prod/hello", "r1")


def test_a_value_that_nobody_of_ours_wrote_is_an_error_that_does_not_quote_it(cloud: Cloud) -> None:
    cloud.pages = [(200, {"Parameters": [{"Name": "/wsgi-fleet/prod/hello/r1/A", "Value": "hunter2"}]})]
    with pytest.raises(FetchError) as error:
        fetch_secrets("s3://releases/prod/hello", "r1")
    assert "hunter2" not in str(error.value)
