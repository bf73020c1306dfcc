"""A stand-in of an AWS region for one test session: moto, the metadata service, and what machines are made from.

Nothing of it listens beyond this host's loopback.
"""

from __future__ import annotations

import random
import ssl
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from platforms.lxd import cleanup, image
from platforms.lxd.client import Client, url
from platforms.lxd.recipe import ImageRecipe
from rendering.common import PREBUILT_PACKAGES, prebuilt_scripts
from tests.aws.account import Account
from tests.aws.auth_proxy import SERVICES, AuthProxy, serve_tls
from tests.aws.balancing import Balancing
from tests.aws.endpoint import EndpointServer
from tests.aws.endpoint_calls import SSH, Endpoints, find_machine
from tests.aws.group_calls import Groups
from tests.aws.image_builders import ImageBuilders
from tests.aws.instance_calls import InstanceCalls
from tests.aws.instance_refresh import Refreshes
from tests.aws.kind import Clients
from tests.aws.machines import Machines
from tests.aws.metadata import MetadataServer
from tests.aws.region import Region
from tests.aws.scaling import Scaling
from tests.aws.scaling_calls import added_to_moto
from tests.aws.scaling_policies import Policies
from tests.aws.server import serving
from tests.aws.target_health import TargetHealth
from tests.certificates import Authority, Signed

# Of this host's loopback, one address for each machine.
TUNNEL_PORT = 2222
# An image that saves each test the minute in which machines of Debian's own install packages.
PREBUILT = ImageRecipe(packages=PREBUILT_PACKAGES, scripts=prebuilt_scripts())


@dataclass(frozen=True)
class Running:
    """A region that runs. account: what is in it. metadata: the service that its machines ask. tunnels: to them.

    scaling: of Auto Scaling groups, for what a test cannot do by a call of AWS.
    """

    region: Region
    account: Account
    metadata: MetadataServer
    tunnels: EndpointServer
    scaling: Scaling


@contextmanager
def running(name: str, owner: str, *, minute_s: float = 60.0, recipe: ImageRecipe = PREBUILT) -> Generator[Running]:
    """Run a region with nothing in it. owner: label of what machines need in LXD, all of it gone afterwards.

    minute_s: what a minute of metrics, warm-up and grace of Auto Scaling groups lasts. recipe: of Debian's image.
    """
    with ExitStack() as stack:
        # In moto's own process: what it calls public must lead nowhere but to this host's machines.
        for place in ("elastic_ip_addresses.random_ip", "elastic_network_interfaces.random_public_ip"):
            stack.enter_context(mock.patch(f"moto.ec2.models.{place}", _public_address))
        account = Account(stack.enter_context(serving()), name)
        names = [f"{service}.{name}.amazonaws.com" for service in SERVICES]
        authority = Authority()
        # moto keeps what it has for a process, whichever proxy is used.
        groups = Groups(account.aws)
        proxy = AuthProxy(
            DomainDispatcherApplication(create_backend_app),
            name,
            groups.arn,
            tags=lambda id_: _tags(account.aws, id_),
            # What it is comes below.
            moved=lambda: machines.publish(),  # noqa: PLW0108
        )
        services = stack.enter_context(serve_tls(proxy, server_context(authority.sign(names))))
        health = TargetHealth()
        stack.enter_context(health.in_moto())
        balancers = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsgi-fleet-alb-")))
        balancing = Balancing(account.aws, balancers, authority, health)
        metadata = MetadataServer.start(account.aws, groups.metadata)
        stack.callback(metadata.server_close)
        stack.callback(metadata.shutdown)
        lxd = Client()
        stack.callback(cleanup.remove_leftovers, owner, lxd)
        alias = image.ensure(lxd, owner, recipe, recipe.digest(), print)
        region = Region(
            name=name,
            endpoint=account.endpoint,
            owner=owner,
            image=alias,
            metadata_port=metadata.server_port,
            services_port=services.port,
            services=names,
            authority=authority.certificate,
            balancers=str(balancers),
        )
        keys = region.environment()
        tunnels = EndpointServer(
            server_context(authority.sign(["localhost"])),
            name,
            secrets={keys["AWS_ACCESS_KEY_ID"]: keys["AWS_SECRET_ACCESS_KEY"]},
            endpoints=lambda: endpoints.ids,
            locate=lambda address: _door_to(address, account.aws, lxd),
        )
        tunnels.start()
        stack.callback(tunnels.stop)
        endpoints = Endpoints(tunnels.dns_name)
        stack.enter_context(endpoints.added_to_moto())
        stack.enter_context(balancing.running())
        machines = Machines(region, account)
        policies = Policies(account.aws, groups, requests=balancing.requests, cpu_s=machines.cpu_s, minute_s=minute_s)
        refreshes = Refreshes(account.aws, groups)
        parts = (groups.calls(), InstanceCalls(groups).calls(), policies.calls(), refreshes.calls())
        stack.enter_context(added_to_moto(groups.lock, *parts))
        scaling = Scaling(account.aws, groups, machines, policies=policies, refreshes=refreshes, minute_s=minute_s)
        stack.enter_context(scaling.running())
        stack.enter_context(ImageBuilders(account.aws, region, machines).running())
        yield Running(region, account, metadata, tunnels, scaling)


def _tags(aws: Clients, id_: str) -> dict[str, str]:
    of_instance = [{"Name": "resource-id", "Values": [id_]}]
    return {each["Key"]: each["Value"] for each in aws.ec2.describe_tags(Filters=of_instance)["Tags"]}


def _door_to(address: str, aws: Clients, lxd: Client) -> tuple[str, int] | None:
    """Return a port of this host's loopback that leads to port 22 of a machine, past its network, as a tunnel does."""
    machine = find_machine(aws, address)
    if machine is None:
        return None
    at = "127." + address.partition(".")[2]
    door = {
        "type": "proxy", "bind": "host", "listen": f"tcp:{at}:{TUNNEL_PORT}", "connect": f"tcp:{address}:{SSH}",
    }  # fmt: skip
    place = url("instances", machine)
    if "tunnel" not in lxd.get(place)["devices"]:
        lxd.request("PATCH", place, {"devices": {"tunnel": door}})
    return at, TUNNEL_PORT


def server_context(signed: Signed) -> ssl.SSLContext:
    """Return the context of a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The ssl module reads files alone.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(signed.certificate + signed.private_key)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _public_address() -> str:
    """Return an address that is routed nowhere (RFC 2544)."""
    return f"198.{random.randint(18, 19)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
