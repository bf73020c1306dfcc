"""The release store in S3, where its bucket answers that another client was quicker."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from platforms.aws.s3 import S3Store


@pytest.mark.parametrize("status", [409, 412, 403])
def test_a_key_that_another_client_makes_at_the_same_time_is_not_made(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    store = S3Store("bucket", "local", "eu-central-1")
    with Stubber(store.client) as stub:
        stub.add_client_error("put_object", "x", http_status_code=status)  # pyright: ignore[reportUnknownMemberType]
        if status == 403:
            with pytest.raises(ClientError):
                store.create("lock", b"")
        else:
            assert not store.create("lock", b"")
