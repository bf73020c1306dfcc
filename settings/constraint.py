"""What a value of a stack file must be, where a pattern alone cannot say it. Each error names value and remedy."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import GroupedMetadata
from pydantic import AfterValidator, SecretStr, ValidationInfo
from pydantic.types import StringConstraints

# What people see instead of a secret.
MASK = "(secret)"
# Pattern -> what it matches, in words that follow "should be"; behind a semicolon a remedy for text that it does not.
WORDS: dict[str, str] = {}
# Commands that list the possible ids.
LIST_COMMANDS = {
    "ami": "aws ec2 describe-images --region REGION --owners 136693071363 --filters Name=name,Values=debian-13-arm64-*",
    "vpc": "aws ec2 describe-vpcs",
    "subnet": "aws ec2 describe-subnets",
    "eice": "aws ec2 describe-instance-connect-endpoints",
}
# Replaces a secret when a stack file is read without its passphrase. No text of a user begins with it.
ENCRYPTED = "\0encrypted"
# Zeros, numbered if there are several.
PLACEHOLDER = re.compile(r"-0+\d$")
# RFC 5737: reserved for documentation, so no operator has it.
EXAMPLE_NETWORK = ipaddress.IPv4Network("203.0.113.0/24")
# A shorter prefix is a continent and not an office.
MIN_PREFIX_LENGTH = 8
KEY_REMEDY = (
    "`pulumi config set --secret --path wsgi-fleet:aws.ssh_private_key < FILE` sets it; "
    "without ssh_key_name and ssh_private_key a key pair is generated"
)


def matching(pattern: str, words: str, *, min_length: int | None = None, max_length: int | None = None) -> Any:
    """Return the constraint of a text. words: what the pattern matches, as WORDS has them."""
    WORDS[pattern] = words
    return StringConstraints(pattern=pattern, min_length=min_length, max_length=max_length)


def _is_unused(info: ValidationInfo) -> bool:
    """Return whether the stack is of another platform, whose file may keep the example's block of AWS as it came."""
    return bool(info.context) and info.context.get("platform") not in (None, "aws")


@dataclass(frozen=True)
class AwsId(GroupedMetadata):
    """An id as EC2 gives it, such as vpc-0123456789abcdef0; not the placeholder of the example."""

    prefix: str

    def __iter__(self) -> Iterator[Any]:
        words = f"an id such as {self.prefix}-0123456789abcdef0; take one that `{LIST_COMMANDS[self.prefix]}` lists"
        yield matching(rf"^{self.prefix}-[0-9a-f]{{8,17}}$", words)
        yield AfterValidator(self._is_real)

    def _is_real(self, value: str, info: ValidationInfo) -> str:
        if PLACEHOLDER.search(value) and not _is_unused(info):
            raise ValueError(
                f"{json.dumps(value)}: is still the placeholder of the example; "
                f"put a real id there (`{LIST_COMMANDS[self.prefix]}` lists them)"
            )
        return value


def check_ipv4_network(value: str) -> str:
    """Return the text if it is an IPv4 network. Raises ValueError with what to write."""
    try:
        network = ipaddress.IPv4Network(value, strict=False)
    except ValueError:
        raise ValueError(f"{json.dumps(value)}: is no IPv4 network; write one such as 198.51.100.0/24") from None
    if str(network) != value:
        raise ValueError(f"{json.dumps(value)}: is an address in a network; write the network, {network}")
    return value


def _check_admin_network(value: str, info: ValidationInfo) -> str:
    network = ipaddress.IPv4Network(value)
    if network.prefixlen < MIN_PREFIX_LENGTH:
        # FSBP EC2.13, CIS AWS 5.0 5.3.
        raise ValueError(f"{json.dumps(value)}: opens port 22 to (nearly) everyone; name your own network")
    if network.subnet_of(EXAMPLE_NETWORK) and not _is_unused(info):
        raise ValueError(
            f"{json.dumps(value)}: is still the network of the example; name the one you work from "
            "(`curl https://checkip.amazonaws.com` prints your address; add /32)"
        )
    return value


