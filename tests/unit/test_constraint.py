"""A stack file that cannot work on AWS is refused with every reason at once, each with value and remedy."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from harness.mock_aws import KEY, fill_placeholders
from tests.unit.stack_blocks import ROOT, problems_of

SHIPPED = ("dev", "staging", "prod", "example")
EXAMPLES = {
    "ami-00000000000000000",
    "vpc-00000000",
    *(f"subnet-0000000{number}" for number in range(4)),
    "203.0.113.0/24",
}


def shipped(stack: str) -> dict[str, Any]:
    """Return the blocks of a stack file as it is in the repository."""
    document = yaml.safe_load((ROOT / "stacks" / f"Pulumi.{stack}.yaml").read_text())["config"]
    return {key.partition(":")[2]: value for key, value in document.items()}


def of_aws(**changes: Any) -> list[str]:
    """Return the problems of prod with real ids and these changes."""
    blocks = fill_placeholders(shipped("prod"))
    found = problems_of(blocks | {"aws": blocks["aws"] | changes})
    assert all(line.startswith("aws") for line in found)
    return [line.removeprefix("aws.").removeprefix("aws: ") for line in found]


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a block, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            yield from texts(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, item in enumerate(cast("list[Any]", value)):
            yield from texts(item, f"{path}.{number}")


@pytest.mark.parametrize("stack", SHIPPED)
def test_a_stack_file_as_it_comes_is_refused_with_all_its_placeholders(stack: str) -> None:
    blocks = shipped(stack)
    blocks["platform"] = "aws"
    expected = [f"aws.{path}: {json.dumps(value)}" for path, value in texts(blocks["aws"]) if value in EXAMPLES]
    told = problems_of(blocks)
    assert [line.partition(": is still the ")[0] for line in told] == expected
    assert expected[0] == 'aws.ami: "ami-00000000000000000"'
    assert "; put a real id there (`aws ec2 describe-images " in told[0]
    assert expected[-1] == 'aws.admin_cidrs.0: "203.0.113.0/24"'
    assert problems_of(fill_placeholders(blocks)) == []


def test_on_lxd_the_block_of_aws_may_stay_as_it_came() -> None:
    blocks = shipped("prod")
    blocks["platform"] = "lxd"
    assert problems_of(blocks) == []
    blocks["aws"] |= {"ami": "ami-1", "admin_cidrs": ["0.0.0.0/0"]}
    assert [line.partition(": ")[0] for line in problems_of(blocks)] == ["aws.ami", "aws.admin_cidrs.0"]


@pytest.mark.parametrize(
    "id_", ["ami-1234567", "ami-0123456789abcdef01", "AMI-12345678", "vpc-12345678", "ami-12345678\n", "ami-1234567g"]
)
def test_what_is_no_id_is_refused(id_: str) -> None:
    (told,) = of_aws(ami=id_)
    assert told.startswith(
        f"ami: {json.dumps(id_)}: should be an id such as ami-0123456789abcdef0; take one that `aws "
    )


@given(st.integers(10, 16**17 - 1), st.sampled_from([8, 17]))
def test_an_id_with_digits_of_its_own_is_taken(number: int, length: int) -> None:
    digits = f"{number:0{length}x}"[-length:]
    told = of_aws(ami=f"ami-{digits}")
    assert bool(told) == (digits.lstrip("0") in ("", *"0123456789")), told


@pytest.mark.parametrize(
    ("cidr", "told"),
    [
        ("0.0.0.0/0", "opens port 22 to (nearly) everyone; name your own network"),
        ("128.0.0.0/1", "opens port 22 to (nearly) everyone; name your own network"),
        ("198.51.100.7/24", "is an address in a network; write the network, 198.51.100.0/24"),
        ("198.51.100.0/33", "is no IPv4 network; write one such as 198.51.100.0/24"),
        ("198.51.256.0/24", "is no IPv4 network; write one such as 198.51.100.0/24"),
        ("198.51.100.7", "should be an IPv4 network such as 198.51.100.0/24; add /32 to a single address"),
        ("2001:db8::/32", "should be an IPv4 network such as 198.51.100.0/24; add /32 to a single address"),
    ],
)
def test_a_network_that_admins_cannot_come_from_is_refused(cidr: str, told: str) -> None:
    assert of_aws(admin_cidrs=["198.51.100.7/32", cidr]) == [f'admin_cidrs.1: "{cidr}": {told}']


def test_a_stack_that_nobody_may_reach_is_refused() -> None:
    (told,) = of_aws(admin_cidrs=[])
    assert told.startswith("admin_cidrs: []: nobody could reach port 22 of the balancer, through which ")
    blocks = fill_placeholders(shipped("prod"))
    del blocks["aws"]["admin_cidrs"]
    assert problems_of(blocks) == [
        "aws.admin_cidrs: missing; set it (who may reach port 22 of the balancer (the jump host))"
    ]


@pytest.mark.parametrize("type_", ["t4g.small", "m6gd.large", "c7gn.xlarge", "im4gn.large", "g5g.xlarge", "a1.medium"])
def test_a_type_that_does_not_boot_the_image_is_refused(type_: str) -> None:
    blocks = fill_placeholders(shipped("prod")) | {"balancer": {"size": {"instance_type": type_}}}
    (told,) = problems_of(blocks)
    assert told.startswith(f'balancer.size.instance_type: "{type_}": is an arm64 type, which does not boot')
    assert told.endswith("name one such as t3.small")


@pytest.mark.parametrize("type_", ["t3.small", "m7i-flex.large", "g4dn.xlarge", "gr6.4xlarge"])
def test_a_type_that_boots_the_image_is_taken(type_: str) -> None:
    blocks = fill_placeholders(shipped("prod")) | {"balancer": {"size": {"instance_type": type_}}}
    assert problems_of(blocks) == []


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b"") -> str:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, lock).decode()


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def test_keys_that_ec2_has_are_taken(rsa_key: rsa.RSAPrivateKey) -> None:
    for key in (KEY, KEY.strip(), KEY.replace("\n", "\r\n"), pem(rsa_key)):
        assert of_aws(ssh_key_name="ops", ssh_private_key=key) == []


def test_a_key_with_a_passphrase_is_refused_whatever_its_format(rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "sesame", "-f", file], check=True)
    for key in (file.read_text(), pem(rsa_key, b"sesame")):
        (told,) = of_aws(ssh_key_name="ops", ssh_private_key=key)
        assert told.startswith("ssh_private_key: (secret): is protected by a passphrase, which nobody can type")
        assert "ssh-keygen -p" in told


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "is empty; `pulumi config set --secret --path wsgi-fleet:aws.ssh_private_key < FILE` sets it; "),
        (" \n", "is empty; "),
        ("opensesame", "is no private key in OpenSSH's or PEM format; "),
        ("ssh-ed25519 AAAAopensesame ops", "is no private key in OpenSSH's or PEM format; "),
        (KEY[: len(KEY) // 2], "is no private key in OpenSSH's or PEM format; "),
        (pem(ec.generate_private_key(ec.SECP256R1())), "is neither RSA nor ED25519, and EC2 takes no other"),
    ],
)
def test_what_is_no_key_of_ec2_is_refused_without_being_told(key: str, told: str) -> None:
    (line,) = of_aws(ssh_key_name="ops", ssh_private_key=key)
    assert line.startswith(f"ssh_private_key: (secret): {told}")
    assert "opensesame" not in line
    assert KEY[40:60] not in line


def test_half_a_key_pair_is_refused_and_none_is_taken() -> None:
    assert of_aws() == of_aws(ssh_key_name=None, ssh_private_key=None) == []
    (without_key,) = of_aws(ssh_key_name="ops")
    assert without_key.startswith('ssh_key_name: "ops": is given without ssh_private_key; give both')
    (without_name,) = of_aws(ssh_private_key=KEY)
    assert without_name.startswith("ssh_private_key: (secret): is given without ssh_key_name; give both")


def test_a_private_key_that_stands_in_plain_is_refused_without_being_told() -> None:
    blocks = fill_placeholders(shipped("prod"))
    blocks["aws"] |= {"ssh_key_name": "ops", "ssh_private_key": KEY}
    (told,) = problems_of(blocks, encrypted=[("apps",)])
    assert told.startswith("aws.ssh_private_key: (secret): is stored in plain text; ")
    assert KEY[40:60] not in told
    assert problems_of(blocks, encrypted=[("aws",)]) == []
