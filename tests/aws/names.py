"""Records of Route 53, and certificates of ACM that they prove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.aws.kind import Clients, Kind, Property, first, in_place, pairs, same


def _options(aws: Clients, arn: str) -> list[dict[str, str]]:
    """Return which record proves each name, as Pulumi has it."""
    found = aws.acm.describe_certificate(CertificateArn=arn)["Certificate"]["DomainValidationOptions"]
    return [
        {
            "domainName": each["DomainName"],
            **{f"resourceRecord{key}": each["ResourceRecord"][key] for key in ("Name", "Type", "Value")},
        }
        for each in sorted(found, key=lambda each: each["DomainName"])
    ]


def _retag(aws: Clients, id_: str, _state: Mapping[str, Any], old: Iterable[str], new: Mapping[str, str]) -> None:
    if old:
        aws.acm.remove_tags_from_certificate(CertificateArn=id_, Tags=[{"Key": key} for key in old])
    aws.acm.add_tags_to_certificate(CertificateArn=id_, Tags=pairs(new))


def _request(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
    # ACM takes no empty list, and the provider sends none.
    given = {key: value for key, value in asked.items() if value}
    return str(aws.acm.request_certificate(**given)["CertificateArn"])


def _validate(aws: Clients, asked: dict[str, Any], _inputs: Mapping[str, Any]) -> str:
    """Do what ACM does: sign once each record is there. moto signs whatever is asked for."""
    arn = str(asked["CertificateArn"])
    zones = aws.route53.list_hosted_zones()["HostedZones"]
    records = [
        (each["Name"].rstrip("."), each["Type"], value["Value"].rstrip("."))
        for zone in zones
        for each in aws.route53.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]
        for value in each.get("ResourceRecords", ())
    ]
    for each in _options(aws, arn):
        expected = tuple(each[f"resourceRecord{key}"].rstrip(".") for key in ("Name", "Type", "Value"))
        first((record for record in records if record == expected), f"record {expected} of {arn}")
    return arn


def _change_record(action: str, given: Mapping[str, Any]) -> dict[str, Any]:
    asked = {property_.parameter: property_.convert(given[key]) for key, property_ in _RECORD.items() if given.get(key)}
    zone = asked.pop("HostedZoneId")
    return {"HostedZoneId": zone, "ChangeBatch": {"Changes": [{"Action": action, "ResourceRecordSet": asked}]}}


def _put_record(aws: Clients, _asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
    aws.route53.change_resource_record_sets(**_change_record("CREATE", inputs))
    return f"{inputs['zoneId']}_{inputs['name']}_{inputs['type']}"


def _look_at_record(aws: Clients, id_: str, state: Mapping[str, Any]) -> Mapping[str, Any]:
    there = aws.route53.list_resource_record_sets(HostedZoneId=state["zoneId"])["ResourceRecordSets"]
    name, type_ = state["name"].rstrip("."), state["type"]
    first((each for each in there if (each["Name"].rstrip("."), each["Type"]) == (name, type_)), id_)
    return {"fqdn": name}


def _alias(given: list[Mapping[str, Any]]) -> dict[str, Any]:
    (alias,) = given
    return {
        "HostedZoneId": alias["zoneId"],
        "DNSName": alias["name"],
        "EvaluateTargetHealth": alias["evaluateTargetHealth"],
    }


_RECORD: Mapping[str, Property] = {
    "zoneId": Property("HostedZoneId", refers="zone"),
    **same("name", "type"),
    "ttl": Property("TTL", change=in_place),
    "records": Property("ResourceRecords", lambda values: [{"Value": value} for value in values], change=in_place),
    "aliases": Property("AliasTarget", _alias, change=in_place),
}
KINDS: Mapping[str, Kind] = {
    "aws:acm/certificate:Certificate": Kind(
        properties=same("domainName", "subjectAlternativeNames", "validationMethod", "keyAlgorithm"),
        create=_request,
        look=lambda aws, id_, _: {"arn": id_, "domainValidationOptions": _options(aws, id_)},
        delete=lambda aws, id_, _: aws.acm.delete_certificate(CertificateArn=id_),
        retag=_retag,
    ),
    "aws:acm/certificateValidation:CertificateValidation": Kind(
        properties={
            "certificateArn": Property("CertificateArn", refers="certificate"),
            "validationRecordFqdns": Property("ValidationRecordFqdns", change=in_place),
        },
        create=_validate,
        look=lambda _aws, _id, _state: {},
        # Pulumi only forgets it.
        delete=lambda _aws, _id, _state: None,
        retag=None,
    ),
    "aws:route53/record:Record": Kind(
        properties=_RECORD,
        create=_put_record,
        look=_look_at_record,
        delete=lambda aws, _, state: aws.route53.change_resource_record_sets(**_change_record("DELETE", state)),
        retag=None,
    ),
}
