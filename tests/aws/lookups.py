"""What programs look up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.aws.compute import instance
from tests.aws.kind import Clients, account_id


def _filters(args: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"Name": each["name"], "Values": each["values"]} for each in args.get("filters") or ()]


def _ami(aws: Clients, args: Mapping[str, Any]) -> dict[str, Any]:
    found = aws.ec2.describe_images(Owners=args.get("owners") or [], Filters=_filters(args))["Images"]
    if not found or (len(found) > 1 and not args.get("mostRecent")):
        raise LookupError(f"{len(found)} images match {dict(args)}")
    image = max(found, key=lambda each: each["CreationDate"])
    return {
        "id": image["ImageId"],
        "imageId": image["ImageId"],
        "name": image["Name"],
        "architecture": image["Architecture"],
        "ownerId": image["OwnerId"],
        "creationDate": image["CreationDate"],
        "rootDeviceName": image["RootDeviceName"],
    }


def _instance(aws: Clients, args: Mapping[str, Any]) -> dict[str, Any]:
    id_ = args["instanceId"]
    found = instance(aws, id_)
    return {
        "id": id_,
        "privateIp": found["PrivateIpAddress"],
        "publicIp": found.get("PublicIpAddress", ""),
        "instanceState": found["State"]["Name"],
    }


def _partition(aws: Clients, args: Mapping[str, Any]) -> dict[str, Any]:
    del args
    by_prefix = {"cn-": ("aws-cn", "amazonaws.com.cn"), "us-gov-": ("aws-us-gov", "amazonaws.com")}
    partition, suffix = next(
        (value for prefix, value in by_prefix.items() if aws.region.startswith(prefix)), ("aws", "amazonaws.com")
    )
    return {"id": partition, "partition": partition, "dnsSuffix": suffix, "reverseDnsPrefix": "com.amazonaws"}


def _identity(aws: Clients, args: Mapping[str, Any]) -> dict[str, Any]:
    del args
    found = aws.sts.get_caller_identity()
    return {"id": account_id(aws), "accountId": account_id(aws), "arn": found["Arn"], "userId": found["UserId"]}


def _zones(aws: Clients, args: Mapping[str, Any]) -> dict[str, Any]:
    found = aws.ec2.describe_availability_zones(Filters=_filters(args))["AvailabilityZones"]
    return {
        "id": aws.region,
        "names": [each["ZoneName"] for each in found],
        "zoneIds": [each["ZoneId"] for each in found],
    }


LOOKUPS: Mapping[str, Callable[[Clients, Mapping[str, Any]], dict[str, Any]]] = {
    "aws:ec2/getAmi:getAmi": _ami,
    "aws:ec2/getInstance:getInstance": _instance,
    "aws:index/getPartition:getPartition": _partition,
    "aws:index/getRegion:getRegion": lambda aws, _: {"id": aws.region, "name": aws.region, "region": aws.region},
    "aws:index/getCallerIdentity:getCallerIdentity": _identity,
    "aws:index/getAvailabilityZones:getAvailabilityZones": _zones,
}
