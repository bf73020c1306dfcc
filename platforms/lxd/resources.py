"""The dynamic resources of platform lxd: thin over the modules beside them, which do the work and know no Pulumi.

Providers hold no state, so that their serialized form never changes. Outputs of a dynamic resource replace its state
and stand there in plain, so every operation returns all of them and none of them is secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import (
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    UpdateResult,
)

from platforms import step
from platforms.lxd import address, image, machine, network, store
from platforms.lxd.client import Client, NotFound, url
from platforms.lxd.provider import GONE_RESULT, Provider, explain_errors, find_conflict
from platforms.lxd.recipe import ImageRecipe
from platforms.lxd.transport import LxdTransport
from platforms.provider import log
from platforms.transport import Result


class GroupProvider(Provider):
    """The provider of security groups."""

    inputs = ("owner", "role", "network", "isolated")
    replacing = ("owner", "role", "network")
    updating = ("rules", "isolated")

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Implement ResourceProvider.check: fail when LXD does not respond."""

        def find() -> None:
            Client().get(url())

        return CheckResult(news, find_conflict("owner", find))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Implement ResourceProvider.diff: compare with what LXD has, rules in one order."""
        return super().diff(_id, _olds, {**_news, "rules": _sort_rules(_news["rules"])})

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Implement ResourceProvider.create: create the network and its ACL, or change them in place."""
        with explain_errors():
            rules = [network.AclRule(int(rule["port"]), rule["addresses"]) for rule in props["rules"]]
            name, addresses = network.ensure(Client(), props["owner"], props["role"], rules)
        return CreateResult(name, self.outs(props, rules=_sort_rules(props["rules"]), addresses=addresses))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Implement ResourceProvider.read: return the rules and addresses that LXD has."""
        with explain_errors():
            client = Client()
            addresses = network.addresses(client, id_, props["owner"])
            if addresses is None:
                return GONE_RESULT
            rules = [{"port": rule.port, "addresses": rule.addresses} for rule in network.rules(client, id_)]
        return ReadResult(id_, self.outs(props, rules=rules, addresses=addresses))

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete: remove the network and its ACL."""
        with explain_errors():
            network.remove(Client(), _id, _props["owner"])


