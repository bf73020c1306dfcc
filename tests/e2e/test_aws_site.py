"""What `pulumi up -s prod` serves besides one application: two by their hosts over HTTPS, and files.

On the stand-in of AWS, as test_aws.py. All of it comes through an EC2 Instance Connect Endpoint, the one way to a
machine. Tests share one fleet and follow one another.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Generator
from typing import Any

import pytest

from harness.stack import on
from tests.aws.https_stack import NAME, SHOP, HttpsStack
from tests.aws.session import running
from tests.e2e.test_aws import accepts_connection, fleet_output, instances

pytestmark = [pytest.mark.aws, pytest.mark.long]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[HttpsStack]:
    """Create a site: hello at www, and shop with its files at shop; a server of each."""
    with running("eu-central-1", f"e2e-{os.getpid()}-site") as region:
        stack = HttpsStack.prepare(tmp_path_factory.mktemp("site"), region, servers=1)
        del stack.settings["aws"]["admin_cidrs"]
        stack.settings["aws"]["transport"] = "instance_connect_endpoint"
        stack.add_shop()
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


def test_machines_are_set_up_and_none_lets_anybody_in_but_the_endpoint(site: HttpsStack) -> None:
    machines = instances(site)
    assert set(site.running.tunnels.opened) == {each["PrivateIpAddress"] for each in machines.values()}
    balancer = machines.pop("balancer")
    for server in machines.values():
        # From machine to machine: what this host sends to a public address passes its networks' rules by.
        for source, target, port in ((balancer, server, 8000), (server, balancer, 80)):
            assert connects(source, target, port) == "connected"
            assert connects(source, target, 22) == "refused"
        assert not accepts_connection(server["PrivateIpAddress"], 22)


def test_each_host_leads_to_its_application_over_https(site: HttpsStack) -> None:
    assert urllib.parse.urlsplit(str(site.output("url"))).hostname == NAME
    assert site.get()["server"] == site.servers()["hello-1"]
    assert site.page()["server"] == site.servers()["shop-1"]
    status, headers, _ = site.ask(NAME, "/cart", https=False)
    assert (status, headers["Location"]) == (308, f"https://{NAME}/cart")


def test_files_come_from_the_balancer_and_a_release_over_ssh_brings_new_ones(site: HttpsStack) -> None:
    before = site.page()
    status, headers, body = site.ask(SHOP, before["file"])
    assert (status, body[:7]) == (200, b"/* 1 */")
    assert "immutable" in headers["Cache-Control"]
    code = site.folder / "tests" / "e2e" / "static_app" / "pages.py"
    code.write_text(re.sub(r'VERSION = ".*"', 'VERSION = "2"', code.read_text()))
    with site.load() as load:
        site.up()
        load.wait_for(50)
    assert load.outcome.failed_fresh == [], load.outcome
    assert load.outcome.failed_kept == [], load.outcome
    after = site.page()
    assert after["version"] == "2"
    assert [site.ask(SHOP, each["file"])[2][:7] for each in (before, after)] == [b"/* 1 */", b"/* 2 */"]
    asked = on(site.servers()["shop-1"], "sh", "-c", "cat /var/lib/app/asked 2>/dev/null || true")
    assert asked == ""


def test_the_operators_commands_pass_through_tunnels(site: HttpsStack) -> None:
    script = "import os; print(os.environ['WSGI_FLEET_SERVER'])"
    said = fleet_output(site, "exec", "--server", "hello-1", "--", "python", "-c", script)
    assert said.strip() == site.servers()["hello-1"]
    lines = fleet_output(site, "logs", "--app", "hello", "-n", "3").splitlines()
    assert {line.split(" | ")[0].strip() for line in lines} == {"hello-1"}
    assert "ok     endpoint eice-" in site.fleet("doctor").stdout
    assert site.running.tunnels.open == 0


def test_the_private_key_stands_in_plain_on_the_balancer_alone(site: HttpsStack) -> None:
    key = on(
        next(each["name"] for each in site.instances() if each["name"] not in site.servers().values()),
        "grep", "-A1", "PRIVATE KEY", "/etc/wsgi-fleet/tls/site.pem",
    ).splitlines()[1]  # fmt: skip
    for folder in (site.folder.parent / "state", site.folder / ".state", site.folder / "stacks"):
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert files
        assert [file for file in files if key.encode() in file.read_bytes()] == []
    assert key not in json.dumps(site.instances())


def test_both_applications_go_and_nothing_is_left(site: HttpsStack) -> None:
    aws = site.destroy_protected()
    assert aws.s3.list_buckets()["Buckets"] == []
    assert aws.ec2.describe_instance_connect_endpoints()["InstanceConnectEndpoints"] == []
