"""The balancer: one machine with Nginx, its site, and the address that clients know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

import settings
from platforms import Machine, MachineArgs, Platform, PublicAddress, SecurityGroup, StepArgs
from rendering import MAINTENANCE, SCRIPTS, Upstream, balancer_user_data, booted, site
from settings import App, Maintenance
from settings.tls import Acme, Tls

BOOT_S = 600
# nginx_site.py waits up to 330 s for old workers to finish.
SITE_S = 400
# certbot's Debian packages from a slow mirror.
CERTIFICATE_S = 400
# 90 s for names to lead here, and the ACME server's own time.
ACME_S = 400


@dataclass(frozen=True)
class BalancerArgs:
    """apps: the applications it serves. members: application -> addresses of the servers that take its requests."""

    settings: settings.Balancer
    group: SecurityGroup
    apps: Mapping[str, App]
    members: Mapping[str, pulumi.Output[Sequence[str]]]
    maintenance: Maintenance = MAINTENANCE


class Balancer(pulumi.ComponentResource):
    """machine: the balancer. url: where clients find it; it points at this machine once its site serves.

    address: what DNS records of its names must hold (type A). The order with TLS is booted -> certificate -> members ->
    address -> acme; until an ACME server has signed, a certificate that this machine made stands in.
    """

    machine: Machine
    url: pulumi.Output[str]
    address: pulumi.Output[str]

    def __init__(
        self, name: str, args: BalancerArgs, *, platform: Platform, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("wsgi-fleet:balancer:Balancer", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        machine_args = MachineArgs(
            role=name,
            user_data=balancer_user_data(args.maintenance),
            group=args.group,
            size=args.settings.size,
            public=True,
        )
        self.machine = platform.machine(name, machine_args, store=None, opts=child)
        ready = platform.step(
            f"{name}-booted",
            StepArgs(self.machine, booted(BOOT_S), timeout_s=BOOT_S + 30),
            opts=child,
        )
        booted_first = pulumi.ResourceOptions(parent=self, depends_on=[ready])
        platform.watch(name, self.machine, machine_args, opts=booted_first)
        text = pulumi.Output.all(**args.members).apply(
            lambda members: site(
                args.settings,
                [
                    Upstream(app, members[app], given.gateway.request_timeout_s, given.health_path)
                    for app, given in sorted(args.apps.items())
                ],
                https_port=platform.https_port,
            )
        )
        tls, names = args.settings.tls, args.settings.hostnames
        # The site names the certificate's file, so that must be there before.
        serves = [ready] if tls is None else [self._certificate(name, tls, names, platform, ready)]
        health_paths = [app.health_path for _, app in sorted(args.apps.items())]
        members = platform.step(
            f"{name}-members",
            StepArgs(self.machine, [f"{SCRIPTS}/nginx_site.py", "site", *health_paths], text, timeout_s=SITE_S),
            opts=pulumi.ResourceOptions(parent=self, depends_on=serves),
        )
        address = platform.public_address(
            f"{name}-address",
            self.machine,
            hostnames=names,
            https=tls is not None,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[members]),
        )
        if tls is not None and tls.acme is not None:
            self._acme(name, tls.acme, names, platform, address)
        self.url, self.address = address.url, address.host
        self.register_outputs({"machine": self.machine.id, "url": self.url, "address": self.address})

    def _certificate(
        self, name: str, tls: Tls, hostnames: Sequence[str], platform: Platform, ready: pulumi.Resource
    ) -> pulumi.Resource:
        """The step after which the certificate's file is there, and served where the site does so already."""
        names = list(hostnames) or ["localhost"]
        stdin: pulumi.Input[str] = ""
        if tls.certificate is not None and tls.private_key is not None:
            words = ["given"]
            chain, key = tls.certificate.strip(), tls.private_key.get_secret_value().strip()
            stdin = pulumi.Output.secret(f"{chain}\n{key}\n")
        else:
            words = ["stand-in" if tls.acme else "self-signed", *names]
        return platform.step(
            f"{name}-certificate",
            StepArgs(self.machine, [f"{SCRIPTS}/certificate.py", *words], stdin, timeout_s=CERTIFICATE_S),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[ready]),
        )

    def _acme(
        self, name: str, acme: Acme, hostnames: Sequence[str], platform: Platform, address: PublicAddress
    ) -> None:
        """The step that has the ACME server sign: it asks back over HTTP, so the public address leads here by then."""
        stdin = address.host.apply(
            lambda host: json.dumps({**acme.model_dump(), "hostnames": list(hostnames), "address": host})
        )
        platform.step(
            f"{name}-acme",
            StepArgs(self.machine, [f"{SCRIPTS}/acme_certificate.py"], stdin, timeout_s=ACME_S),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[address.resource]),
        )
