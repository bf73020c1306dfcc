"""Elastic Load Balancing: load balancers, target groups, listeners, rules."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from tests.aws.kind import Change, Clients, Kind, Look, Property, first, in_place, pairs, parameters, pascal, same

# How its interfaces begin, which a load balancer has one of in each of its subnets.
INTERFACE = "ELB "


def machine_name(arn: str) -> str:
    """Return the name of the machine that stands in for a load balancer."""
    return f"alb-{arn.rpartition('/')[2]}"


def public_address(arn: str) -> str:
    """Return the address of a load balancer that clients connect to, routed nowhere (RFC 2544)."""
    one, two = hashlib.sha256(arn.encode()).digest()[:2]
    return f"198.19.{one}.{two % 254 + 1}"


def interfaces(aws: Clients, arn: str) -> list[dict[str, Any]]:
    """Return the network interfaces of a load balancer."""
    by_name = [{"Name": "description", "Values": [f"{INTERFACE}{_suffix(arn)}"]}]
    return aws.ec2.describe_network_interfaces(Filters=by_name)["NetworkInterfaces"]


def _suffix(arn: str) -> str:
    return arn.rpartition(":")[2].removeprefix("loadbalancer/")


def _attribute(noun: str, key: str) -> Change:
    """Return the call that sets one attribute of a load balancer or a target group."""
    arn = {"load_balancer": "LoadBalancerArn", "target_group": "TargetGroupArn"}[noun]

    def change(aws: Clients, id_: str, value: Any, _inputs: Mapping[str, Any]) -> None:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        getattr(aws.elbv2, f"modify_{noun}_attributes")(**{arn: id_}, Attributes=[{"Key": key, "Value": text}])

    return change


def _attributes(noun: str, prefix: str, keys: Mapping[str, str]) -> Change:
    """Return the calls that set a block of attributes. keys: of the block -> end of the attribute's name."""

    def change(aws: Clients, id_: str, block: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        for name, value in block.items():
            _attribute(noun, prefix + keys[name])(aws, id_, value, inputs)

    return change


def _retag(aws: Clients, id_: str, _state: Mapping[str, Any], old: Iterable[str], new: Mapping[str, str]) -> None:
    if old:
        aws.elbv2.remove_tags(ResourceArns=[id_], TagKeys=list(old))
    aws.elbv2.add_tags(ResourceArns=[id_], Tags=pairs(new))


def _look_up(noun: str, parameter: str, outputs: Mapping[str, str]) -> Look:
    """Return a look by ARN. outputs: of the state -> where they stand in the answer."""
    plural = f"{noun}s"
    key = "".join(part.capitalize() for part in plural.split("_"))

    def look(aws: Clients, id_: str, _state: Mapping[str, Any]) -> Mapping[str, Any]:
        found = first(getattr(aws.elbv2, f"describe_{plural}")(**{parameter: [id_]})[key], id_)
        more = {"arnSuffix": _suffix(id_)} if noun in ("load_balancer", "target_group") else {}
        return {"arn": id_, **more, **{name: found[place] for name, place in outputs.items()}}

    return look


def _create_balancer(aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
    if not inputs["loadBalancerType"] == "application":
        raise NotImplementedError(f"a load balancer of type {inputs['loadBalancerType']}")
    arn = str(aws.elbv2.create_load_balancer(**asked)["LoadBalancers"][0]["LoadBalancerArn"])
    for subnet in asked["Subnets"]:
        aws.ec2.create_network_interface(
            SubnetId=subnet, Groups=asked["SecurityGroups"], Description=f"{INTERFACE}{_suffix(arn)}"
        )
    return arn


def _delete_balancer(aws: Clients, id_: str, _state: Mapping[str, Any]) -> None:
    # moto would delete one that is protected.
    attributes = aws.elbv2.describe_load_balancer_attributes(LoadBalancerArn=id_)["Attributes"]
    if {"Key": "deletion_protection.enabled", "Value": "true"} in attributes:
        raise RuntimeError(f"OperationNotPermitted: {id_}: deletion protection is enabled")
    aws.elbv2.delete_load_balancer(LoadBalancerArn=id_)
    for each in interfaces(aws, id_):
        aws.ec2.delete_network_interface(NetworkInterfaceId=each["NetworkInterfaceId"])


def _actions(given: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return actions as the API has them; botocore rejects what it does not know."""
    names = {"FixedResponse": "FixedResponseConfig", "Redirect": "RedirectConfig"}
    every: list[dict[str, Any]] = pascal(given)
    return [{names.get(key, key): value for key, value in each.items()} for each in every]


def _conditions(given: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    fields = {"hostHeader": ("host-header", "HostHeaderConfig"), "pathPattern": ("path-pattern", "PathPatternConfig")}
    return [
        {"Field": fields[key][0], fields[key][1]: pascal(value)}
        for each in given
        for key, value in each.items()
        if value is not None
    ]


def _modify_listener(aws: Clients, id_: str, _value: Any, inputs: Mapping[str, Any]) -> None:
    asked = parameters(_LISTENER, inputs)
    del asked["LoadBalancerArn"]
    aws.elbv2.modify_listener(ListenerArn=id_, **{"Certificates": []} | asked)


def _modify_rule(aws: Clients, id_: str, _value: Any, inputs: Mapping[str, Any]) -> None:
    aws.elbv2.modify_rule(
        RuleArn=id_, Conditions=_conditions(inputs["conditions"]), Actions=_actions(inputs["actions"])
    )


def _check_health(given: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "path": "HealthCheckPath", "protocol": "HealthCheckProtocol", "port": "HealthCheckPort", "matcher": "Matcher",
        "interval": "HealthCheckIntervalSeconds", "timeout": "HealthCheckTimeoutSeconds",
        "healthyThreshold": "HealthyThresholdCount", "unhealthyThreshold": "UnhealthyThresholdCount",
    }  # fmt: skip
    asked = {names[key]: value for key, value in given.items()}
    return asked | {"Matcher": {"HttpCode": asked["Matcher"]}}


def _create_group(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
    return str(aws.elbv2.create_target_group(**asked.pop("HealthCheck"), **asked)["TargetGroups"][0]["TargetGroupArn"])


_LISTENER: Mapping[str, Property] = {
    "loadBalancerArn": Property("LoadBalancerArn", refers="load balancer"),
    **same("port", "protocol", "sslPolicy", change=_modify_listener),
    "certificateArn": Property(
        "Certificates", lambda arn: [{"CertificateArn": arn}], change=_modify_listener, refers="certificate"
    ),
    "defaultActions": Property("DefaultActions", _actions, change=_modify_listener),
}
KINDS: Mapping[str, Kind] = {
    "aws:lb/loadBalancer:LoadBalancer": Kind(
        named_by="name",
        properties={
            "name": Property("Name"),
            "loadBalancerType": Property("Type"),
            "internal": Property("Scheme", lambda internal: "internal" if internal else "internet-facing"),
            "subnets": Property("Subnets", change=in_place, refers="subnet"),
            "securityGroups": Property("SecurityGroups", change=in_place, refers="group"),
            "ipAddressType": Property("IpAddressType", change=in_place),
            **{
                name: Property(change=_attribute("load_balancer", key))
                for name, key in {
                    "idleTimeout": "idle_timeout.timeout_seconds",
                    "dropInvalidHeaderFields": "routing.http.drop_invalid_header_fields.enabled",
                    "desyncMitigationMode": "routing.http.desync_mitigation_mode",
                    "preserveHostHeader": "routing.http.preserve_host_header.enabled",
                    "xffHeaderProcessingMode": "routing.http.xff_header_processing.mode",
                    "enableDeletionProtection": "deletion_protection.enabled",
                }.items()
            },
            "accessLogs": Property(
                change=_attributes("load_balancer", "access_logs.s3.", {"enabled": "enabled", "bucket": "bucket"})
            ),
        },
        create=_create_balancer,
        look=_look_up(
            "load_balancer",
            "LoadBalancerArns",
            {"dnsName": "DNSName", "zoneId": "CanonicalHostedZoneId", "vpcId": "VpcId"},
        ),
        delete=_delete_balancer,
        retag=_retag,
    ),
    "aws:lb/targetGroup:TargetGroup": Kind(
        named_by="name",
        properties={
            "name": Property("Name"),
            "vpcId": Property("VpcId", refers="vpc"),
            **same("targetType", "port", "protocol", "protocolVersion"),
            "loadBalancingAlgorithmType": Property(change=_attribute("target_group", "load_balancing.algorithm.type")),
            "slowStart": Property(change=_attribute("target_group", "slow_start.duration_seconds")),
            "deregistrationDelay": Property(change=_attribute("target_group", "deregistration_delay.timeout_seconds")),
            "healthCheck": Property(
                "HealthCheck",
                _check_health,
                change=lambda aws, id_, value, _: aws.elbv2.modify_target_group(
                    TargetGroupArn=id_, **_check_health(value)
                ),
            ),
            "stickiness": Property(
                change=_attributes(
                    "target_group",
                    "stickiness.",
                    {"type": "type", "enabled": "enabled", "cookieDuration": "lb_cookie.duration_seconds"},
                )
            ),
        },
        create=_create_group,
        look=_look_up("target_group", "TargetGroupArns", {}),
        delete=lambda aws, id_, _: aws.elbv2.delete_target_group(TargetGroupArn=id_),
        retag=_retag,
    ),
    "aws:lb/listener:Listener": Kind(
        properties=_LISTENER,
        create=lambda aws, asked, _: str(aws.elbv2.create_listener(**asked)["Listeners"][0]["ListenerArn"]),
        look=_look_up("listener", "ListenerArns", {}),
        delete=lambda aws, id_, _: aws.elbv2.delete_listener(ListenerArn=id_),
        retag=_retag,
    ),
    "aws:lb/listenerRule:ListenerRule": Kind(
        properties={
            "listenerArn": Property("ListenerArn", refers="listener"),
            "priority": Property(
                "Priority",
                change=lambda aws, id_, value, _: aws.elbv2.set_rule_priorities(
                    RulePriorities=[{"RuleArn": id_, "Priority": value}]
                ),
            ),
            "conditions": Property("Conditions", _conditions, change=_modify_rule),
            "actions": Property("Actions", _actions, change=_modify_rule),
        },
        create=lambda aws, asked, _: str(aws.elbv2.create_rule(**asked)["Rules"][0]["RuleArn"]),
        look=_look_up("rule", "RuleArns", {}),
        delete=lambda aws, id_, _: aws.elbv2.delete_rule(RuleArn=id_),
        retag=_retag,
    ),
}
