"""How resource types are described: which property becomes which parameter of which call of AWS."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


class Unknown(Exception):
    """A resource type, property or look-up that nobody has described here yet."""


class Unsupported(Exception):
    """A property that cannot change in place."""


# One for all, for it keeps AWS's descriptions once they are read.
_SESSION = boto3.Session("testing", "testing")


class Clients:
    """boto3's clients by service name (`clients.ec2`), made once. Safe for threads."""

    def __init__(self, endpoint: str, region: str) -> None:
        self.endpoint, self.region = endpoint, region
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __getattr__(self, service: str) -> Any:
        with self._lock:
            if service not in self._made:
                # One attempt: an error of the model is an answer.
                config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
                self._made[service] = cast("Any", _SESSION).client(
                    service, region_name=self.region, endpoint_url=self.endpoint, config=config
                )
            return self._made[service]


# (clients, id, value, all inputs)
Change = Callable[[Clients, str, Any, Mapping[str, Any]], object]


@dataclass(frozen=True)
class Property:
    """A property. parameter: of the call that creates; "" when that takes none. convert: from Pulumi's form.

    change(clients, id, value, all inputs): the call that sets it afterwards; without parameter it follows the creation
    as well. Without it a change replaces the resource. refers: what the value must name (see REFERENCES).
    """

    parameter: str = ""
    convert: Callable[[Any], Any] = lambda value: value
    change: Change | None = None
    refers: str = ""
    # It tells Pulumi how to act, and AWS nothing.
    local: bool = False
    # AWS chooses it where it is not given; a program that stops giving it keeps what there is.
    computed: bool = False


LOCAL = Property(local=True)

# What moto does not look at when it takes an id: AWS does.
REFERENCES: Mapping[str, Callable[[Clients, str], object]] = {
    "ami": lambda aws, id_: aws.ec2.describe_images(ImageIds=[id_]),
    "key": lambda aws, id_: aws.ec2.describe_key_pairs(KeyNames=[id_]),
    "vpc": lambda aws, id_: aws.ec2.describe_vpcs(VpcIds=[id_]),
    "subnet": lambda aws, id_: aws.ec2.describe_subnets(SubnetIds=[id_]),
    "group": lambda aws, id_: aws.ec2.describe_security_groups(GroupIds=[id_]),
    "table": lambda aws, id_: aws.ec2.describe_route_tables(RouteTableIds=[id_]),
    "address": lambda aws, id_: aws.ec2.describe_addresses(AllocationIds=[id_]),
    "instance": lambda aws, id_: aws.ec2.describe_instances(InstanceIds=[id_]),
    "nat": lambda aws, id_: _some(aws.ec2.describe_nat_gateways(NatGatewayIds=[id_])["NatGateways"], id_),
    "profile": lambda aws, name: aws.iam.get_instance_profile(InstanceProfileName=name),
    "role": lambda aws, name: aws.iam.get_role(RoleName=name),
    "role arn": lambda aws, arn: aws.iam.get_role(RoleName=arn.rpartition("/")[2]),
    "policy": lambda aws, arn: aws.iam.get_policy(PolicyArn=arn),
    "bucket": lambda aws, name: aws.s3.head_bucket(Bucket=name),
    "zone": lambda aws, id_: aws.route53.get_hosted_zone(Id=id_),
}


def _some(found: list[Any], id_: str) -> None:
    if not found:
        raise LookupError(f"{id_} does not exist")


class Kind:
    """One resource type. properties: the inputs it knows; any other is Unknown.

    named_by: the property that contains its physical name, which Pulumi makes up when it is not given.
    """

    properties: ClassVar[Mapping[str, Property]]
    named_by: ClassVar[str] = ""
    taggable: ClassVar[bool] = True
    # Inner properties whose change replaces, as `block.key`.
    replacing: ClassVar[frozenset[str]] = frozenset()

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        """Create it with the parameters asked; return its id."""
        raise NotImplementedError

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what AWS adds to the inputs. Raises AWS's error, or LookupError, when it is gone."""
        raise NotImplementedError

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def retag(
        self, aws: Clients, id_: str, state: Mapping[str, Any], old: Iterable[str], new: Mapping[str, str]
    ) -> None:
        """Remove the tags with the old keys, and set the new ones. This is EC2's way."""
        del state
        if old:
            aws.ec2.delete_tags(Resources=[id_], Tags=[{"Key": key} for key in old])
        if new:
            aws.ec2.create_tags(Resources=[id_], Tags=pairs(new))

    def change(self, aws: Clients, id_: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Apply the properties that differ to AWS. Raises Unsupported."""
        for key, property_ in self.properties.items():
            kept = property_.computed and new.get(key) is None
            if old.get(key) == new.get(key) or property_.local or kept:
                continue
            if property_.change is None or new.get(key) is None:
                raise Unsupported(f"{key} of {id_}: {old.get(key)!r} -> {new.get(key)!r}")
            property_.change(aws, id_, new[key], new)

    def replaces(self, key: str) -> bool:
        """Return whether a change of the property (or `block.key`) makes a new resource."""
        property_ = self.properties[re.split(r"[.\[]", key)[0]]
        return key in self.replacing or (property_.change is None and not property_.local)


class Put(Kind):
    """A type that one call both makes and changes. identity: properties whose change makes another one."""

    identity: ClassVar[frozenset[str]]

    def put(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        raise NotImplementedError

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        return self.put(aws, asked, inputs)

    def change(self, aws: Clients, id_: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        if moved := [key for key in self.identity if old.get(key) != new.get(key)]:
            raise Unsupported(f"{', '.join(moved)} of {id_}")
        self.put(aws, parameters(self, new), new)

    def replaces(self, key: str) -> bool:
        return key in self.identity


def parameters(kind: Kind, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs as parameters of the call that creates."""
    return {
        property_.parameter: property_.convert(inputs[key])
        for key, property_ in kind.properties.items()
        if property_.parameter and inputs.get(key) is not None
    }


# Where AWS's spelling is not that of Pulumi with a capital letter.
SPELLINGS = {"Id": "ID", "SseAlgorithm": "SSEAlgorithm", "KmsMasterKeyId": "KMSMasterKeyID"}


def pascal(value: Any) -> Any:
    """Convert {"httpTokens": ...} to {"HttpTokens": ...}, at every depth."""
    if isinstance(value, dict):
        named = {key[0].upper() + key[1:]: pascal(item) for key, item in cast("dict[str, Any]", value).items()}
        return {SPELLINGS.get(key, key): item for key, item in named.items() if item is not None}
    if isinstance(value, list):
        return [pascal(item) for item in cast("list[Any]", value)]
    return value


def pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


@functools.cache
def account_id(aws: Clients) -> str:
    return str(aws.sts.get_caller_identity()["Account"])


def ec2_arn(aws: Clients, what: str, id_: str) -> str:
    return f"arn:aws:ec2:{aws.region}:{account_id(aws)}:{what}/{id_}"


def is_gone(error: Exception) -> bool:
    """Return whether AWS reports that a thing is not there."""
    if isinstance(error, LookupError):
        return True
    if not isinstance(error, ClientError):
        return False
    code = str(cast("Any", error).response["Error"]["Code"])
    return code == "404" or any(word in code for word in ("NotFound", "NoSuch", "DoesNotExist"))
