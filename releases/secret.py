"""A generated secret: created once per stack, kept encrypted in its state."""

from __future__ import annotations

import secrets
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

# 256 bits, as hexadecimal digits; the talk's os.urandom(16) is half of that.
BYTES = 32


class _Provider(ResourceProvider):
    serialize_as_secret_always = False

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=False)

    def create(self, props: dict[str, Any]) -> CreateResult:
        del props
        return CreateResult(secrets.token_hex(4), {"value": secrets.token_hex(BYTES)})


class GeneratedSecret(Resource, module="releases", name="GeneratedSecret"):
    """value: 64 hexadecimal digits, secret."""

    value: pulumi.Output[str]

    def __init__(self, name: str, *, opts: pulumi.ResourceOptions) -> None:
        # Without this the state would contain a dynamic resource's output unencrypted.
        secret = pulumi.ResourceOptions(additional_secret_outputs=["value"])
        super().__init__(_Provider(), name, {"value": None}, pulumi.ResourceOptions.merge(opts, secret))
