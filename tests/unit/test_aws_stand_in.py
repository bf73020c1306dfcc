"""The stand-in of AWS itself: it refuses what EC2 refuses, and tells the engine exactly what changes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Generator
from typing import Any, cast

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from tests.aws.account import Account
from tests.aws.auth_proxy import AuthProxy, served
from tests.aws.command import TYPE, RemoteCommands
from tests.aws.kind import Clients
from tests.aws.metadata import MetadataServer
from tests.aws.plugin import Failed, changes
from tests.aws.server import image, serving

pytestmark = pytest.mark.aws
REGION = "eu-central-1"
TOKEN = "X-aws-ec2-metadata-token"


@pytest.fixture(scope="module")
def account() -> Generator[Account]:
    with serving() as endpoint:
        yield Account(endpoint, REGION)


@pytest.fixture(scope="module")
def aws(account: Account) -> Clients:
    return account.aws


@pytest.fixture(scope="module")
def metadata(aws: Clients) -> Generator[MetadataServer]:
    server = MetadataServer.start(aws)
    yield server
    server.shutdown()
    server.server_close()


def asked(server: MetadataServer, machine: str, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Return status and text of a response to the machine with that private address."""
    url = f"http://127.{machine.partition('.')[2]}:{server.server_port}/latest/{path}"
    request = urllib.request.Request(
        url, method=method, headers={key.replace("_", "-"): headers[key] for key in headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def launched(account: Account, subnet: str, **more: Any) -> tuple[str, str]:
    """Launch an instance, and return its id and private address."""
    asked = {"ImageId": image(account), "MinCount": 1, "MaxCount": 1, "SubnetId": subnet}
    made = account.aws.ec2.run_instances(**asked, **more)["Instances"][0]
    return made["InstanceId"], made["PrivateIpAddress"]


def test_metadata_needs_a_token_and_tells_a_machine_of_itself_alone(account: Account, metadata: MetadataServer) -> None:
    aws = account.aws
    trust = '{"Version": "2012-10-17", "Statement": []}'
    arn = aws.iam.create_role(RoleName="reader", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    aws.iam.create_instance_profile(InstanceProfileName="reader")
    aws.iam.add_role_to_instance_profile(InstanceProfileName="reader", RoleName="reader")
    vpc = aws.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = aws.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.8.0/24")["Subnet"]["SubnetId"]
    id_, address = launched(account, subnet, IamInstanceProfile={"Name": "reader"})
    assert asked(metadata, address, "meta-data/instance-id") == (401, "")
    assert asked(metadata, address, "api/token", method="PUT") == (400, "")
    status, token = asked(metadata, address, "api/token", method="PUT", **{f"{TOKEN}-ttl-seconds": "60"})
    assert status == 200
    assert asked(metadata, address, "meta-data/instance-id", **{TOKEN: token}) == (200, id_)
    assert asked(metadata, address, "meta-data/placement/region", **{TOKEN: token}) == (200, REGION)
    roles = "meta-data/iam/security-credentials/"
    assert asked(metadata, address, roles, **{TOKEN: token}) == (200, "reader")
    assert '"Token"' in asked(metadata, address, f"{roles}reader", **{TOKEN: token})[1]
    assert asked(metadata, address, f"{roles}{arn}", **{TOKEN: token}) == (404, "")
    _, bare = launched(account, subnet)
    assert asked(metadata, bare, roles, **{TOKEN: token}) == (404, "")


def test_machines_read_what_their_role_may_and_nothing_else(aws: Clients) -> None:
    bucket, trust = "releases-of-all", '{"Version": "2012-10-17", "Statement": []}'
    aws.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    for key in ("prod/pointer", "staging/pointer"):
        aws.s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    arn = aws.iam.create_role(RoleName="prod", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    reads = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/prod/*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [reads]})
    aws.iam.put_role_policy(RoleName="prod", PolicyName="reads", PolicyDocument=document)
    made = aws.sts.assume_role(RoleArn=arn, RoleSessionName="machine")["Credentials"]
    with served(AuthProxy(DomainDispatcherApplication(create_backend_app), REGION), None) as server:
        url = f"http://127.0.0.1:{server.port}"

        def read(key: str, secret: str) -> str:
            s3 = cast("Any", boto3).client(
                "s3", endpoint_url=url, region_name=REGION, aws_access_key_id=made["AccessKeyId"],
                aws_secret_access_key=secret, aws_session_token=made["SessionToken"],
            )  # fmt: skip
            try:
                return s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
            except ClientError as error:
                return str(cast("Any", error.response)["ResponseMetadata"]["HTTPStatusCode"])

        assert read("prod/pointer", made["SecretAccessKey"]) == "prod/pointer"
        assert read("staging/pointer", made["SecretAccessKey"]) == "403"
        assert read("prod/pointer", "another") == "403"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{url}/{bucket}/prod/pointer", timeout=10)
    for key in ("prod/pointer", "staging/pointer"):
        aws.s3.delete_object(Bucket=bucket, Key=key)


def test_the_engine_is_told_where_two_values_differ() -> None:
    old = {"same": 1, "gone": 1, "block": {"size": 8, "tags": {"a:b": "x"}}, "list": [1, 2]}
    new = {"same": 1, "come": 1, "block": {"size": 9, "tags": {"a:b": "y"}}, "list": [1]}
    assert changes(old, new) == {
        "block.size": "update",
        'block.tags["a:b"]': "update",
        "come": "add",
        "gone": "delete",
        "list": "update",
    }
    assert changes(new, new) == {}


def test_a_command_is_replaced_by_its_triggers_alone() -> None:
    commands = RemoteCommands()
    assert [key for key in ("create", "update", "connection", "triggers") if commands.replaces(TYPE, key)] == [
        "triggers"
    ]
    with pytest.raises(Failed, match="knows no command:remote:Command with interpreter"):
        commands.create(TYPE, {"interpreter": ["sh"]})
