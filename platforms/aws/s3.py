"""The release store in an S3 bucket, from the operator's side."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import IO, Any, cast

from platforms.aws.client import client


class S3Store:
    """Implements platforms.transport.Store; keys have the prefix `<prefix>/` in the bucket. S3 writes are atomic.

    Credentials come from where the AWS tools look (environment, profile, role); the network is first used by a call.
    """

    def __init__(self, bucket: str, prefix: str, region: str) -> None:
        self._bucket, self._prefix, self._region = bucket, prefix, region

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> S3Store:
        """Return the store of a Store.spec with kind "s3"."""
        return cls(spec["bucket"], spec["prefix"], spec["region"])

    @cached_property
    def client(self) -> Any:
        """Return the client, made once it is needed."""
        return client("s3", self._region)

    def read(self, key: str) -> bytes | None:
        """Implement Store.read: return the content of the object, or None if it is missing."""
        body = self.open(key)
        if body is None:
            return None
        with body:
            return bytes(body.read())

    def open(self, key: str) -> IO[bytes] | None:
        """Implement Store.open: return the body of the object, which is streamed from the network."""
        try:
            response = self.client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}")
        except self.client.exceptions.NoSuchKey:
            return None
        return cast("IO[bytes]", response["Body"])

    def write(self, key: str, content: bytes | IO[bytes]) -> None:
        """Implement Store.write: put the object."""
        self.client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}", Body=content)

    def create(self, key: str, content: bytes) -> bool:
        """Implement Store.create: put the object unless it exists or another client is writing it."""
        try:
            self.client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}", Body=content, IfNoneMatch="*")
        except self.client.exceptions.ClientError as error:
            # 412: it exists. 409: another client is writing it.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            raise
        return True

    def keys(self, prefix: str) -> list[str]:
        """Implement Store.keys: return all keys that begin with prefix, sorted."""
        found: list[str] = []
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=f"{self._prefix}/{prefix}"):
            found += [str(item["Key"]).removeprefix(f"{self._prefix}/") for item in page.get("Contents", ())]
        return sorted(found)

    def delete(self, key: str) -> None:
        """Implement Store.delete: delete the object."""
        self.client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}")
