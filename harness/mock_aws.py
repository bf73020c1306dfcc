"""What AWS would answer, for programs that the mock engine runs: made-up addresses from the documentation ranges."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from harness.mock_engine import LookupResult, Registered
from platforms.aws.image import DEBIAN_OWNER, DEFAULT_IMAGE, EC2_ARCHITECTURES, ImageKind

# A private key as a person gives it.
_KEY = ed25519.Ed25519PrivateKey.generate()
KEY = _KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
).decode()
PUBLIC_KEY = _KEY.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def fill_placeholders(blocks: dict[str, Any]) -> dict[str, Any]:
    """Return blocks of a stack file with real-looking ids and a network in the place of the example's placeholders."""
    text = re.sub(r'"(ami|vpc|subnet)-0(0+\d)"', r'"\1-a\2"', json.dumps(blocks))
    return json.loads(text.replace("203.0.113.0/24", "198.51.100.0/24"))


GENERATED_KEY = "pulumi-python:dynamic/aws:GeneratedKey"
ENDPOINT = "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint"
BAKED_IMAGE = "pulumi-python:dynamic/aws:BakedImage"
HOST_KEY = "pulumi-python:dynamic/aws:HostKey"
OUTPUTS: Mapping[str, Callable[[Registered], Mapping[str, Any]]] = {
    GENERATED_KEY: lambda _: {"private_key": KEY, "public_key": PUBLIC_KEY},
    HOST_KEY: lambda r: {"host_key": f"ssh-ed25519 AAAA{r.name}"},
    "aws:ec2/keyPair:KeyPair": lambda r: {"keyName": f"{r.name}-b0b0b0b"},
    "aws:ec2/instance:Instance": lambda r: {"privateIp": f"10.0.0.{1 + r.index}", "arn": f"arn:aws:ec2:::{r.name}"},
    ENDPOINT: lambda _: {"dnsName": "eice.example"},
    "aws:ec2/eip:Eip": lambda r: {"publicIp": "203.0.113.7", "allocationId": f"eipalloc-{r.name}"},
    "aws:s3/bucket:Bucket": lambda r: {"bucket": f"{r.name}-b0b0b0b", "arn": f"arn:aws:s3:::{r.name}-b0b0b0b"},
    "aws:ec2/vpc:Vpc": lambda _: {"ownerId": "123456789012", "ipv6CidrBlock": "2001:db8:0:ff00::/56"},
    "aws:cloudwatch/logGroup:LogGroup": lambda r: {
        "arn": f"arn:aws:logs:::log-group:{r.name}",
        "name": f"{r.name}-0e0e0e0",
    },
    "aws:ec2/securityGroup:SecurityGroup": lambda r: {"arn": f"arn:aws:ec2:::security-group/{r.name}"},
    "aws:iam/role:Role": lambda r: {"name": f"{r.name}-0c0c0c0", "arn": f"arn:aws:iam::123456789012:role/{r.name}"},
    "aws:lb/loadBalancer:LoadBalancer": lambda r: {
        "arn": f"arn:aws:elasticloadbalancing:::loadbalancer/app/{r.name}",
        "arnSuffix": f"app/{r.name}",
        "dnsName": f"{r.name}-0f0f.eu-central-1.elb.amazonaws.com",
        "zoneId": "Z215JYRZR1TBD5",
    },
    "aws:lb/targetGroup:TargetGroup": lambda r: {"arn": f"arn:{r.name}", "arnSuffix": f"targetgroup/{r.name}"},
    "aws:lb/listener:Listener": lambda r: {"arn": f"arn:{r.name}"},
    "aws:ec2/launchTemplate:LaunchTemplate": lambda _: {"latestVersion": 7},
    "aws:acm/certificate:Certificate": lambda r: {
        "arn": f"arn:{r.name}",
        "domainValidationOptions": [
            {
                "domainName": name,
                "resourceRecordName": f"_0a.{name.removeprefix('*.')}",
                "resourceRecordType": "CNAME",
                "resourceRecordValue": "_0b.acm-validations.aws",
            }
            for name in (r.inputs["domainName"], *r.inputs.get("subjectAlternativeNames", ()))
        ],
    },
    "aws:route53/record:Record": lambda r: {"fqdn": r.inputs["name"]},
    "aws:iam/instanceProfile:InstanceProfile": lambda r: {"name": f"{r.name}-0d0d0d0"},
}

# Debian's name of an image, with the date of its build in the place of the *.
BUILD_DATE = "20261101-2288"


def image_name(pattern: str = DEFAULT_IMAGE.name_pattern) -> str:
    """Return the name of Debian's newest image of a kind."""
    return pattern.replace("*", BUILD_DATE)


def _image(name_or_id: str, by_id: ImageKind) -> Mapping[str, Any]:
    """Return Debian's newest image of a name, or the one with an id, which is of the given kind."""
    is_id = name_or_id.startswith("ami-")
    name = image_name(by_id.name_pattern if is_id else name_or_id)
    return {
        "id": name_or_id if is_id else "ami-0123456789abcdef0",
        "name": name,
        "ownerId": DEBIAN_OWNER,
        "rootDeviceName": "/dev/xvda",
        "architecture": EC2_ARCHITECTURES["arm64" if "-arm64-" in name else "amd64"],
    }


def lookups(image: ImageKind = DEFAULT_IMAGE) -> Mapping[str, LookupResult]:
    """Return the address that an instance has now, the network of a subnet, and images. image: of each id."""
    return {
        ENDPOINT: {"dnsName": "eice.example", "securityGroupIds": ["sg-00000000"], "preserveClientIp": False},
        "aws:ec2/getSubnet:getSubnet": lambda arguments: {"id": arguments["id"], "cidrBlock": "10.0.9.0/24"},
        "aws:ec2/getInstance:getInstance": lambda arguments: {
            "id": arguments["instanceId"],
            "publicIp": "198.51.100.9",
        },
        "aws:ec2/getAmi:getAmi": lambda arguments: _image(arguments["filters"][0]["values"][0], image),
    }


LOOKUPS = lookups()
