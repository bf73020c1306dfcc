"""A stack file that cannot work on AWS is refused with every reason at once, each with value and remedy."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from harness.mock_aws import KEY, fill_placeholders
from tests.unit.stack_blocks import of_app, problems_of, production, shipped


def of_aws(**changes: Any) -> list[str]:
    found = problems_of(production(**changes))
    assert all(line.startswith("aws") for line in found)
    return [line.removeprefix("aws.").removeprefix("aws: ") for line in found]


@pytest.mark.parametrize("stack", ["dev", "staging", "prod", "example"])
def test_a_stack_file_as_it_comes_is_refused_with_all_its_placeholders(stack: str) -> None:
    blocks = shipped(stack) | {"platform": "aws"}
    placeholder = re.compile(r'"(ami-0{17}|vpc-0{8}|subnet-0{7}\d|203\.0\.113\.0/24)"')
    found = problems_of(blocks)
    assert [line.split(": ")[1] for line in found] == [
        f'"{each}"' for each in placeholder.findall(json.dumps(blocks["aws"]))
    ]
    assert found[0].startswith('aws.ami: "ami-00000000000000000": is still the placeholder of the example; put a real')
    assert found[-1].startswith('aws.admin_cidrs.0: "203.0.113.0/24": is still the network of the example')
    assert problems_of(fill_placeholders(blocks)) == []


@pytest.mark.parametrize(
    "tags",
    [{"aws:team": "a"}, {"": "a"}, {"k" * 129: "a"}, {"team": "v" * 257}, {"team": "<a>"}, {"team": "a\nb"}],
)
def test_a_tag_that_aws_does_not_take_is_refused(tags: dict[str, str]) -> None:
    (key,) = tags
    (line,) = of_aws(tags=tags)
    assert line.startswith(f"tags.{key}: ")
    assert "AWS takes no such tag; take a name of 1 to 128 characters" in line


def test_tags_of_every_language_are_taken_as_many_as_aws_takes() -> None:
    assert of_aws(tags={f"Größe {number}": "x_.:/=+-@" for number in range(46)}) == []
    (line,) = of_aws(tags={f"t{number}": "" for number in range(47)})
    assert line.startswith("tags: has 47 tags, and AWS takes 46 besides the stack's own")


def test_on_lxd_the_block_of_aws_may_stay_as_it_came() -> None:
    blocks: dict[str, Any] = shipped("prod") | {"platform": "lxd"}
    assert problems_of(blocks) == []
    blocks["aws"] |= {"ami": "ami-1", "admin_cidrs": ["0.0.0.0/0"]}
    assert [line.partition(": ")[0] for line in problems_of(blocks)] == ["aws.ami", "aws.admin_cidrs.0"]


def test_machines_of_two_architectures_are_refused_for_one_image_boots_all() -> None:
    def of(front: str, server: str) -> list[str]:
        blocks: dict[str, Any] = production() | {"balancer": {"size": {"instance_type": front}}}
        blocks["apps"]["hello"]["fleet"]["size"]["instance_type"] = server
        return problems_of(blocks)

    arm64 = ("t4g.small", "m6gd.large", "c7gn.xlarge", "im4gn.large", "g5g.xlarge", "a1.medium")
    for type_ in arm64:
        (message,) = of("t3.small", type_)
        assert message == (
            f"apps.hello.fleet.size.instance_type: {type_}: is arm64, and balancer.size.instance_type (t3.small) is "
            "amd64: one image (aws.ami) boots all machines; take types of one architecture"
        )
        assert of("t4g.nano", type_) == []
    for type_ in ("t3.small", "m7i-flex.large", "g4dn.xlarge", "gr6.4xlarge"):
        assert of("t3.nano", type_) == []


@pytest.mark.parametrize(
    "id_", ["ami-1234567", "ami-0123456789abcdef01", "AMI-12345678", "vpc-12345678", "ami-12345678\n", "ami-1234567g"]
)
def test_what_is_no_id_is_refused(id_: str) -> None:
    (message,) = of_aws(ami=id_)
    assert message.startswith(
        f"ami: {json.dumps(id_)}: should be an id such as ami-0123456789abcdef0; take one that `aws "
    )


@given(st.integers(10, 16**17 - 1), st.sampled_from([8, 17]))
def test_an_id_with_digits_of_its_own_is_taken(number: int, length: int) -> None:
    digits = f"{number:0{length}x}"[-length:]
    problems = of_aws(ami=f"ami-{digits}")
    assert bool(problems) == (digits.lstrip("0") in ("", *"0123456789")), problems


@pytest.mark.parametrize(
    ("cidr", "message"),
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
def test_a_network_that_admins_cannot_come_from_is_refused(cidr: str, message: str) -> None:
    assert of_aws(admin_cidrs=["198.51.100.7/32", cidr]) == [f'admin_cidrs.1: "{cidr}": {message}']


def test_a_stack_that_nobody_may_reach_is_refused() -> None:
    (message,) = of_aws(admin_cidrs=[])
    assert (
        "admin_cidrs: []: no operator could reach port 22 of the balancer, which serves setup and releases" in message
    )
    blocks = production()
    del blocks["aws"]["admin_cidrs"]
    (message,) = problems_of(blocks)
    assert message.startswith("aws.admin_cidrs: missing: no operator could reach port 22")


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b"") -> str:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, lock).decode()


def test_keys_that_ec2_has_are_taken_and_with_a_passphrase_none_is(tmp_path: Path) -> None:
    rsa_key, file = rsa.generate_private_key(65537, 2048), tmp_path / "key"
    for key in (KEY, KEY.strip(), KEY.replace("\n", "\r\n"), pem(rsa_key)):
        assert of_aws(ssh_key_name="ops", ssh_private_key=key) == []
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "sesame", "-f", file], check=True)
    for key in (file.read_text(), pem(rsa_key, b"sesame")):
        (message,) = of_aws(ssh_key_name="ops", ssh_private_key=key)
        assert message.startswith("ssh_private_key: (secret): is protected by a passphrase, but `up` cannot ask for it")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "is empty; `pulumi config set --secret --path wsgi-fleet:aws.ssh_private_key < FILE` sets it; "),
        (" \n", "is empty; "),
        ("opensesame", "is no private key in OpenSSH's or PEM format; "),
        ("ssh-ed25519 AAAAopensesame ops", "is no private key in OpenSSH's or PEM format; "),
        (KEY[: len(KEY) // 2], "is no private key in OpenSSH's or PEM format; "),
        (pem(ec.generate_private_key(ec.SECP256R1())), "is neither RSA nor ED25519, and EC2 takes no other"),
    ],
)
def test_what_is_no_key_of_ec2_is_refused_without_being_told(key: str, message: str) -> None:
    (line,) = of_aws(ssh_key_name="ops", ssh_private_key=key)
    assert line.startswith(f"ssh_private_key: (secret): {message}")
    assert "opensesame" not in line
    assert KEY[40:60] not in line


def test_half_a_key_pair_is_refused_and_none_is_taken() -> None:
    assert of_aws() == of_aws(ssh_key_name=None, ssh_private_key=None) == []
    assert of_aws(ssh_key_name="ops")[0].startswith('ssh_key_name: "ops": is given without ssh_private_key; give both')
    problems = of_aws(ssh_private_key=KEY)
    assert problems[0].startswith("ssh_private_key: (secret): is given without ssh_key_name; give both")


@pytest.mark.parametrize("block", ["environment", "secrets"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("x" * 32_769, "has 32769 bytes, and should have 32768 at most"),
        ("\N{PILE OF POO}" * 8193, "has 32772 bytes"),
        ("a\ufdd0b", "has U+FDD0, which no environment can have"),
        ("a\U0010ffff", "has U+10FFFF"),
    ],
)
def test_a_value_that_no_environment_can_have_is_refused(block: str, value: str, problem: str) -> None:
    (message,) = of_app(**{block: {"A": value}})
    assert message.startswith(f"{block}.A: ")
    assert problem in message
    assert of_app(**{block: {"A": "\N{PILE OF POO}" * 8192}}) == []
