"""The balancer: one machine with a reverse proxy, its site, and the address that clients know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from gateways import GATEWAYS
from platforms import (
    Machine,
    MachineArgs,
    MachineBoot,
    Platform,
    PublicAddress,
    RemoteCommandArgs,
    SecurityGroup,
    Store,
)
from releases.secret import GeneratedSecret
from rendering.balancer import (
    balancer_user_data,
    health_agent_files,
    proxy_packages_command,
    self_healing_files,
    self_healing_user_data,
)
from rendering.common import BOOT_TIMEOUT_S, SCRIPTS, SECURITY_UPDATES, apply_files_command
from rendering.htpasswd import htpasswd_line
from rendering.monitoring import INSTALL_S, OFF
from rendering.site import render_site
from rendering.upstream import Upstream
from settings.application import App
from settings.balancer import Balancer as BalancerSettings
from settings.health import health_host
from settings.limits import SITE_TIMEOUT_S
from settings.operating_system import DEFAULT_OS, OperatingSystem
from settings.proxy import Proxy
from settings.stack import SecurityUpdates
from settings.tls import Acme, Tls

UNITS = {"nginx": "nginx.service", "apache": "apache2.service"}
# As long as apply_files.py tries to start a unit, and some seconds.
HEALTH_TIMEOUT_S = 120
# Debian packages from a slow mirror: certbot's, and modules of the proxy.
CERTIFICATE_S = 400
PACKAGES_S = 400
# 90 s for names to lead here, and the ACME server's own time.
ACME_TIMEOUT_S = 400


@dataclass(frozen=True)
class BalancerArgs:
    """The machine of the balancer. groups: application -> the group that has its servers.

    store: where steps are kept for the machine that takes its place, with settings.self_healing. static: applications
    whose files it serves. exporter: what makes it export metrics for Prometheus (rendering/monitoring.py), "" for none.
    """

    settings: BalancerSettings
    group: SecurityGroup
    security_updates: SecurityUpdates = SECURITY_UPDATES
    system: OperatingSystem = DEFAULT_OS
    groups: Mapping[str, str] = field(default_factory=dict[str, str])
    store: Store | None = None
    static: Sequence[str] = ()
    exporter: str = ""


def upstreams(
    apps: Mapping[str, App],
    addresses: Mapping[str, Sequence[str]],
    hostnames: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
) -> list[Upstream]:
    """Return the applications as the balancer sees them. hostnames: of the site. groups: as BalancerArgs has them."""
    return [
        Upstream(
            name,
            addresses.get(name, ()),
            app.gateway.request_timeout_s,
            app.health_path,
            app,
            # A server's own Nginx speaks HTTP with it, with any gateway.
            "http" if app.isolated_processes else GATEWAYS[app.gateway.kind].protocol,
            app.static,
            app.streaming,
            health_host(name, apps, hostnames),
            app.sticky_sessions,
            (groups or {}).get(name, ""),
            app.fleet.max_servers,
        )
        for name, app in sorted(apps.items())
    ]


class Balancer(pulumi.ComponentResource):
    """machine: the balancer. unit: of its proxy. booted: the step after which files may be put on it.

    Call serve() to set the applications that it serves.
    """

    machine: Machine
    unit: str
    booted: pulumi.Resource

    def __init__(
        self, name: str, args: BalancerArgs, *, platform: Platform, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("wsgi-fleet:balancer:Balancer", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        self._name, self._settings, self._system, self._platform = name, args.settings, args.system, platform
        self._groups, groups = args.groups, sorted(args.groups.values())
        self.unit = UNITS[args.settings.proxy.kind]
        store = args.store if args.settings.self_healing else None
        machine_args = MachineArgs(
            role=name,
            user_data="" if store else balancer_user_data(args.security_updates, args.settings.proxy.kind),
            group=args.group,
            size=args.settings.size,
            public=True,
            watches=groups,
            static_of=args.static if store else (),
        )
        if store:
            boot = MachineBoot(self_healing_files(args.security_updates), self_healing_user_data)
            self.machine = platform.self_healing_machine(name, machine_args, boot, store=store, opts=child)
        else:
            self.machine = platform.machine(name, machine_args, store=None, opts=child)
        self.booted = platform.remote_command(
            f"{name}-booted",
            RemoteCommandArgs(
                self.machine,
                apply_files_command(),
                health_agent_files(
                    args.settings.proxy.kind,
                    args.settings.error_pages,
                    groups,
                    machine_args.static_of,
                    off=() if args.exporter else OFF,
                ),
                timeout_s=BOOT_TIMEOUT_S + HEALTH_TIMEOUT_S,
            ),
            opts=child,
        )
        # It reports the site of that step.
        booted = pulumi.ResourceOptions(parent=self, depends_on=[self.booted])
        platform.enable_monitoring(name, self.machine, machine_args, opts=booted)
        if args.exporter:
            exporter = RemoteCommandArgs(self.machine, apply_files_command(), args.exporter, INSTALL_S)
            platform.remote_command(f"{name}-metrics", exporter, opts=booted)

    def serve(
        self,
        apps: Mapping[str, App],
        addresses: Mapping[str, pulumi.Output[Sequence[str]]],
        hostnames: Sequence[str] = (),
    ) -> PublicAddress:
        """Have it serve these applications. addresses: application -> addresses of the servers that take its requests.

        Of an application with a group there are none: the balancer asks that.
        hostnames: names of the site, the hosts of applications among them. Where clients find it: the address points at
        this machine once its site serves. Its host is what DNS records of its names must hold (type A). The order with
        TLS is booted -> certificate -> site -> address -> acme; until an ACME server has signed, a certificate that
        this machine made stands in. Called once.
        """
        name, platform, tls = self._name, self._platform, self._settings.tls
        text = pulumi.Output.all(**addresses).apply(
            lambda there: json.dumps(
                render_site(
                    self._settings,
                    upstreams(apps, there, hostnames, self._groups),
                    hostnames,
                    https_port=platform.https_port,
                    system=self._system,
                )
            )
        )
        # The site names the certificate's file, so that must be there before.
        prerequisites = [self.booted]
        if tls is not None:
            prerequisites = [self._certificate(name, tls, hostnames, platform, self.booted)]
        if (preparation := proxy_packages_command(self._settings)) is not None:
            prerequisites.append(self._preparation(name, preparation, self._settings.proxy, platform, self.booted))
        site_step = platform.remote_command(
            f"{name}-site",
            RemoteCommandArgs(self.machine, [f"{SCRIPTS}/proxy_site.py", "site"], text, timeout_s=SITE_TIMEOUT_S),
            opts=pulumi.ResourceOptions(parent=self, depends_on=prerequisites),
        )
        address = platform.public_address(
            f"{name}-address",
            self.machine,
            hostnames=hostnames,
            https=tls is not None,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[site_step]),
        )
        if tls is not None and tls.acme is not None:
            self._acme(name, tls.acme, hostnames, platform, address)
        self.register_outputs({"machine": self.machine.id, "url": address.url, "address": address.host})
        return address

    def _certificate(
        self, name: str, tls: Tls, hostnames: Sequence[str], platform: Platform, ready: pulumi.Resource
    ) -> pulumi.Resource:
        """Create the step that installs the certificate's file, and serves it where the site serves HTTPS already."""
        names = list(hostnames) or ["localhost"]
        stdin: pulumi.Input[str] = ""
        is_given = tls.certificate is not None
        if tls.certificate is not None and tls.private_key is not None:
            words = ["given"]
            chain, key = tls.certificate.strip(), tls.private_key.get_secret_value().strip()
            stdin = pulumi.Output.secret(f"{chain}\n{key}\n")
        else:
            words = ["stand-in" if tls.acme else "self-signed", *names]
        return platform.remote_command(
            f"{name}-certificate",
            RemoteCommandArgs(
                self.machine,
                [f"{SCRIPTS}/certificate.py", *words],
                stdin,
                timeout_s=CERTIFICATE_S,
                has_secret=is_given,
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[ready]),
        )

    def _preparation(
        self, name: str, command: Sequence[str], proxy: Proxy, platform: Platform, ready: pulumi.Resource
    ) -> pulumi.Resource:
        """Create the step after which packages and users that the site names are there."""
        stdin: pulumi.Input[str] = ""
        if proxy.basic_auth is not None:
            users = {user: password.get_secret_value() for user, password in sorted(proxy.basic_auth.users.items())}
            key = GeneratedSecret(f"{name}-key", opts=pulumi.ResourceOptions(parent=self)).value
            stdin = key.apply(lambda value: "".join(htpasswd_line(user, word, value) for user, word in users.items()))
        return platform.remote_command(
            f"{name}-proxy",
            RemoteCommandArgs(
                self.machine, command, stdin, timeout_s=PACKAGES_S, has_secret=proxy.basic_auth is not None
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[ready]),
        )

    def _acme(
        self, name: str, acme: Acme, hostnames: Sequence[str], platform: Platform, address: PublicAddress
    ) -> None:
        """Create the step that has the ACME server sign.

        The server asks back over HTTP, so the public address leads here by then.
        """
        stdin = address.host.apply(
            lambda host: json.dumps({**acme.model_dump(), "hostnames": list(hostnames), "address": host})
        )
        platform.remote_command(
            f"{name}-acme",
            RemoteCommandArgs(self.machine, [f"{SCRIPTS}/acme_certificate.py"], stdin, timeout_s=ACME_TIMEOUT_S),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[address.resource]),
        )
