"""The key pair by which machines are entered: the one of the settings, or one that the stack makes for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

from settings.aws import Aws

# The user of Debian's images: sudo without a password.
SSH_USER = "admin"


@dataclass(frozen=True)
class KeyPair:
    """A key pair. name: as EC2 knows it. private_key: text that SSH clients read, secret."""

    name: pulumi.Output[str]
    private_key: pulumi.Output[str]


def key_pair(name: str, config: Aws, provider: aws.Provider) -> KeyPair:
    """Return the key pair of a stack: the one of the settings, or a generated one.

    That one is made once and kept in the state, its private half encrypted.
    """
    if config.ssh_key_name and config.ssh_private_key:
        secret = pulumi.Output.secret(config.ssh_private_key.get_secret_value())
        return KeyPair(pulumi.Output.from_input(config.ssh_key_name), secret)
    generated = GeneratedKey(name)
    registered = aws.ec2.KeyPair(
        name, public_key=generated.public_key, opts=pulumi.ResourceOptions(parent=generated, provider=provider)
    )
    return KeyPair(registered.key_name, generated.private_key)


class _Provider(ResourceProvider):
    serialize_as_secret_always = False

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=False)

    def create(self, props: dict[str, Any]) -> CreateResult:
        del props
        key = ed25519.Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        outs = {"private_key": private.decode(), "public_key": public.decode()}
        # The end of the public half: it tells keys apart, and is no secret.
        return CreateResult(outs["public_key"][-12:], outs)


class GeneratedKey(Resource, module="aws", name="GeneratedKey"):
    """A key pair that is generated once.

    private_key: OpenSSH's format, without a passphrase, secret. public_key: `ssh-ed25519 ...`.
    """

    private_key: pulumi.Output[str]
    public_key: pulumi.Output[str]

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        # Without this the state would contain a dynamic resource's output unencrypted.
        secret = pulumi.ResourceOptions(additional_secret_outputs=["private_key"])
        props = {"private_key": None, "public_key": None}
        super().__init__(_Provider(), name, props, pulumi.ResourceOptions.merge(opts, secret))
