"""The secrets of releases as parameters of Systems Manager, from the operator's side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from platforms.aws.client import client

# What one DeleteParameters takes (docs.aws.amazon.com/systems-manager/latest/APIReference/API_DeleteParameters.html).
DELETED_PER_CALL = 10
# Of an application's parameters those that machines of a group read when they boot, before any release
# (platforms/aws/server_group.py). No release has such a name.
BOOT = "boot"
# In the place of an application's name, which none can have: what is kept for a balancer that heals itself
# (platforms/aws/self_healing.py).
BALANCER = "_balancer"
# Characters of an advanced parameter; a standard one has 4096 and costs nothing.
MAX_CHARS = 8192


def parameter_path(stack: str) -> str:
    """Return the path of all parameters of a stack. machine/common/fetch.py makes the same of the store's URL."""
    return f"/wsgi-fleet/{stack}"


class SsmSecrets:
    """Implements platforms.transport.SecretStore: each secret is a SecureString `<path>/<release>/<NAME>`.

    The value of a parameter is JSON text, because SSM rejects empty values and values with `{{`. Credentials come from
    the places where the AWS tools look. The first method call is the first to use the network.
    """

    def __init__(self, path: str, region: str, kms_key_arn: str = "") -> None:
        self._path, self._region, self._key = path, region, kms_key_arn

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], app: str) -> SsmSecrets:
        """Return the secret store of an application, from the "secrets" of a Store.spec."""
        return cls(f"{spec['path']}/{app}", spec["region"], spec["kms_key_arn"])

    @cached_property
    def client(self) -> Any:
        """Return the client, made once it is needed."""
        # Writing is limited to a few calls a second for an account: more attempts, further apart.
        return client("ssm", self._region, {"mode": "adaptive", "max_attempts": 10})

    def write(self, release: str, secrets: Mapping[str, str]) -> None:
        """Write the secrets that are missing.

        Raises ValueError, without values, for what SSM rejects.
        """
        there = dict(self._parameters(f"{self._path}/{release}", decrypted=True))
        key = {"KeyId": self._key} if self._key else {}
        for variable, secret in sorted(secrets.items()):
            name, value = f"{self._path}/{release}/{variable}", json.dumps(secret).replace("{", "\\u007b")
            if there.get(name) == value:
                continue
            if len(value) > MAX_CHARS:
                raise ValueError(
                    f"the secret {variable} has {len(value)} characters as JSON, and a parameter takes {MAX_CHARS}"
                )
            try:
                self.client.put_parameter(
                    Name=name, Value=value, Type="SecureString", Tier="Intelligent-Tiering", Overwrite=True, **key
                )
            except self.client.exceptions.ClientError as error:
                # Its text may quote the value.
                code = error.response["Error"]["Code"]
                raise ValueError(f"the parameter {name} was not written: {code}") from None

    def releases(self) -> list[str]:
        """Return the releases that have secrets there, sorted."""
        names = (name for name, _ in self._parameters(self._path))
        return sorted({name.removeprefix(f"{self._path}/").split("/")[0] for name in names} - {BOOT})

    def delete(self, release: str) -> None:
        """Delete the secrets of a release; deleting missing ones succeeds."""
        self._delete(name for name, _ in self._parameters(f"{self._path}/{release}"))

    def delete_all(self) -> None:
        """Delete all parameters below the path."""
        self._delete(name for name, _ in self._parameters(self._path))

    def is_empty(self) -> bool:
        """Return whether there are no parameters below the path."""
        return next(iter(self._parameters(self._path)), None) is None

    def _parameters(self, path: str, *, decrypted: bool = False) -> Iterable[tuple[str, str]]:
        """Yield name and value of everything below path; the value encrypted unless decrypted is set."""
        pages = self.client.get_paginator("get_parameters_by_path")
        for page in pages.paginate(Path=path, Recursive=True, WithDecryption=decrypted):
            for each in page["Parameters"]:
                yield str(each["Name"]), str(each["Value"])

    def _delete(self, names: Iterable[str]) -> None:
        found = list(names)
        for start in range(0, len(found), DELETED_PER_CALL):
            self.client.delete_parameters(Names=found[start : start + DELETED_PER_CALL])
