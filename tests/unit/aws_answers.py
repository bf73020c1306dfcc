"""What AWS would answer, for programs that the mock engine runs: made-up addresses from the documentation ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.unit.engine import Answer, Registered

OUTPUTS: Mapping[str, Callable[[Registered], Mapping[str, Any]]] = {
    "aws:ec2/instance:Instance": lambda r: {"privateIp": f"10.0.0.{1 + r.index}", "arn": f"arn:aws:ec2:::{r.name}"},
    "aws:ec2/eip:Eip": lambda _: {"publicIp": "203.0.113.7", "allocationId": "eipalloc-0"},
    "aws:s3/bucket:Bucket": lambda r: {"bucket": f"{r.name}-b0b0b0b", "arn": f"arn:aws:s3:::{r.name}-b0b0b0b"},
    "aws:ec2/securityGroup:SecurityGroup": lambda r: {"arn": f"arn:aws:ec2:::security-group/{r.name}"},
    "aws:iam/role:Role": lambda r: {"name": f"{r.name}-0c0c0c0", "arn": f"arn:aws:iam::123456789012:role/{r.name}"},
    "aws:iam/instanceProfile:InstanceProfile": lambda r: {"name": f"{r.name}-0d0d0d0"},
}

# The address that an instance has now, and the newest Debian image.
LOOKUPS: Mapping[str, Answer] = {
    "aws:ec2/getInstance:getInstance": lambda arguments: {"id": arguments["instanceId"], "publicIp": "198.51.100.9"},
    "aws:ec2/getAmi:getAmi": {
        "id": "ami-0123456789abcdef0",
        "name": "debian-12-amd64-20261101-2288",
        "creationDate": "2026-11-01T00:00:00.000Z",
    },
}
