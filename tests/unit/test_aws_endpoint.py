"""The way through an EC2 Instance Connect Endpoint: what the stack makes, and tunnels to real SSH servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.dynamic import ResourceProvider
from pydantic import ValidationError

from harness.mock_aws import ENDPOINT, GENERATED_KEY, HOST_KEY, KEY
from harness.mock_engine import Build, Secret
from harness.program import ROOT
from harness.stack import eventually
from platforms import operator
from platforms.aws import connection, endpoint, terminal
from platforms.aws.known_hosts import KnownHosts
from platforms.aws.ssh import SshTransport
from platforms.step import StepFailed
from platforms.transport import Result, Unreachable
from tests.aws.endpoint import EndpointServer
from tests.aws.session import server_context
from tests.certificates import Authority
from tests.unit.aws_fleet import GROUP, IN, INSTANCE, OUT, ROLES, STEP, built, given, names, run, vpc
from tests.unit.ssh_machine import PRIVATE_KEY, SERVER, Machine, port, server
from tests.unit.test_aws_terminal import entered

__all__ = ["port", "server"]  # fixtures
REGION, ID, ADDRESS = "eu-central-1", "eice-0123456789abcdef0", "127.0.0.2"
OWN_STEP = "pulumi-python:dynamic/aws:Step"
WAY: dict[str, Any] = {"transport": "instance_connect_endpoint", "admin_cidrs": []}
STEPS: ResourceProvider = endpoint._StepProvider()  # pyright: ignore[reportPrivateUsage]


def by_endpoint(**changes: Any) -> Build:
    return built(**WAY, **changes)


@pytest.mark.parametrize("network", [{}, vpc("a", "b")], ids=["existing", "own"])
def test_port_22_of_every_machine_is_open_to_the_endpoint_and_to_no_address(network: dict[str, Any]) -> None:
    made = by_endpoint(**network)
    group = made.one(GROUP, "instance-connect")
    into = [each.inputs for each in made.of(IN) if each.inputs["fromPort"] == 22]
    out = [each.inputs for each in made.of(OUT) if each.inputs["securityGroupId"] == group.id]
    machines = {each.inputs["vpcSecurityGroupIds"][0] for each in made.of(INSTANCE)}
    assert {each["securityGroupId"] for each in into} == machines
    assert {each.get("referencedSecurityGroupId") for each in into} == {group.id}
    # The endpoint gets to port 22 of machines and nowhere else, and nothing gets to it.
    assert {(each["referencedSecurityGroupId"], each["fromPort"], each["toPort"]) for each in out} == {
        (machine, 22, 22) for machine in machines
    }
    assert [each.name for each in made.of(IN) if each.inputs["securityGroupId"] == group.id] == []


def test_the_endpoint_stands_in_a_private_subnet_and_is_replaced_before_another_one_comes() -> None:
    made = by_endpoint()
    found = made.one(ENDPOINT)
    assert found.inputs == {
        "subnetId": "subnet-0000000b",
        "securityGroupIds": ["instance-connect-id"],
        "preserveClientIp": False,
        "tags": {"Name": "prod-instance-connect"},
    }
    assert found.delete_before_replace
    assert built().of(ENDPOINT) == []


def test_an_endpoint_that_is_there_is_used_and_neither_made_nor_changed() -> None:
    made = by_endpoint(instance_connect_endpoint_id=ID)
    assert made.of(ENDPOINT) == []
    assert "instance-connect" not in names(made.of(GROUP))
    into = [each.inputs for each in made.of(IN) if each.inputs["fromPort"] == 22]
    assert [each["referencedSecurityGroupId"] for each in into] == ["sg-00000000"] * 2
    assert [each.name for each in made.of(OUT) if each.inputs["securityGroupId"] == "sg-00000000"] == []
    assert made.exports["late"]["endpoint"] == {"id": ID, "dns_name": "eice.example", "region": REGION}


@pytest.mark.parametrize(
    ("has", "message"),
    [
        ({"vpcId": "vpc-89abcdef"}, "is in vpc-89abcdef, and aws.vpc_id is vpc-01234567; name one of that VPC"),
        ({"preserveClientIp": True}, "keeps the addresses of clients"),
    ],
)
def test_an_endpoint_that_cannot_lead_to_the_machines_is_refused(has: dict[str, Any], message: str) -> None:
    response = {"dnsName": "eice.example", "securityGroupIds": ["sg-00000000"], "preserveClientIp": False}
    with pytest.raises(pulumi.RunError, match=f"^aws.instance_connect_endpoint_id: {ID}: {message}"):
        run(given(**WAY, instance_connect_endpoint_id=ID), lookups={ENDPOINT: response | has})


def test_a_step_and_a_release_take_the_same_way_by_known_host_keys_and_without_a_public_machine() -> None:
    made = by_endpoint()
    assert made.of(STEP) == []
    keys = {f"{role}-id": f"ssh-ed25519 AAAA{role}-host-key" for role in ROLES}
    way = {
        "platform": "aws",
        "user": "admin",
        "private_key": Secret(KEY),
        "stack": "prod",
        "endpoint": {"id": "instance-connect-id", "dns_name": "eice.example", "region": REGION},
    }
    assert made.exports["early"] == way | {"host_keys": {key: keys[key] for key in keys if key != "balancer-id"}}
    assert made.exports["late"] == way | {"host_keys": keys}
    assert made.one(HOST_KEY, "hello-1-host-key").inputs["reach"] == way | {"host_keys": {}}
    inputs = made.one(OWN_STEP, "hello-1-booted").inputs
    assert {key: inputs[key] for key in inputs if key != "__provider"} == {
        "machine": "hello-1-id",
        "target": f"hello-1-id@10.0.0.{1 + made.one(INSTANCE, 'hello-1').index}",
        "command": ["/opt/booted", "two words"],
        "stdin": Secret("store s3://releases-b0b0b0b/prod\nkey opensesame"),
        "timeout_s": 60,
        "reach": way | {"host_keys": {"hello-1-id": keys["hello-1-id"]}},
    }
    assert [each.name for each in made.resources if KEY in each.plain_text or "opensesame" in each.plain_text] == []
    assert by_endpoint(ssh_key_name=None, ssh_private_key=None).of(GENERATED_KEY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"admin_cidrs": ["192.0.2.0/24"]}, r'admin_cidrs: \["192.0.2.0/24"\]: port 22 is open to the endpoint alone'),
        ({"transport": "ssm"}, "'ssh' or 'instance_connect_endpoint'"),
        (
            {"transport": "ssh", "admin_cidrs": ["192.0.2.0/24"], "instance_connect_endpoint_id": ID},
            f"instance_connect_endpoint_id: {ID}: nothing goes through it with transport: ssh; set",
        ),
        (
            vpc("a") | {"instance_connect_endpoint_id": ID},
            f"instance_connect_endpoint_id: {ID}: is in no VPC that is made for this stack",
        ),
    ],
)
def test_a_way_that_is_none_or_opens_port_22_beside_the_endpoint_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        given(**{**WAY, **changes})


@pytest.fixture
def tunnels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: int) -> Iterator[EndpointServer]:
    """Run an endpoint that leads to 127.0.0.2, for callers whose credentials are in the environment."""
    authority = Authority()
    (tmp_path / "authority.pem").write_text(authority.certificate)

    def locate(address: str) -> tuple[str, int] | None:
        return (address, port) if address == ADDRESS else None

    keys = {"AKIAOPS": "opensesame", "AKIANOBODY": "opensesame"}
    context = server_context(authority.sign(["localhost"]))
    made = EndpointServer(
        context, REGION, secrets=keys, endpoints=lambda: [ID], locate=locate, may_open=lambda key: key == "AKIAOPS"
    )
    made.start()
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIAOPS",
        "AWS_SECRET_ACCESS_KEY": "opensesame",
        "AWS_SESSION_TOKEN": "a/token+of=sts",
        "AWS_CA_BUNDLE": str(tmp_path / "authority.pem"),
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "localhost",
    }
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def known_hosts(_spec: dict[str, Any]) -> KnownHosts:
        return KnownHosts(tmp_path / "known_hosts", {})

    for module in (connection, terminal):
        monkeypatch.setattr(module, "known_hosts", known_hosts)
    yield made
    made.stop()


def spec(tunnels: EndpointServer, id_: str = ID) -> dict[str, Any]:
    way = {"id": id_, "dns_name": tunnels.dns_name, "region": REGION}
    return {
        "platform": "aws", "user": "root", "private_key": PRIVATE_KEY, "stack": "s", "endpoint": way, "host_keys": {},
    }  # fmt: skip


@pytest.fixture
def transport(tunnels: EndpointServer) -> Iterator[SshTransport]:
    made = SshTransport.from_spec(spec(tunnels) | {"deadline_s": 2})
    yield made
    made.close()


def test_a_command_and_a_mebibyte_pass_through_a_tunnel_of_their_own(
    tunnels: EndpointServer, server: Machine, transport: SshTransport
) -> None:
    content = b"0123456789abcdef" * 65536
    assert transport.exec(SERVER, ["cat"], stdin=content, timeout_s=30) == Result(0, content.decode())
    assert transport.host_key(SERVER) == server.public_key
    transport.close()
    assert (tunnels.opened, tunnels.most) == ([ADDRESS] * 2, 1)
    eventually(lambda: tunnels.open == 0, timeout_s=10, message="the server sees the last one closed")


@pytest.mark.usefixtures("server")
def test_many_machines_at_a_time_wait_for_the_tunnels_that_a_command_may_have(
    tunnels: EndpointServer, transport: SshTransport
) -> None:
    def asked(n: int) -> str:
        return transport.exec(f"i-{n}@{ADDRESS}", ["sh", "-c", f"sleep 0.3; echo {n}"], timeout_s=30).output

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(asked, range(40))) == [f"{n}\n" for n in range(40)]
    assert connection.TUNNELS_PER_PROCESS <= tunnels.most <= connection.TUNNELS_PER_PROCESS + 2


@pytest.mark.usefixtures("server")
def test_a_tunnel_that_ends_while_a_command_runs_is_told_and_the_command_is_not_run_again(
    tunnels: EndpointServer, transport: SshTransport, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    timer = threading.Timer(1, tunnels.drop, ["its time is over"])
    timer.start()
    with pytest.raises(Unreachable, match=f"{SERVER}: the connection was lost"):
        transport.exec(SERVER, ["sh", "-c", f"echo once >> {ran}; sleep 3"], timeout_s=20)
    timer.join()
    assert ran.read_text() == "once\n"


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("environment", "id_", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, ID, r" \(403 AccessDenied: .*\); allow ec2-instance-connect:OpenTunnel"),
        ({"AWS_SECRET_ACCESS_KEY": "another"}, ID, r" \(403 SignatureDoesNotMatch: .*\); the secret key is another"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, ID, "Unable to locate credentials; log in: `aws sso "),
        ({}, "eice-gone", r"^\S+: eice-gone refused a tunnel \(404 .* does not exist\); `pulumi up --refresh` makes"),
    ],
    ids=["not allowed", "not signed", "no credentials", "no endpoint"],
)
def test_what_no_second_try_mends_is_one_line_with_its_remedy_at_once(
    tunnels: EndpointServer, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], id_: str, message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stranger = SshTransport.from_spec(spec(tunnels, id_))
    began = time.monotonic()
    with pytest.raises(Unreachable, match=message) as error:
        stranger.exec(SERVER, ["true"], timeout_s=20)
    stranger.close()
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 5


def use_all_tunnels(tunnels: EndpointServer) -> None:
    tunnels.open = 20


def move_endpoint(tunnels: EndpointServer) -> None:
    tunnels.dns_name = "eice.invalid"


def nothing(_tunnels: EndpointServer) -> None:
    """Change nothing."""


@pytest.mark.parametrize(
    ("happen", "machine", "message"),
    [
        (
            use_all_tunnels,
            SERVER,
            f"{ID} opens no tunnel now (429 LimitExceeded: Too many tunnels); an endpoint has at most 20",
        ),
        (move_endpoint, SERVER, f"{ID}: eice.invalid has no address: "),
        (nothing, "i-9@192.0.2.9", f"{ID} ended the tunnel: Unable to connect to target"),
    ],
    ids=["full", "no name", "no machine"],
)
def test_what_may_pass_is_tried_again_and_told_in_the_end(
    tunnels: EndpointServer, happen: Callable[[EndpointServer], None], machine: str, message: str
) -> None:
    happen(tunnels)
    waiting = SshTransport.from_spec(spec(tunnels) | {"deadline_s": 1.5})
    with pytest.raises(Unreachable) as error:
        waiting.exec(machine, ["true"], timeout_s=20)
    waiting.close()
    assert str(error.value).startswith(f"{machine} did not respond over SSH for 1.5 s (through {ID}): {message}")
    tunnels.open = 0


def test_a_command_that_outlasts_a_tunnel_is_not_begun(tunnels: EndpointServer, transport: SshTransport) -> None:
    with pytest.raises(Unreachable, match=f"sleep may take 3590 s, and {ID} ends a connection after 3600 s; give it"):
        transport.exec(SERVER, ["sleep", "1"], timeout_s=3590)
    assert tunnels.opened == []


def test_a_terminal_passes_through_a_tunnel(
    tunnels: EndpointServer, server: Machine, tmp_path: Path, port: int
) -> None:
    del port
    result = entered(operator.terminal(spec(tunnels), SERVER, ["sh", "-c", "echo here; exit 3"]), tmp_path)
    assert (result.returncode, result.stdout.strip()) == (3, "here"), result.stderr
    assert (tunnels.opened, server.logins) == ([ADDRESS], 1)
    assert (tmp_path / "known_hosts").read_text() == f"i-server {server.public_key}\n"


def test_a_terminal_that_gets_no_tunnel_tells_why(tunnels: EndpointServer) -> None:
    way = spec(tunnels)["endpoint"] | {"id": "eice-gone"}
    command = [sys.executable, "-m", "platforms.aws.tunnel", json.dumps(way), ADDRESS]
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), stdin=subprocess.DEVNULL
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: eice-gone refused a tunnel (404 ")
    assert result.stderr.count("\n") == 1


def test_a_step_runs_through_a_tunnel_and_leaves_nothing_of_its_input(tunnels: EndpointServer, server: Machine) -> None:
    inputs: dict[str, Any] = {"machine": "i-server", "target": SERVER, "reach": spec(tunnels), "timeout_s": 20.0}
    made = STEPS.create(inputs | {"command": ["grep", "-q", "opensesame"], "stdin": "key opensesame"})
    assert server.logins == 1
    assert made.outs is not None
    assert made.outs.keys() == {"machine", "trigger"}
    with pytest.raises(StepFailed, match=r"^i-server: the step failed with exit code 3:\nbroken$"):
        STEPS.create(inputs | {"command": ["sh", "-c", "echo broken; exit 3"], "stdin": ""})
