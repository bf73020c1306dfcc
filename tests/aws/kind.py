"""How resource types are described: which property becomes which parameter of which call of AWS."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

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
# (clients, parameters, all inputs) -> id
Create = Callable[[Clients, dict[str, Any], Mapping[str, Any]], str]
# (clients, id, state) -> what AWS adds to the inputs. Raises AWS's error, or LookupError, when it is gone.
Look = Callable[[Clients, str, Mapping[str, Any]], Mapping[str, Any]]
Delete = Callable[[Clients, str, Mapping[str, Any]], object]
# (clients, id, state, keys that go, tags)
Retag = Callable[[Clients, str, Mapping[str, Any], Iterable[str], Mapping[str, str]], object]


@dataclass(frozen=True)
class Property:
    """A property. parameter: of the call that creates; "" when that takes none. convert: from Pulumi's form.

    change(clients, id, value, all inputs): the call that sets it afterwards; without parameter it follows the creation
    as well. Without it a change replaces the resource. refers: what the value must name (see REFERENCES).
    local: it tells Pulumi how to act, and AWS nothing. removable: `change` takes None.
    """

    parameter: str = ""
    convert: Callable[[Any], Any] = lambda value: value
    change: Change | None = None
    refers: str = ""
    local: bool = False
    removable: bool = False


LOCAL = Property(local=True)


def same(*names: str, **more: Any) -> dict[str, Property]:
    """Return properties whose parameter is their name with a capital letter."""
    return {name: Property(name[0].upper() + name[1:], **more) for name in names}


def in_place(_aws: Clients, id_: str, value: Any, _inputs: Mapping[str, Any]) -> None:
    """Raise Unsupported: AWS changes it in place, and no test has needed that yet."""
    raise Unsupported(f"{id_}: describe the call of AWS that changes it to {value!r}")


def created_by(service: str, call: str, *names: str) -> Create:
    """Return a creation by one call; the id is what that gives as its names."""

    def create(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
        getattr(getattr(aws, service), call)(**asked)
        return "/".join(str(asked[name]) for name in names)

    return create


def seen(_response: object, **outputs: Any) -> Mapping[str, Any]:
    """Return the outputs of a look; AWS has responded, so the thing is there."""
    return outputs


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
    "nat": lambda aws, id_: first(aws.ec2.describe_nat_gateways(NatGatewayIds=[id_])["NatGateways"], id_),
    "profile": lambda aws, name: aws.iam.get_instance_profile(InstanceProfileName=name),
    "role": lambda aws, name: aws.iam.get_role(RoleName=name),
    "role arn": lambda aws, arn: aws.iam.get_role(RoleName=arn.rpartition("/")[2]),
    "policy": lambda aws, arn: aws.iam.get_policy(PolicyArn=arn),
    "bucket": lambda aws, name: aws.s3.head_bucket(Bucket=name),
    "load balancer": lambda aws, arn: aws.elbv2.describe_load_balancer_attributes(LoadBalancerArn=arn),
    "target group": lambda aws, arn: aws.elbv2.describe_target_groups(TargetGroupArns=[arn]),
    "auto scaling group": lambda aws, name: first(
        aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"], name
    ),
    "listener": lambda aws, arn: aws.elbv2.describe_listeners(ListenerArns=[arn]),
    "certificate": lambda aws, arn: aws.acm.describe_certificate(CertificateArn=arn),
    "zone": lambda aws, id_: aws.route53.get_hosted_zone(Id=id_),
}


def retag_ec2(aws: Clients, id_: str, _state: Mapping[str, Any], old: Iterable[str], new: Mapping[str, str]) -> None:
    """Remove the tags with the old keys, and set the new ones, in EC2's way."""
    if old:
        aws.ec2.delete_tags(Resources=[id_], Tags=[{"Key": key} for key in old])
    if new:
        aws.ec2.create_tags(Resources=[id_], Tags=pairs(new))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One resource type. properties: the inputs it knows; any other is Unknown.

    identity: where it is given, one call both makes and changes the type, and a change of these makes another one.
    named_by: the property that contains its physical name, which Pulumi makes up when it is not given.
    retag: None for what takes no tags.
    """

    properties: Mapping[str, Property]
    create: Create
    look: Look
    delete: Delete
    retag: Retag | None = retag_ec2
    named_by: str = ""
    identity: frozenset[str] = frozenset()

    def change(self, aws: Clients, id_: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Apply the properties that differ to AWS. Raises Unsupported."""
        differ = [key for key in self.properties if old.get(key) != new.get(key)]
        if self.identity:
            if moved := self.identity.intersection(differ):
                raise Unsupported(f"{', '.join(moved)} of {id_}")
            self.create(aws, parameters(self.properties, new), new)
            return
        for key in differ:
            property_, value = self.properties[key], new.get(key)
            if property_.local:
                continue
            if property_.change is None or (value is None and not property_.removable):
                raise Unsupported(f"{key} of {id_}: {old.get(key)!r} -> {value!r}")
            property_.change(aws, id_, value, new)

    def replaces(self, key: str) -> bool:
        """Return whether a change of the property (or `block.key`) makes a new resource."""
        if self.identity:
            return key in self.identity
        property_ = self.properties[re.split(r"[.\[]", key)[0]]
        return property_.change is None and not property_.local


def parameters(properties: Mapping[str, Property], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs as parameters of the call that creates."""
    return {
        property_.parameter: property_.convert(inputs[key])
        for key, property_ in properties.items()
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


def first(found: Iterable[Any], id_: str) -> Any:
    """Return the first of what AWS lists. Raises LookupError when there is none."""
    for each in found:
        return each
    raise LookupError(f"{id_} does not exist")


def is_gone(error: Exception) -> bool:
    """Return whether AWS reports that a thing is not there."""
    if isinstance(error, LookupError):
        return True
    if not isinstance(error, ClientError):
        return False
    code = str(cast("Any", error).response["Error"]["Code"])
    return code == "404" or any(word in code for word in ("NotFound", "NoSuch", "DoesNotExist"))
