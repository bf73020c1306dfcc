"""Logs, alarms, names and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.aws.kind import LOCAL, Clients, Kind, Property, Put, pairs


class LogGroup(Kind):
    named_by = "name"
    properties: ClassVar[Mapping[str, Property]] = {
        "name": Property("logGroupName"),
        "logGroupClass": Property("logGroupClass"),
        "kmsKeyId": Property(
            "kmsKeyId", change=lambda aws, id_, value, _: aws.logs.associate_kms_key(logGroupName=id_, kmsKeyId=value)
        ),
        "retentionInDays": Property(
            change=lambda aws, id_, value, _: aws.logs.put_retention_policy(logGroupName=id_, retentionInDays=value)
        ),
        "skipDestroy": LOCAL,
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        aws.logs.create_log_group(**asked)
        return str(asked["logGroupName"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        for group in aws.logs.describe_log_groups(logGroupNamePrefix=id_)["logGroups"]:
            if group["logGroupName"] == id_:
                return {"arn": group["arn"].removesuffix(":*")}
        raise LookupError(f"{id_} does not exist")

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        if not state.get("skipDestroy"):
            aws.logs.delete_log_group(logGroupName=id_)

    def retag(self, aws: Clients, id_: str, state: Mapping[str, Any], old: Any, new: Mapping[str, str]) -> None:
        del id_
        if old:
            aws.logs.untag_resource(resourceArn=state["arn"], tagKeys=list(old))
        aws.logs.tag_resource(resourceArn=state["arn"], tags=dict(new))


class MetricAlarm(Put):
    named_by = "name"
    identity = frozenset({"name"})
    properties: ClassVar[Mapping[str, Property]] = {
        "name": Property("AlarmName"),
        "dimensions": Property(
            "Dimensions", lambda given: [{"Name": name, "Value": value} for name, value in given.items()]
        ),
        **{
            name: Property(name[0].upper() + name[1:])
            for name in (
                "actionsEnabled",
                "alarmActions",
                "alarmDescription",
                "comparisonOperator",
                "datapointsToAlarm",
                "evaluationPeriods",
                "extendedStatistic",
                "metricName",
                "namespace",
                "period",
                "statistic",
                "threshold",
                "treatMissingData",
                "unit",
            )
        },
        "okActions": Property("OKActions"),
        "insufficientDataActions": Property("InsufficientDataActions"),
    }

    def put(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        aws.cloudwatch.put_metric_alarm(**asked)
        return str(asked["AlarmName"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        (alarm,) = aws.cloudwatch.describe_alarms(AlarmNames=[id_])["MetricAlarms"] or [None]
        if alarm is None:
            raise LookupError(f"{id_} does not exist")
        return {"arn": alarm["AlarmArn"]}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        aws.cloudwatch.delete_alarms(AlarmNames=[id_])

    def retag(self, aws: Clients, id_: str, state: Mapping[str, Any], old: Any, new: Mapping[str, str]) -> None:
        del id_
        if old:
            aws.cloudwatch.untag_resource(ResourceARN=state["arn"], TagKeys=list(old))
        aws.cloudwatch.tag_resource(ResourceARN=state["arn"], Tags=pairs(new))


class Record(Put):
    """A plain record. Its id is `zone_name_type`."""

    taggable = False
    identity = frozenset({"zoneId", "name", "type"})
    properties: ClassVar[Mapping[str, Property]] = {
        "zoneId": Property("HostedZoneId", refers="zone"),
        "name": Property("Name"),
        "type": Property("Type"),
        "ttl": Property("TTL"),
        "records": Property("ResourceRecords", lambda values: [{"Value": value} for value in values]),
        "allowOverwrite": LOCAL,
    }

    @staticmethod
    def _act(aws: Clients, action: str, asked: dict[str, Any]) -> None:
        zone = asked.pop("HostedZoneId")
        change = {"Action": action, "ResourceRecordSet": asked}
        aws.route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": [change]})

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        self._act(aws, "UPSERT" if inputs.get("allowOverwrite") else "CREATE", asked)
        return f"{inputs['zoneId']}_{inputs['name']}_{inputs['type']}"

    def put(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        self._act(aws, "UPSERT", asked)
        return f"{inputs['zoneId']}_{inputs['name']}_{inputs['type']}"

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        name = state["name"].rstrip(".")
        for each in aws.route53.list_resource_record_sets(HostedZoneId=state["zoneId"])["ResourceRecordSets"]:
            if (each["Name"].rstrip("."), each["Type"]) == (name, state["type"]):
                return {"fqdn": name}
        raise LookupError(f"{id_} does not exist")

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        self.look(aws, id_, state)
        asked = {
            "HostedZoneId": state["zoneId"],
            "Name": state["name"],
            "Type": state["type"],
            "TTL": state["ttl"],
            "ResourceRecords": [{"Value": value} for value in state["records"]],
        }
        self._act(aws, "DELETE", asked)


class Parameter(Put):
    named_by = "name"
    identity = frozenset({"name", "dataType"})
    properties: ClassVar[Mapping[str, Property]] = {
        "name": Property("Name"),
        "type": Property("Type"),
        "value": Property("Value"),
        "keyId": Property("KeyId"),
        "description": Property("Description"),
        "tier": Property("Tier"),
        "allowedPattern": Property("AllowedPattern"),
        "dataType": Property("DataType"),
        "overwrite": LOCAL,
    }

    def create(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        aws.ssm.put_parameter(**asked, Overwrite=bool(inputs.get("overwrite")))
        return str(asked["Name"])

    def put(self, aws: Clients, asked: dict[str, Any], inputs: Mapping[str, Any]) -> str:
        del inputs
        aws.ssm.put_parameter(**asked, Overwrite=True)
        return str(asked["Name"])

    def look(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> dict[str, Any]:
        del state
        found = aws.ssm.get_parameter(Name=id_)["Parameter"]
        return {"arn": found["ARN"], "version": found["Version"]}

    def delete(self, aws: Clients, id_: str, state: Mapping[str, Any]) -> None:
        del state
        aws.ssm.delete_parameter(Name=id_)

    def retag(self, aws: Clients, id_: str, state: Mapping[str, Any], old: Any, new: Mapping[str, str]) -> None:
        del state
        if old:
            aws.ssm.remove_tags_from_resource(ResourceType="Parameter", ResourceId=id_, TagKeys=list(old))
        aws.ssm.add_tags_to_resource(ResourceType="Parameter", ResourceId=id_, Tags=pairs(new))


KINDS: Mapping[str, Kind] = {
    "aws:cloudwatch/logGroup:LogGroup": LogGroup(),
    "aws:cloudwatch/metricAlarm:MetricAlarm": MetricAlarm(),
    "aws:route53/record:Record": Record(),
    "aws:ssm/parameter:Parameter": Parameter(),
}
