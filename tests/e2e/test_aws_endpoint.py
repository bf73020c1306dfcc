"""A fleet on the stand-in of AWS that is reached through an EC2 Instance Connect Endpoint alone."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from typing import Any

import pytest

from harness.load import Load
from harness.stack import on
from tests.aws.session import running
from tests.aws.stack import AwsStack
from tests.e2e.test_aws import REGION, instances, opens, says

pytestmark = [pytest.mark.aws, pytest.mark.long]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Generator[AwsStack]:
    """Create two app servers and the balancer, none of which anybody enters but through the endpoint."""
    with running(REGION, f"e2e-{os.getpid()}-eice") as region:
        stack = AwsStack.prepare(tmp_path_factory.mktemp("aws"), region, servers=2)
        del stack.settings["aws"]["admin_cidrs"]
        stack.settings["aws"]["transport"] = "instance_connect_endpoint"
        with stack.serving():
            yield stack


def connects(source: dict[str, Any], target: dict[str, Any], port: int) -> str:
    """Return what comes of a connection from one instance to another."""
    program = f"""if True:
        import socket
        try:
            socket.create_connection(("{target["PrivateIpAddress"]}", {port}), timeout=2)
            print("connected")
        except OSError:
            print("refused")
    """
    return on(source["InstanceId"], "python3", "-c", program).strip()


def test_machines_are_set_up_and_none_lets_anybody_in_but_the_endpoint(closed: AwsStack) -> None:
    assert {server for server, _ in closed.who_answers()} == set(closed.servers().values())
    machines = instances(closed)
    assert set(closed.running.tunnels.opened) == {each["PrivateIpAddress"] for each in machines.values()}
    balancer = machines.pop("balancer")
    for server in machines.values():
        # From machine to machine: what this host sends to a public address passes its networks' rules by.
        for source, target, port in ((balancer, server, 8000), (server, balancer, 80)):
            assert connects(source, target, port) == "connected"
            assert connects(source, target, 22) == "refused"
        assert not opens(server["PrivateIpAddress"], 22)
    closed.up("--expect-no-changes")


def test_a_release_and_the_operators_commands_pass_through_tunnels_without_a_lost_request(closed: AwsStack) -> None:
    with Load(closed.url) as load:
        closed.release_version("two")
        load.wait_for(50)
    assert load.outcome.failed_fresh == load.outcome.failed_kept == [], load.outcome
    assert closed.who_answers() == {(machine, "two") for machine in closed.servers().values()}
    status = json.loads(says(closed, "status", "--json"))
    assert [(each["name"], each["state"]) for each in status["servers"]] == [
        (name, "serving") for name in closed.servers()
    ]
    last, machine = list(closed.servers().items())[-1]
    script = "import os; print(os.environ['WSGI_FLEET_SERVER'])"
    assert says(closed, "exec", "--server", last, "--", "python", "-c", script).strip() == machine
    assert {line.split(" | ")[0].strip() for line in says(closed, "logs", "-n", "3").splitlines()} == set(
        closed.servers()
    )
    assert "ok     endpoint eice-" in closed.fleet("doctor").stdout
    assert closed.running.tunnels.open == 0


def test_the_endpoint_and_its_group_go_with_the_stack(closed: AwsStack) -> None:
    closed.settings["aws"]["protect"] = False
    closed.up()
    closed.destroy()
    ec2 = closed.running.account.aws.ec2
    assert ec2.describe_instance_connect_endpoints()["InstanceConnectEndpoints"] == []
    assert {each["GroupName"] for each in ec2.describe_security_groups()["SecurityGroups"]} == {"default"}
    assert closed.instances() == []
