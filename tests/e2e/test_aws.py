"""`pulumi up -s prod` by the real engine: moto is AWS, and EC2's instances are machines with sshd and cloud-init.

See tests/aws/session.py. Tests share one fleet and leave it well; the last one destroys it.
"""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from harness.load import CLIENTS, REQUEST_KINDS, Load
from harness.stack import SECRET, eventually, lxc, on
from tests.aws.session import Running, running
from tests.aws.stack import AwsStack

pytestmark = pytest.mark.aws
REGION = "eu-central-1"
SCRIPTS = "/usr/local/lib/wsgi-fleet"
INSTANCE, COMMAND = "aws:ec2:Instance", "command:remote:Command"


@pytest.fixture(scope="module")
def region() -> Generator[Running]:
    with running(REGION, f"e2e-{os.getpid()}-aws") as region:
        yield region


@pytest.fixture(scope="module")
def prod(region: Running, tmp_path_factory: pytest.TempPathFactory) -> Generator[AwsStack]:
    """Create two app servers and the balancer."""
    stack = AwsStack.prepare(tmp_path_factory.mktemp("aws"), region, servers=2)
    stack.app["generated_secrets"] = ["HELLO_SECRET_KEY", "T_MADE"]
    stack.settings["aws"]["alarms"] = {"sns_topic_arn": f"arn:aws:sns:{REGION}:123456789012:fleet"}
    stack.set_secret("T_SECRET", SECRET)
    with stack.serving():
        yield stack


