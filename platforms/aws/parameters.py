"""Where a stack keeps the secrets of its releases, as a resource: so that they go when the stack goes.

The parameters themselves are none: like releases, the rollout writes them, and a later `up` must not delete what a
rollback needs.
"""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

from platforms.aws.ssm import SsmSecrets
from platforms.provider import without_traceback


class ParametersThere(Exception):
    """Parameters already exist below the path of a new stack; removing the stack would delete them."""


class _Provider(ResourceProvider):
    serialize_as_secret_always = False

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        moved = [key for key in ("path", "region") if _olds[key] != _news[key]]
        return DiffResult(changes=bool(moved), replaces=moved, delete_before_replace=False)

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Implement ResourceProvider.create: take the path, which must be free. Raises ParametersThere."""
        path, region = props["path"], props["region"]
        if not SsmSecrets(path, region).is_empty():
            raise without_traceback(
                ParametersThere(
                    f"there are parameters below {path} in {region} already: another stack of that name keeps its "
                    "secrets there, or one was not removed whole. Name this stack otherwise, or delete those "
                    "parameters first"
                )
            )
        return CreateResult(path, {"path": path, "region": region})

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        SsmSecrets(_props["path"], _props["region"]).delete_all()


class SecretParameters(Resource, module="aws", name="SecretParameters"):
    """The parameters of a stack's secrets. path: their common prefix."""

    path: pulumi.Output[str]

    def __init__(self, name: str, *, path: str, region: str, opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Provider(), name, {"path": path, "region": region}, opts)
