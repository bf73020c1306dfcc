"""The interface of platforms: all that a fleet needs of them. Platforms differ only behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    # For their types alone: they take a second to load, and the operator's side does not need them.
    import pulumi

    from settings.application import App
    from settings.balancer import Balancer
    from settings.capacity import Capacity
    from settings.size import Size

# The project's own folder of what it remembers: keys, stores, bundles. Never a part of a release.
STATE = ".state"


@dataclass(frozen=True)
class SecurityGroup:
    """A set of machines that share who may reach them.

    id: EC2 security group id, or the name of the LXD network. addresses: those that its machines have,
    where a platform needs them to write a rule (LXD); empty on AWS, whose rules name the group itself. is_own: whether
    the stack made it, and so may add rules to it.
    """

    id: pulumi.Output[str]
    addresses: pulumi.Output[str]
    resource: pulumi.Resource
    is_own: bool = True


@dataclass(frozen=True)
class Ingress:
    """Machines of `source` (None: everyone), or of a network or group `outside`, may connect to a TCP port."""

    port: int
    source: SecurityGroup | None = None
    outside: str = ""


@dataclass(frozen=True)
class MachineArgs:
    """The arguments of Platform.machine().

    role: stable key of the machine in its stack ("hello-1"). user_data: cloud-init document, equal on all platforms.
    zone: index of the machine among its peers, from 0, over which a platform spreads them. public: it is in the
    public subnet (the balancer). app: the application whose releases and secrets it may read; "" for none.
    watches: names of groups whose machines it may list, and report as dead. static_of: applications whose static files
    it may read in the store. is_monitoring: it has Prometheus, to which a port of the operator's machine leads (LXD).
    """

    role: str
    user_data: str
    group: SecurityGroup
    size: Size
    zone: int = 0
    public: bool = False
    app: str = ""
    watches: Sequence[str] = ()
    static_of: Sequence[str] = ()
    is_monitoring: bool = False


@dataclass(frozen=True)
class MachineBoot:
    """What a machine boots with that fetches its files. files: as rendering's files_to_apply has it.

    user_data: returns the document, by the URL of its files and the key there.
    """

    files: str
    user_data: Callable[[str, str], str]


@dataclass(frozen=True)
class Machine:
    """A machine that a platform registered.

    id: LXD instance name or EC2 instance id; also its name where a person reads it. address: private IPv4.
    target: what the transport calls it (LXD: the id; AWS: `<id>@<address>`). kept: where in the store stands what the
    machine gets that takes its place by itself; "" where none does.
    """

    id: pulumi.Output[str]
    address: pulumi.Output[str]
    target: pulumi.Output[str]
    resource: pulumi.Resource
    kept: str = ""


@dataclass(frozen=True)
class RemoteCommandArgs:
    """The arguments of Platform.remote_command(): a script that one machine runs as root.

    It runs again whenever the script, its input or the machine changes, so it must be idempotent. command: program and
    arguments, no shell involved. A non-zero exit fails the step with the last lines it printed. has_secret: stdin
    contains one.
    """

    machine: Machine
    command: Sequence[str]
    stdin: pulumi.Input[str] = ""
    timeout_s: int = 300
    has_secret: bool = False


@dataclass(frozen=True)
class Store:
    """The place of releases. machine_url: how machines reach it (`file:///...` or `s3://bucket/prefix`)."""

    machine_url: pulumi.Output[str]
    # What operator.store() and operator.secrets() open it by, from the operator's side.
    spec: Mapping[str, pulumi.Input[Any]]
    resource: pulumi.Resource | None


@dataclass(frozen=True)
class PublicAddress:
    """The public address of a balancer. url: where clients find it, without a trailing slash.

    host: its IPv4 address, known once it leads to the machine and the names that the platform gives it lead there too.
    """

    url: pulumi.Output[str]
    host: pulumi.Output[str]
    resource: pulumi.Resource


@dataclass(frozen=True)
class LoadBalancerArgs:
    """The arguments of Platform.load_balancer(). hostnames: of the site. group: the group of the load balancer."""

    settings: Balancer
    apps: Mapping[str, App]
    hostnames: Sequence[str]
    group: SecurityGroup


@dataclass(frozen=True)
class LoadBalancer:
    """A load balancer that is a service of the platform. networks: from which it connects to servers.

    target_groups: application -> what its servers are registered in. drain_timeout_s: application -> how long a server
    that leaves may take for its requests. spec: what operator.load_balancer() takes.
    ready: what a server waits for before it is registered.
    """

    address: PublicAddress
    networks: pulumi.Output[Sequence[str]]
    target_groups: Mapping[str, pulumi.Output[str]]
    drain_timeout_s: Mapping[str, int]
    spec: Mapping[str, pulumi.Input[Any]]
    ready: Sequence[pulumi.Resource]


@dataclass(frozen=True)
class GroupBoot:
    """What the machines of a group boot with. files: as rendering's files_to_apply has it; they fetch it.

    user_data: returns the document, by the URL of the application's releases and the key of the files there. key: a
    secret, of the keyed digests that they check. layout: what of them a release is made for, as a person reads it.
    later: further files, which they apply by themselves after they have booted.
    """

    files: str
    layout: str
    user_data: Callable[[str, str], str]
    key: pulumi.Output[str]
    later: Sequence[str] = ()


@dataclass(frozen=True)
class GroupNames:
    """Names in a group of the platform, which its machines know: of itself, and of its hooks."""

    group: str
    launch: str
    terminate: str


@dataclass(frozen=True)
class ServerGroupArgs:
    """The arguments of Platform.server_group(). group: the security group of its machines."""

    app: str
    capacity: Capacity
    group: SecurityGroup
    size: Size
    boot: GroupBoot


@dataclass(frozen=True)
class ServerGroup:
    """App servers whose number the platform decides. spec: what operator.server_group() takes."""

    spec: Mapping[str, pulumi.Input[Any]]
    # After which its machines are as the settings say.
    resource: pulumi.Resource


@dataclass(frozen=True)
class ConnectionSpec:
    """The way of the rollout to machines: what platforms.operator.transport() takes. May contain secret outputs."""

    spec: Mapping[str, pulumi.Input[Any]] = field(default_factory=dict[str, Any])


class Platform(Protocol):
    """The interface of a platform. Each method registers the resource of its name. opts: parent and dependencies."""

    @property
    def https_port(self) -> int:
        """Return the port by which clients reach port 443 of a machine through its public address."""
        ...

    def security_group(
        self, name: str, ingress: Sequence[Ingress], *, isolated: bool, opts: pulumi.ResourceOptions
    ) -> SecurityGroup:
        """Register a security group. isolated: its machines cannot reach one another either."""
        ...

    def load_balancer_group(self, name: str, ports: Sequence[int], *, opts: pulumi.ResourceOptions) -> SecurityGroup:
        """Register the group of a load balancer: everyone reaches these ports of it, and it reaches servers alone."""
        ...

    def store(self, name: str, *, opts: pulumi.ResourceOptions) -> Store:
        """Register the release store of the stack."""
        ...

    def machine(self, name: str, args: MachineArgs, *, store: Store | None, opts: pulumi.ResourceOptions) -> Machine:
        """Register a machine; one with a store may read the releases of its application there."""
        ...

    def self_healing_machine(
        self, name: str, args: MachineArgs, boot: MachineBoot, *, store: Store, opts: pulumi.ResourceOptions
    ) -> Machine:
        """Register a public machine in whose place another one comes by itself, with the same address.

        What steps did to it is done again by that one: their commands and inputs are kept in the store.
        """
        ...

    def remote_command(self, name: str, args: RemoteCommandArgs, *, opts: pulumi.ResourceOptions) -> pulumi.Resource:
        """Register a script on a machine, as a resource of its own."""
        ...

    def enable_monitoring(
        self, name: str, machine: Machine, args: MachineArgs, *, opts: pulumi.ResourceOptions
    ) -> None:
        """Make a booted machine report on itself and ship its logs, where the settings ask for it."""
        ...

    @property
    def log_groups(self) -> Mapping[str, pulumi.Output[str]]:
        """Return the destination of logs by source: "balancer" or an application -> its name."""
        ...

    def public_address(
        self,
        name: str,
        machine: Machine,
        *,
        hostnames: Sequence[str] = (),
        https: bool = False,
        opts: pulumi.ResourceOptions,
    ) -> PublicAddress:
        """Register an address that outlives the machine it points at.

        https: it leads to port 443, too, and the URL says so.
        """
        ...

    def load_balancer(self, name: str, args: LoadBalancerArgs, *, opts: pulumi.ResourceOptions) -> LoadBalancer:
        """Register a load balancer for these applications, without servers."""
        ...

    def target(
        self, name: str, front: LoadBalancer, app: str, machine: Machine, *, opts: pulumi.ResourceOptions
    ) -> pulumi.Resource:
        """Register a server in a load balancer: it is there once it is healthy, and gone once its requests ended."""
        ...

    def group_names(self, app: str) -> GroupNames:
        """Return the names that server_group() is going to give."""
        ...

    def server_group(
        self,
        name: str,
        args: ServerGroupArgs,
        front: LoadBalancer | None,
        *,
        store: Store,
        opts: pulumi.ResourceOptions,
    ) -> ServerGroup:
        """Register app servers that come and go by load, and get requests once the current release serves there.

        front: the load balancer in which they are registered; None where a machine that watches the group is in front.
        """
        ...

    def reach(self, machines: Iterable[Machine] | None = None) -> ConnectionSpec:
        """Return how scripts get to these machines outside of steps; None: to all that were described so far."""
        ...