def _private_key(value: SecretStr) -> SecretStr:
    """Check that the SSH clients of both ways can read the key: those of Pulumi's steps and of releases."""
    if value.get_secret_value() == ENCRYPTED:
        return value
    # Loaded late: only stacks with a key of their own need it.
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa  # noqa: PLC0415

    text = value.get_secret_value().encode()
    if not text.strip():
        raise ValueError(f"(secret): is empty; {KEY_REMEDY}")
    is_openssh = b"-----BEGIN OPENSSH PRIVATE KEY-----" in text
    try:
        read = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
        key = read(text, password=None)
    except TypeError:
        raise ValueError(
            "(secret): is protected by a passphrase, but `up` cannot ask for it; remove it from a copy "
            "(`ssh-keygen -p -N '' -f COPY`): the stack file keeps the key encrypted anyway"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"(secret): is no private key in OpenSSH's or PEM format; {KEY_REMEDY}") from None
    if not isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise ValueError(  # noqa: TRY004  pydantic reports only these
            "(secret): is neither RSA nor ED25519, and EC2 takes no other; make one (`ssh-keygen -t ed25519`)"
        )
    return value


# Bytes of a variable's value. Linux takes four times as many, but the configuration as a whole has that limit.
VARIABLE_BYTES = 32_768
# What Unicode keeps for programs' own use: a block, and the last two of each plane.
NONCHARACTERS = {*range(0xFDD0, 0xFDF0), *(plane << 16 | end for plane in range(17) for end in (0xFFFE, 0xFFFF))}


def _check_variable(text: str, shown_value: str) -> None:
    """Check whether systemd passes a value on. shown_value: what an error prints for it. Raises ValueError."""
    if (size := len(text.encode())) > VARIABLE_BYTES:
        raise ValueError(
            f"{shown_value}: has {size} bytes, and should have {VARIABLE_BYTES} at most; "
            "put it into a file of the source"
        )
    # systemd's utf8_is_valid() takes no noncharacter, and then drops the whole variable; NUL ends a value.
    for code in sorted({ord(each) for each in text} & {0, *NONCHARACTERS}):
        raise ValueError(f"{shown_value}: has U+{code:04X}, which no environment can have; remove it")


def _variable_value(value: str) -> str:
    _check_variable(value, json.dumps(value, ensure_ascii=False))
    return value


def _secret_value(value: SecretStr) -> SecretStr:
    if value.get_secret_value() != ENCRYPTED:
        _check_variable(value.get_secret_value(), MASK)
    return value


NO_NUL = matching(r"^[^\x00]*$", "text; remove the NUL character")
IPV4_NETWORK = matching(
    r"^(\d{1,3}\.){3}\d{1,3}/\d{1,2}$", "an IPv4 network such as 198.51.100.0/24; add /32 to a single address"
)
Cidr = Annotated[str, IPV4_NETWORK, AfterValidator(check_ipv4_network)]
# Of the files of an application. No part begins with a dot: such files are not served, and `..` leads elsewhere.
RELATIVE_PATH = matching(
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$",
    "a relative path of letters, digits and any of _ . -, such as assets/css, with no part that begins with a dot",
    max_length=200,
)
# The same, and what lies above the source.
PATH_FROM_SOURCE = matching(
    r"^(\.\./)*[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$",
    "a path from source of letters, digits and any of _ . -, such as deploy/requirements.txt or ../requirements.txt, "
    "with no other part that begins with a dot",
    max_length=200,
)
AdminCidr = Annotated[Cidr, AfterValidator(_check_admin_network)]
# A family and a size (docs.aws.amazon.com/ec2/latest/instancetypes). Families come anew each year, sizes do not.
InstanceType = Annotated[
    str,
    matching(
        r"^[a-z0-9-]+\.(nano|micro|small|medium|large|[0-9]{0,3}xlarge|metal(-[0-9]+xl)?)$",
        "an EC2 instance type, a family and a size such as t4g.small; take one that `aws ec2 "
        "describe-instance-type-offerings` lists",
    ),
]
# All other characters are quoted when they are written.
VariableValue = Annotated[str, NO_NUL, AfterValidator(_variable_value)]
SecretValue = Annotated[SecretStr, AfterValidator(_secret_value)]
PrivateKey = Annotated[SecretStr, AfterValidator(_private_key)]
VariableName = Annotated[
    str,
    matching(
        r"^[A-Za-z_][A-Za-z0-9_]*$", "a name of letters, digits and _ that begins with no digit, such as LOG_LEVEL",
        max_length=128,
    ),
]  # fmt: skip
# Names become part of host names (63 characters), interfaces, units and Nginx variables: keep them short and plain.
Name = Annotated[
    str,
    matching(
        r"^[a-z](-?[a-z0-9])*$", "a name of small letters, digits and single hyphens that begins with a letter",
        max_length=20,
    ),
]  # fmt: skip
# One line for Bash; a script of the application may contain more.
Command = Annotated[
    str,
    matching(
        r"^[^\x00\n]+$", "one line for the shell; put several into a script of the application",
        min_length=1, max_length=4096,
    ),
]  # fmt: skip