def _sort_rules(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return sorted((dict(rule) for rule in rules), key=lambda rule: (rule["port"], str(rule["addresses"])))


class Group(Resource, module="lxd", name="SecurityGroup"):
    """A network and its ACL. Inputs: owner, role, network, isolated (its machines apart), rules."""

    network: pulumi.Output[str]
    addresses: pulumi.Output[str]
    isolated: pulumi.Output[bool]


class ImageProvider(Provider):
    """The provider of images."""

    inputs = ("owner", "pool", "digest", "alias")
    replacing = ("owner", "digest", "alias")

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Implement ResourceProvider.check: fail when LXD has no such storage pool."""

        def find() -> str | None:
            try:
                Client().get(url("storage-pools", news["pool"]))
            except NotFound:
                return (
                    f"LXD has no storage pool {news['pool']}; `make setup` makes it, wsgi-fleet:lxd.pool names another"
                )
            return None

        return CheckResult(news, find_conflict("pool", find))

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Implement ResourceProvider.create: build and import the image if it is missing."""
        with explain_errors():
            recipe = ImageRecipe.from_json(props["recipe"])
            alias = image.ensure(Client(), props["owner"], recipe, props["digest"], log)
        return CreateResult(alias, self.outs(props))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Implement ResourceProvider.read: look for the image with this owner in LXD."""
        with explain_errors():
            return ReadResult(id_, props) if image.is_owned(Client(), id_, props["owner"]) else GONE_RESULT

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete: remove the owner; LXD's image goes with the last one."""
        with explain_errors():
            image.release(Client(), _id, _props["owner"])


class Image(Resource, module="lxd", name="Image"):
    """What machines are made from. Inputs: owner, pool, recipe, digest, alias."""

    alias: pulumi.Output[str]


class StoreProvider(Provider):
    """The provider of release stores."""

    inputs = replacing = ("path",)

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Implement ResourceProvider.create: create the directory."""
        store.create(Path(props["path"]))
        return CreateResult(props["path"], self.outs(props))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Implement ResourceProvider.read: look for the directory."""
        return ReadResult(id_, self.outs(props)) if Path(id_).is_dir() else GONE_RESULT

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete: remove the directory with all that it contains."""
        store.remove(Path(_id))


class Store(Resource, module="lxd", name="Store"):
    """A directory of releases. Inputs: path."""

    path: pulumi.Output[str]


class MachineProvider(Provider):
    """The provider of machines."""

    inputs = replacing = tuple(field for field in machine.Spec.__dataclass_fields__)
    updating = ("status",)
    # A new one has another name, by which all that was done on the old one is done again.
    anew = "role"

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Implement ResourceProvider.create: create and start the machine."""
        numbers = {key: int(props[key]) for key in ("cpus", "memory_mib", "disk_gib")}
        with explain_errors():
            name, found = machine.create(Client(), machine.Spec(**self.outs(props, **numbers)))
        return CreateResult(name, self.outs(props, status=machine.RUNNING, name=name, address=found))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Implement ResourceProvider.update: start the machine.

        That it was found stopped is the one change that replaces nothing.
        """
        with explain_errors():
            machine.start(Client(), _id)
        return UpdateResult(self.outs(_news, status=machine.RUNNING, name=_id, address=_olds["address"]))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Implement ResourceProvider.read: return the machine with the status that LXD reports."""
        with explain_errors():
            status = machine.status(Client(), id_)
        outs = self.outs(props, status=status, name=id_, address=props["address"])
        return GONE_RESULT if status is None else ReadResult(id_, outs)

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete: stop and delete the machine."""
        with explain_errors():
            machine.remove(Client(), _id)


class Machine(Resource, module="lxd", name="Machine"):
    """A system container. Inputs: the fields of machine.Spec, and status, which is machine.RUNNING."""

    name: pulumi.Output[str]
    address: pulumi.Output[str]


class AddressProvider(Provider):
    """The provider of public addresses."""

    inputs = ("owner", "port", "machine", "url")
    replacing = ("owner",)
    updating = ("port", "tls_port", "machine")

    def outs(self, props: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Return the outputs; tls_port is one of them where it is given."""
        tls_port = props.get("tls_port")
        return super().outs(props, **({} if tls_port is None else {"tls_port": int(tls_port)}), **more)

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Implement ResourceProvider.check: fail when a port is taken by another program."""

        def find(device: str, setting: str) -> str | None:
            port = news.get(setting)
            return None if port is None else address.conflict(Client(), news["owner"], int(port), device)

        found = (find_conflict(setting, partial(find, device, setting)) for device, setting in address.SETTINGS.items())
        return CheckResult(news, [failure for failures in found for failure in failures])

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Implement ResourceProvider.create: forward the ports to the machine, and log the gap if there is one."""
        port, tls_port = int(props["port"]), self.outs(props).get("tls_port")
        with explain_errors():
            gap_ms = address.publish(Client(), props["owner"], props["machine"], port, tls_port)
        if gap_ms:
            log(f"{address.HOST}:{port} leads to {props['machine']} now; for {gap_ms} ms no connection was accepted")
        return CreateResult(props["owner"], self.outs(props))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Implement ResourceProvider.read: check whether the ports are forwarded to the machine."""
        with explain_errors():
            tls_port = self.outs(props).get("tls_port")
            there = address.is_published(Client(), props["machine"], int(props["port"]), tls_port)
        return ReadResult(id_, self.outs(props)) if there else GONE_RESULT

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete: close the forwarded ports."""
        with explain_errors():
            address.unpublish(Client(), _props["machine"])


class PublicAddress(Resource, module="lxd", name="PublicAddress"):
    """Loopback ports of the host that lead to a machine. Inputs: owner, port, tls_port (or none), machine, url."""

    url: pulumi.Output[str]


class MonitoringAddressProvider(Provider):
    """The provider of the address of Prometheus."""

    inputs = ("owner", "port", "machine")
    replacing = ("owner",)
    updating = ("port", "machine")

    def outs(self, props: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Return the outputs, the port as a whole number: the engine passes it as a float."""
        return super().outs(props, port=int(props["port"]), **more)

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Implement ResourceProvider.check: fail when the port is taken by another program."""
        wanted = news["owner"], int(news["port"]), address.MONITORING_DEVICE
        return CheckResult(news, find_conflict("port", lambda: address.conflict(Client(), *wanted)))

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Implement ResourceProvider.create: forward the port to the machine, and to no other."""
        with explain_errors():
            address.publish_monitoring(Client(), props["owner"], props["machine"], int(props["port"]))
        return CreateResult(props["owner"], self.outs(props))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Implement ResourceProvider.read: check whether the port is forwarded to the machine."""
        with explain_errors():
            there = address.is_monitoring_published(Client(), props["machine"], int(props["port"]))
        return ReadResult(id_, self.outs(props)) if there else GONE_RESULT

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete: close the port."""
        with explain_errors():
            address.unpublish(Client(), _props["machine"], [address.MONITORING_DEVICE])


class MonitoringAddress(Resource, module="lxd", name="MonitoringAddress"):
    """A loopback port of the host that leads to Prometheus. Inputs: owner, port, machine."""


class StepProvider(step.StepProvider):
    """The provider of steps."""

    def execute(self, props: Mapping[str, Any], on_line: Callable[[str], None]) -> Result:
        """Implement StepProvider.execute: run the command by LXD."""
        with explain_errors():
            client = Client()
            # The machine exists by now, because the engine passes its name.
            machine.confirm(client, props["machine"])
            return LxdTransport(client).exec(
                props["machine"],
                list(props["command"]),
                stdin=str(props["stdin"]).encode(),
                timeout_s=float(props["timeout_s"]),
                on_line=on_line,
            )


class Step(Resource, module="lxd", name="Step"):
    """A script on a machine. Inputs: machine, command, stdin, timeout_s."""
