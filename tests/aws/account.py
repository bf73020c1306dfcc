"""An AWS account that exists in memory: resources of a Pulumi program, carried out on moto as AWS's own calls.

botocore checks each parameter against AWS's description of its API, moto keeps what was made and refers to it. What
nobody has described here is an error: a type, a property, a look-up.
"""

from __future__ import annotations

import functools
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from tests.aws import auto_scaling, ec2, launch_template, load_balancing, names, network, services, stored
from tests.aws.kind import REFERENCES, Clients, Kind, Unknown, Unsupported, is_gone, parameters

__all__ = ["Account", "Unknown", "Unsupported"]

KINDS: Mapping[str, Kind] = {
    **ec2.KINDS,
    **network.KINDS,
    **services.KINDS,
    **load_balancing.KINDS,
    **names.KINDS,
    **launch_template.KINDS,
    **auto_scaling.KINDS,
    **stored.KINDS,
}
# Not asked of AWS as other properties are: tags in calls of their own, region by the endpoint.
COMMON = ("tags", "tagsAll", "region")


P = ParamSpec("P")
T = TypeVar("T")


def _alone(method: Callable[Concatenate[Account, P], T]) -> Callable[Concatenate[Account, P], T]:
    """Allow one call at a time, for moto iterates over what another request changes."""

    @functools.wraps(method)
    def call(self: Account, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.lock:
            return method(self, *args, **kwargs)

    return call


class Account:
    """An account. endpoint: of a moto server. Safe for threads.

    default_tags: the provider's, on everything that takes tags.
    """

    def __init__(self, endpoint: str, region: str, default_tags: Mapping[str, str] | None = None) -> None:
        self.endpoint, self.region = endpoint, region
        self.default_tags = dict(default_tags or {})
        self.aws = Clients(endpoint, region)
        self.lock = threading.Lock()

    @_alone
    def create(self, type_: str, inputs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Create a resource; return (provider id, state). Raises Unknown, or the error of AWS."""
        kind = _kind(type_)
        given = self._given(type_, inputs)
        if kind.named_by and not given.get(kind.named_by):
            given[kind.named_by] = f"pulumi-{secrets.token_hex(4)}"
        self._follow(kind, given)
        id_ = kind.create(self.aws, parameters(kind.properties, given), given)
        for key, property_ in kind.properties.items():
            if property_.change and not property_.parameter and given.get(key) is not None:
                property_.change(self.aws, id_, given[key], given)
        return id_, self._tagged(kind, id_, given, inputs, {})

    @_alone
    def update(self, type_: str, id_: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """Change a resource in place; return its new state. Raises Unsupported, Unknown, or the error of AWS."""
        kind = _kind(type_)
        given = self._given(type_, new)
        if kind.named_by:
            given.setdefault(kind.named_by, old[kind.named_by])
        self._follow(kind, given)
        kind.change(self.aws, id_, old, given)
        return self._tagged(kind, id_, given, new, old.get("tagsAll") or {})

    @_alone
    def delete(self, type_: str, id_: str, state: Mapping[str, Any]) -> None:
        """Remove a resource; one that is gone is no error."""
        try:
            _kind(type_).delete(self.aws, id_, state)
        except Exception as error:
            if not is_gone(error):
                raise

    @_alone
    def read(self, type_: str, id_: str, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the state as it is now; None when the resource is gone."""
        try:
            return {**state, **_kind(type_).look(self.aws, id_, state)}
        except Exception as error:
            if is_gone(error):
                return None
            raise

    @_alone
    def invoke(self, token: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of a look-up such as `aws:ec2/getAmi:getAmi`."""
        if token not in LOOKUPS:
            raise Unknown(f"look-up {token}({dict(args)})")
        return LOOKUPS[token](self.aws, args)

    def replaces(self, type_: str, key: str) -> bool:
        """Return whether a change of an input (`key`, or `block.key`) makes a new resource."""
        return False if key in COMMON else _kind(type_).replaces(key)

    def _given(self, type_: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs that are set. Raises Unknown unless all of them are known."""
        kind = _kind(type_)
        common = COMMON if kind.retag else ("region",)
        given = {key: value for key, value in inputs.items() if value is not None}
        if strange := [key for key in given if key not in kind.properties and key not in common]:
            raise Unknown(f"{type_}: {', '.join(sorted(strange))}")
        if given.get("region", self.region) != self.region:
            raise Unknown(f"{type_}: region {given['region']}; this account is in {self.region}")
        return {key: value for key, value in given.items() if key not in COMMON or key in kind.properties}

    def _follow(self, kind: Kind, given: Mapping[str, Any]) -> None:
        """Check that what the inputs name is there. Raises the error of AWS when it is not."""
        for key, property_ in kind.properties.items():
            if property_.refers and (value := given.get(key)):
                named = cast("list[str]", value if isinstance(value, list) else [value])
                for each in named:
                    REFERENCES[property_.refers](self.aws, each)

    def _tagged(
        self, kind: Kind, id_: str, given: dict[str, Any], inputs: Mapping[str, Any], before: Mapping[str, str]
    ) -> dict[str, Any]:
        """Set the tags, and return the whole state."""
        state = {**given, **kind.look(self.aws, id_, given)}
        if kind.retag:
            own: dict[str, str] = inputs.get("tags") or {}
            tags = {**self.default_tags, **own}
            if tags != before:
                kind.retag(self.aws, id_, state, [key for key in before if key not in tags], tags)
            state |= {"tags": own, "tagsAll": tags}
        return state


def _ami(aws: Clients, args: Mapping[str, Any]) -> dict[str, Any]:
    filters = [{"Name": each["name"], "Values": each["values"]} for each in args["filters"]]
    found = aws.ec2.describe_images(Owners=args.get("owners", []), Filters=filters)["Images"]
    newest = max(found, key=lambda each: each["CreationDate"])
    names = {"id": "ImageId", "name": "Name", "ownerId": "OwnerId", "architecture": "Architecture"}
    names["rootDeviceName"] = "RootDeviceName"
    return {name: newest[key] for name, key in names.items()}


def _instance(aws: Clients, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": args["instanceId"], "publicIp": ec2.instance(aws, args["instanceId"]).get("PublicIpAddress", "")}


def _subnet(aws: Clients, args: Mapping[str, Any]) -> dict[str, Any]:
    found = aws.ec2.describe_subnets(SubnetIds=[args["id"]])["Subnets"][0]
    return {"id": args["id"], "cidrBlock": found["CidrBlock"], "availabilityZone": found["AvailabilityZone"]}


# What programs look up.
LOOKUPS: Mapping[str, Callable[[Clients, Mapping[str, Any]], dict[str, Any]]] = {
    "aws:ec2/getAmi:getAmi": _ami,
    "aws:ec2/getInstance:getInstance": _instance,
    "aws:ec2/getSubnet:getSubnet": _subnet,
}


def _kind(type_: str) -> Kind:
    if type_ not in KINDS:
        raise Unknown(f"type {type_}")
    return KINDS[type_]
