"""What of a whole stack keeps balancer.self_healing from working."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from settings.balancer import Balancer
    from settings.stack import Settings

# Characters of a secret input of a step that are kept for the next machine (platforms/aws/self_healing.py).
# And those of a line of rendering/htpasswd.py besides the user's name.
SECRET_CHARS, LINE_CHARS = 21_000, 120


def problems(given: Settings) -> list[str]:
    """Return what a machine could not do that boots without anybody's help, each with its path and what to do."""
    balancer, aws = given.balancer, given.aws
    # Of an Application Load Balancer the whole setting is rejected (alb_support.py).
    if not balancer.self_healing or balancer.kind != "machine":
        return []
    if given.platform != "aws" or aws is None:
        return [f"balancer.self_healing: true: {given.platform} replaces no machine by itself; remove it"]
    found: list[str] = []
    beside = "with balancer.self_healing"
    if aws.transport != "ssh":
        found.append(
            f"aws.transport: {aws.transport}: {beside} the balancer is found by its public address alone; take ssh"
        )
    if balancer.proxy.kind != "nginx":
        found.append(
            f"balancer.proxy.kind: {balancer.proxy.kind}: {beside} the machine asks its own Nginx whether it responds, "
            "and cannot ask Apache; take nginx"
        )
    if balancer.tls and balancer.tls.acme:
        found.append(
            f"balancer.tls.acme: {beside} a new machine would have to ask the ACME server again, which limits how "
            "often; give a certificate (balancer.tls.certificate), or take balancer.kind: alb"
        )
    if given.security_updates.reboot:
        found.append(
            f"security_updates.reboot: true: {beside} a machine that restarts may be taken for one that failed; set it "
            "to false, and take a newer aws.ami for a new kernel"
        )
    return [*found, *check_lengths(balancer)]


def check_lengths(balancer: Balancer) -> Iterator[str]:
    """Yield what of a balancer's secrets is too long to be kept, with its path."""
    tls, access = balancer.tls, balancer.proxy.basic_auth
    limit = f"and with balancer.self_healing {SECRET_CHARS:,} are kept"
    if tls and tls.certificate and tls.private_key:
        length = len(f"{tls.certificate.strip()}\n{tls.private_key.get_secret_value().strip()}\n")
        if length > SECRET_CHARS:
            yield (
                f"balancer.tls.certificate: has {length:,} characters with its private key, {limit}; leave out the "
                "root of the chain"
            )
    if access and (length := sum(len(user) + LINE_CHARS for user in access.users)) > SECRET_CHARS:
        yield (
            f"balancer.proxy.basic_auth.users: {len(access.users)} users take {length:,} characters, {limit}; "
            "name fewer"
        )
