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
from tests.e2e.test_aws import REGION, accepts_connection, fleet_output, instances

pytestmark = [pytest.mark.aws, pytest.mark.long]


@pytest.fixture(scope="module")
def endpoint_fleet(tmp_path_factory: pytest.TempPathFactory) -> Generator[AwsStack]:
    """Create two app servers and the balancer, none of which anybody enters but through the endpoint."""
    with running(REGION, f"e2e-{os.getpid()}-eice") as region:
        stack = AwsStack.prepare(tmp_path_factory.mktemp("aws"), region, servers=2)
        del stack.settings["aws"]["admin_cidrs"]
        stack.settings["aws"]["transport"] = "instance_connect_endpoint"
        with stack.serving():
            yield stack


def try_connection(source: dict[str, Any], target: dict[str, Any], port: int) -> str:
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


def test_machines_are_set_up_and_none_lets_anybody_in_but_the_endpoint(endpoint_fleet: AwsStack) -> None:
    assert {server for server, _ in endpoint_fleet.responding_servers()} == set(endpoint_fleet.servers().values())
    machines = instances(endpoint_fleet)
    assert set(endpoint_fleet.running.tunnels.opened) == {each["PrivateIpAddress"] for each in machines.values()}
    balancer = machines.pop("balancer")
    for server in machines.values():
        # From machine to machine: what this host sends to a public address passes its networks' rules by.
        for source, target, port in ((balancer, server, 8000), (server, balancer, 80)):
            assert try_connection(source, target, port) == "connected"
            assert try_connection(source, target, 22) == "refused"
        assert not accepts_connection(server["PrivateIpAddress"], 22)
    endpoint_fleet.up("--expect-no-changes")


def test_a_release_and_the_operators_commands_pass_through_tunnels_without_a_lost_request(
    endpoint_fleet: AwsStack,
) -> None:
    with Load(endpoint_fleet.url) as load:
        endpoint_fleet.release_version("two")
        load.wait_for(50)
    assert load.outcome.failed_fresh == load.outcome.failed_kept == [], load.outcome
    assert endpoint_fleet.responding_servers() == {(machine, "two") for machine in endpoint_fleet.servers().values()}
    status = json.loads(fleet_output(endpoint_fleet, "status", "--json"))
    assert [(each["name"], each["state"]) for each in status["servers"]] == [
        (name, "serving") for name in endpoint_fleet.servers()
    ]
    last, machine = list(endpoint_fleet.servers().items())[-1]
    script = "import os; print(os.environ['WSGI_FLEET_SERVER'])"
    assert fleet_output(endpoint_fleet, "exec", "--server", last, "--", "python", "-c", script).strip() == machine
    assert {
        line.split(" | ")[0].strip() for line in fleet_output(endpoint_fleet, "logs", "-n", "3").splitlines()
    } == set(endpoint_fleet.servers())
    assert "ok     endpoint eice-" in endpoint_fleet.fleet("doctor").stdout
    assert endpoint_fleet.running.tunnels.open == 0


def test_the_endpoint_and_its_group_go_with_the_stack(endpoint_fleet: AwsStack) -> None:
    endpoint_fleet.settings["aws"]["protect"] = False
    endpoint_fleet.up()
    endpoint_fleet.destroy()
    ec2 = endpoint_fleet.running.account.aws.ec2
    assert ec2.describe_instance_connect_endpoints()["InstanceConnectEndpoints"] == []
    assert {each["GroupName"] for each in ec2.describe_security_groups()["SecurityGroups"]} == {"default"}
    assert endpoint_fleet.instances() == []