def fleet_output(stack: AwsStack, *arguments: str) -> str:
    result = stack.fleet(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def bucket(stack: AwsStack) -> str:
    return next(each["Name"] for each in stack.running.account.aws.s3.list_buckets()["Buckets"])


def instances(stack: AwsStack) -> dict[str, dict[str, Any]]:
    """Return the instances that run, as EC2 lists them: role -> instance."""
    running_ = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    pages = stack.running.account.aws.ec2.describe_instances(Filters=running_)["Reservations"]
    every: list[dict[str, Any]] = [each for page in pages for each in page["Instances"]]
    names = [{tag["Key"]: tag["Value"] for tag in each["Tags"]}["Name"] for each in every]
    return {name.removeprefix(f"{stack.name}-"): each for name, each in zip(names, every, strict=True)}


def list_metrics(stack: AwsStack) -> tuple[set[str], set[str]]:
    """Return the metrics of alarms except EC2's, and those published: namespace, name and dimensions of each."""
    cloudwatch = stack.running.account.aws.cloudwatch
    alarms: list[dict[str, Any]] = cloudwatch.describe_alarms()["MetricAlarms"]
    metrics: list[dict[str, Any]] = cloudwatch.list_metrics()["Metrics"]
    keys = ("Namespace", "MetricName", "Dimensions")
    lines = [{json.dumps([each[key] for key in keys]) for each in every} for every in (alarms, metrics)]
    ours, published = ({each for each in every if '"AWS/' not in each} for every in lines)
    return ours, published


def report(stack: AwsStack, metric: str) -> float:
    """Have the balancer report now, and return the value of a metric as CloudWatch has it."""
    balancer = instances(stack)["balancer"]["InstanceId"]
    start_s = datetime.now(UTC).replace(microsecond=0)
    on(balancer, "systemctl", "start", "wsgi-fleet-metrics.service")
    response = stack.running.account.aws.cloudwatch.get_metric_statistics(
        Namespace="wsgi-fleet/prod", MetricName=metric, Dimensions=[{"Name": "InstanceId", "Value": balancer}],
        StartTime=start_s, EndTime=start_s + timedelta(minutes=2), Period=1, Statistics=["Maximum"],
    )  # fmt: skip
    return max(response["Datapoints"], key=lambda each: each["Timestamp"])["Maximum"]


def lines_of(stack: AwsStack, what: str, needle: str) -> list[str]:
    """Return the stream and the text of each line with that word in the log group that the stack's output names."""
    logs, group = stack.running.account.aws.logs, stack.output("logs")[what]
    found: list[dict[str, Any]] = logs.filter_log_events(logGroupName=group)["events"]
    return [f"{each['logStreamName']} {each['message']}" for each in found if needle in each["message"]]


def make_application_fail(stack: AwsStack) -> str:
    """Make the application fail, and return the word that stands in the lines about it."""
    needle = f"needle-{uuid.uuid4().hex}"
    with pytest.raises(urllib.error.HTTPError, match=r"50[02]") as found:
        urllib.request.urlopen(f"{stack.url}/?s={needle}", timeout=30)
    found.value.close()
    return needle


def accepts_connection(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def assert_in_order(output: str, *printed: Sequence[str]) -> None:
    """Check that each of these stands in a line of its own (all its words), one after the other."""
    lines = iter(output.splitlines())
    for words in printed:
        assert any(all(word in line for word in words) for line in lines), f"{words} is not there in time:\n{output}"


def test_every_server_answers_at_the_elastic_address(prod: AwsStack) -> None:
    addresses = prod.running.account.aws.ec2.describe_addresses()["Addresses"]
    assert prod.output("url") == prod.url == f"http://{addresses[0]['PublicIp']}"
    assert {server for server, _ in prod.responding_servers()} == set(prod.servers().values())
    assert {each["name"] for each in prod.instances()} == {each["InstanceId"] for each in instances(prod).values()}


def test_a_second_up_and_a_refresh_find_nothing_to_do(prod: AwsStack) -> None:
    prod.up("--expect-no-changes")
    prod.pulumi("refresh", "--yes", "--skip-preview", "-s", prod.name, "--expect-no-changes")


def test_secrets_reach_the_application_and_stand_in_plain_nowhere_else(prod: AwsStack) -> None:
    seen = prod.get("/environment")
    assert seen["T_SECRET"] == SECRET
    private_key = prod.private_key().splitlines()[1]
    for text in (SECRET, "hunter2", seen["T_MADE"], private_key):
        for folder in (prod.folder.parent / "state", prod.folder / ".state", prod.folder / "stacks"):
            files = [file for file in folder.rglob("*") if file.is_file()]
            assert files
            assert [file for file in files if text.encode() in file.read_bytes()] == []
        assert text not in json.dumps(prod.instances())
        for machine in instances(prod).values():
            assert text not in on(machine["InstanceId"], "journalctl", "--no-pager", "-o", "cat")


def test_cloud_init_finds_its_documents_valid(prod: AwsStack) -> None:
    for machine in instances(prod).values():
        assert "Valid" in on(machine["InstanceId"], "cloud-init", "schema", "--system")


def test_machines_publish_what_their_alarms_look_at(prod: AwsStack) -> None:
    looked_at, published = list_metrics(prod)
    assert published == looked_at
    # One of each machine, and two more of the balancer.
    assert len(published) == len(instances(prod)) + 2
    assert report(prod, "UnhealthyServers") == 0
    needle = make_application_fail(prod)
    assert needle
    assert report(prod, "Errors5xxPercent") > 0


def test_lines_of_a_request_arrive_where_the_output_says_and_a_rotation_loses_none(prod: AwsStack) -> None:
    balancer = instances(prod)["balancer"]["InstanceId"]
    needles = [make_application_fail(prod)]
    on(balancer, "logrotate", "--force", "/etc/logrotate.d/wsgi-fleet")
    needles.append(make_application_fail(prod))
    for needle in needles:
        (access,) = eventually(
            lambda needle=needle: lines_of(prod, "balancer", needle), message="the access log arrives"
        )
        stream, _, line = access.partition(" ")
        assert stream == balancer
        assert json.loads(line)["status"] in (500, 502)
        raised = eventually(
            lambda word=needle: [each for each in lines_of(prod, "hello", word) if "ValueError" in each],
            message="what the application said arrives",
        )
        stream, _, line = raised[0].partition(" ")
        assert stream in prod.servers().values()
        assert json.loads(line)["unit"] in ("app@blue", "app@green")
    for what in prod.output("logs"):
        assert [each for each in lines_of(prod, what, "") if SECRET in each or "PRIVATE KEY" in each] == []


def test_who_ships_lines_is_bounded_and_may_do_nothing_else(prod: AwsStack) -> None:
    for machine in instances(prod).values():
        output = on(
            machine["InstanceId"], "systemctl", "show", "wsgi-fleet-logs", "-p", "MemoryMax,DynamicUser,ActiveState"
        )
        assert set(output.split()) == {"MemoryMax=134217728", "DynamicUser=yes", "ActiveState=active"}


def test_app_servers_are_reached_through_the_jump_host_alone(prod: AwsStack) -> None:
    machines = instances(prod)
    balancer = machines.pop("balancer")
    assert accepts_connection(balancer["PublicIpAddress"], 22)
    for machine in machines.values():
        address = machine["PrivateIpAddress"]
        assert "PublicIpAddress" not in machine
        assert not accepts_connection(address, 22)
        script = f"import socket; socket.create_connection(('{address}', 22), timeout=2)"
        on(balancer["InstanceId"], "python3", "-c", script)


def test_new_code_goes_out_over_ssh_without_a_lost_request(prod: AwsStack) -> None:
    before = instances(prod).keys()
    with Load(prod.url) as load:
        prod.release_version("two")
        load.wait_for(50)
    assert load.outcome.failed_fresh == [], load.outcome
    assert load.outcome.failed_kept == [], load.outcome
    assert set(load.outcome.versions) == {"1", "two"}
    assert prod.responding_servers() == {(machine, "two") for machine in prod.servers().values()}
    assert instances(prod).keys() == before


@pytest.mark.long
def test_the_operators_commands_work_through_the_jump_host(prod: AwsStack) -> None:
    status = json.loads(fleet_output(prod, "status", "--json"))
    assert [(each["name"], each["state"]) for each in status["servers"]] == [
        (name, "serving") for name in prod.servers()
    ]
    assert status["url"] == prod.url
    assert {line.split(" | ")[0].strip() for line in fleet_output(prod, "logs", "-n", "3").splitlines()} == set(
        prod.servers()
    )
    last, machine = list(prod.servers().items())[-1]
    script = "import os; print(os.environ['T_SECRET'], os.environ['WSGI_FLEET_SERVER'])"
    assert fleet_output(prod, "exec", "--server", last, "--", "python", "-c", script).strip() == f"{SECRET} {machine}"
    left = prod.get()["release"]
    with Load(prod.url) as load:
        fleet_output(prod, "rollback", "--yes")
        load.wait_for(20)
    assert load.outcome.failed_fresh == [], load.outcome
    assert left not in {prod.get()["release"] for _ in range(20)}
    fleet_output(prod, "allow", left)


def test_a_server_that_missed_a_release_reads_it_from_s3_by_its_role_when_it_boots(prod: AwsStack) -> None:
    machine, release = list(prod.servers().values())[-1], prod.get()["release"]
    asked = prod.running.metadata.served
    # As if it had been away: it serves another release, with the same secrets, and has nothing of the one that is due.
    script = """
        live=$(readlink -f /srv/app/live)
        cp -a "$live" /srv/app/releases/older
        ln -sfn /srv/app/releases/older /srv/app/live
        rm -r "$live" /srv/app/venvs/*
    """
    on(machine, "sh", "-euc", script)
    asked.clear()
    lxc("restart", "--force", machine)
    eventually(lambda: machine in {server for server, _ in prod.responding_servers()}, message=f"{machine} answers")
    assert on(machine, "readlink", "/srv/app/live").strip() == f"/srv/app/releases/{release}"
    # With the virtualenv that the first server made.
    assert "building a virtualenv" not in on(machine, "journalctl", "--boot", "--unit=app-boot")
    assert "/wheels/" in str(prod.running.account.aws.s3.list_objects_v2(Bucket=bucket(prod))["Contents"])
    address = next(each["PrivateIpAddress"] for each in instances(prod).values() if each["InstanceId"] == machine)
    roles = [path for who, path in asked if who == address and path.startswith("meta-data/iam/security-credentials/")]
    assert roles[0] == "meta-data/iam/security-credentials/"
    for prefix, allowed in ((f"{prod.name}/hello", True), ("staging/hello", False)):
        program = f"from fetch import fetch; fetch('s3://{bucket(prod)}/{prefix}', 'pointer')"
        found = on(machine, "env", f"PYTHONPATH={SCRIPTS}", "python3", "-c", program, check=False)
        assert ("S3 responded with 403" in found) != allowed, found


@pytest.mark.long
def test_a_new_server_serves_before_members_change_and_no_request_is_lost(prod: AwsStack) -> None:
    with Load(prod.url) as load:
        prod.app["fleet"]["servers"] = 3
        output = prod.up()
        load.wait_for(50)
    assert load.outcome.failed_fresh == [], load.outcome
    assert_in_order(
        output,
        (INSTANCE, "hello-3 created"),
        (COMMAND, "hello-3-booted created"),
        ("hello-rollout updated",),
        (COMMAND, "balancer-site created"),
    )
    servers = prod.servers()
    assert {server for server, _ in prod.responding_servers()} == set(servers.values())
    assert len({instances(prod)[name]["Placement"]["AvailabilityZone"] for name in servers}) == 3


@pytest.mark.long
def test_a_new_balancer_takes_the_address_and_servers_are_deleted_last(prod: AwsStack) -> None:
    """Check that jump host and public address move in the same `up` that deletes servers."""
    before = instances(prod)
    prod.app["fleet"]["servers"] = 1
    prod.settings["balancer"]["size"]["instance_type"] = "t4g.large"
    with Load(prod.url) as load:
        output = prod.up()
        load.wait_for(50)
    # A connection to the old balancer ends with it. Whoever had one lost the request that was in flight, and no other.
    failed = load.outcome.failed_fresh + load.outcome.failed_kept
    assert load.outcome.sent == load.outcome.responses + len(failed)
    assert len(failed) <= len(REQUEST_KINDS) * CLIENTS * 2, load.outcome
    assert_in_order(
        output,
        (INSTANCE, "balancer created"),
        (COMMAND, "balancer-site created"),
        ("aws:ec2:EipAssociation", "balancer-address created"),
        (INSTANCE, "balancer deleted"),
    )
    # The address that they connect to is the machine's until then.
    assert_in_order(
        output, (COMMAND, "balancer-monitoring created"), ("aws:ec2:EipAssociation", "balancer-address created")
    )
    assert_in_order(output, (COMMAND, "balancer-site created"), (INSTANCE, "hello-2 deleted"))
    assert prod.output("url") == prod.url
    left = instances(prod)
    assert left.keys() == {"hello-1", "balancer"}
    assert left["hello-1"]["InstanceId"] == before["hello-1"]["InstanceId"]
    assert left["balancer"]["InstanceId"] != before["balancer"]["InstanceId"]
    assert {each["name"] for each in prod.instances()} == {each["InstanceId"] for each in left.values()}
    assert {server for server, _ in prod.responding_servers()} == {left["hello-1"]["InstanceId"]}
    assert json.loads(fleet_output(prod, "status", "--json"))["healthy"] is True


def test_destroy_leaves_nothing_in_the_account_and_no_machine(prod: AwsStack) -> None:
    aws = prod.running.account.aws
    prod.settings["aws"] |= {"alarms": None, "logs": None, "protect": False}
    prod.up()
    # What reported and shipped is gone from the machines as well, and what it was allowed.
    for machine in instances(prod).values():
        units = on(
            machine["InstanceId"],
            "systemctl",
            "list-unit-files",
            "wsgi-fleet-metrics*",
            "wsgi-fleet-logs*",
            check=False,
        )
        assert "0 unit files listed" in units
    assert "IamInstanceProfile" not in instances(prod)["balancer"]
    assert aws.cloudwatch.describe_alarms()["MetricAlarms"] == []
    # The flow log's is left.
    assert len(aws.logs.describe_log_groups()["logGroups"]) == 1
    prod.destroy()
    assert aws.logs.describe_log_groups()["logGroups"] == []
    assert prod.instances() == []
    assert instances(prod) == {}
    assert aws.ec2.describe_addresses()["Addresses"] == []
    groups = aws.ec2.describe_security_groups()["SecurityGroups"]
    assert {each["GroupName"] for each in groups} == {"default"}
    assert aws.s3.list_buckets()["Buckets"] == []
    assert aws.iam.list_roles()["Roles"] == []
    assert aws.iam.list_instance_profiles()["InstanceProfiles"] == []
