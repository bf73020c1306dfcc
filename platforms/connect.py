"""Opens what a platform described: outside of the Pulumi program only these specifications are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from releases.transport import Store, Transport


def transport(spec: Mapping[str, Any]) -> Transport:
    """The transport of a Reach.spec."""
    if spec["kind"] == "lxd":
        from platforms.lxd.transport import LxdTransport

        return LxdTransport()
    from platforms.aws.ssh import SshTransport

    return SshTransport.from_spec(spec)


def store(spec: Mapping[str, Any]) -> Store:
    """The store of a Store.spec."""
    if spec["kind"] == "directory":
        from platforms.lxd.store import DirectoryStore

        return DirectoryStore(spec["path"])
    from platforms.aws.s3 import S3Store

    return S3Store.from_spec(spec)
