"""The host key of a machine as a resource: pinned at first contact, then the same for steps and for every operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

from platforms.aws.ssh import SshTransport
from platforms.provider import without_traceback
from platforms.transport import Unreachable

# Seconds for a new machine to accept SSH: EC2 reports it as running some 20 to 60 s before its SSH server runs.
FIRST_CONTACT_S = 300


class _Provider(ResourceProvider):
    serialize_as_secret_always = False

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Implement ResourceProvider.diff: another machine has another key. The way there may change."""
        is_another = _olds.get("machine") != _news.get("machine")
        return DiffResult(changes=is_another, replaces=["machine"] if is_another else [], delete_before_replace=False)

    def create(self, props: dict[str, Any]) -> CreateResult:
        transport = SshTransport.from_spec({**props["reach"], "deadline_s": FIRST_CONTACT_S})
        try:
            key = transport.host_key(props["target"])
        except Unreachable as error:
            raise without_traceback(Unreachable(str(error))) from None
        finally:
            transport.close()
        # No secrets: the state contains outputs of a dynamic resource unencrypted.
        return CreateResult(props["machine"], {"machine": props["machine"], "host_key": key})


class HostKey(Resource, module="aws", name="HostKey"):
    """The host key of a machine, pinned at first contact. reach: a ConnectionSpec.spec that leads to it.

    host_key: `ssh-ed25519 AAAA...`, known once the machine lets us in.
    """

    machine: pulumi.Output[str]
    host_key: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        machine: pulumi.Input[str],
        target: pulumi.Input[str],
        reach: Mapping[str, pulumi.Input[Any]],
        opts: pulumi.ResourceOptions,
    ) -> None:
        props = {"machine": machine, "target": target, "reach": reach, "host_key": None}
        super().__init__(_Provider(), name, props, opts)
