"""What a command works on: one application of one stack, as the stack's output `fleet` describes it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from commands.group import live_servers
from commands.stack import CommandError, outputs, selected_stack
from commands.suggestion import suggest
from platforms import operator
from platforms.load_balancer import LoadBalancer
from platforms.server_group import Phase
from platforms.transport import PrefixStore, Result, Store, Transport, Unreachable, machine_id
from releases.fleet import Fleet, Server
from releases.live import LiveServers

BALANCER = "balancer"
# Seconds to try a machine while a person waits for the response; a rollout has more patience.
CONNECT_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Target:
    """health_path, start_timeout_s, drain_timeout_s: of the application's settings. reach: how machines are reached.

    balancer: None where a load_balancer of the platform's own is in front; maintenance_page: what that responds with.
    addresses: server name -> private address, by which the balancer knows it. names: the other way round, of all
    servers of the stack. routes: which requests it gets, for a person. live, phases: of servers whose number follows
    the load, and by name where each is on its way. kept: of a balancer in whose place another one comes by itself.
    hooks: as releases.hooks.Hooks has them.
    """

    stack: str
    app: str
    url: str
    routes: Sequence[str]
    servers: Sequence[Server]
    addresses: Mapping[str, str]
    names: Mapping[str, str]
    balancer: Server | None
    health_path: str
    start_timeout_s: int
    drain_timeout_s: int
    reach: Mapping[str, Any]
    transport: Transport
    store: Store
    load_balancer: LoadBalancer | None = None
    maintenance_page: str = ""
    live: LiveServers | None = None
    kept: Store | None = None
    hooks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    phases: Mapping[str, Phase] = field(default_factory=dict[str, Phase])

    def machine_in_front(self, alternative: str) -> Server:
        """Return the balancer. Raises CommandError where it is no machine.

        alternative: what an operator can do without one.
        """
        if self.balancer is None:
            raise CommandError(f"there is no balancer machine, because balancer.kind is alb; {alternative}", code=2)
        return self.balancer

    def fleet(self, log: Callable[[str], None], clean: Callable[[str], str] = str) -> Fleet:
        """Return the fleet that rollout and rollback work with. clean: removes secrets from what servers print."""
        made = Fleet(
            self.app,
            self.transport,
            log,
            first=self.server(None),
            start_timeout_s=self.start_timeout_s,
            drain_timeout_s=self.drain_timeout_s,
            clean=clean,
        )
        if self.live:
            made.has_gone = self.live.has_gone
        return made

    def server(self, name: str | None) -> Server:
        """Return the server of that name, the first for None. Raises CommandError with the names that there are."""
        if not self.servers:
            raise CommandError(f"{self.app} has no servers now; its group is about to get some (`./fleet status`)")
        if name is None:
            return self.servers[0]
        # Of a group also by the id of the instance alone.
        found = next((each for each in self.servers if name in (each.name, machine_id(each.target))), None)
        if found is None:
            raise CommandError(
                f"there is no server {name}; {suggest(name, [each.name for each in self.servers])}", code=2
            )
        return found

    def run(
        self,
        server: Server,
        command: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        on_line: Callable[[str], None] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Result:
        """Run a command on a machine. Raises CommandError when the machine is unreachable or the time is up."""
        try:
            return self.transport.exec(
                server.target, command, stdin=stdin, timeout_s=timeout_s, on_line=on_line, on_output=on_output
            )
        except Unreachable as error:
            raise CommandError(f"{server.name} is unreachable: {error}") from error
        except TimeoutError as error:
            raise CommandError(
                f"{server.name}: `{shlex.join(command)[:80]}` did not finish in {timeout_s:.0f} s"
            ) from error

    def with_server_names(self, text: str) -> str:
        """Replace the addresses in a text of the balancer by servers' names. The balancer knows addresses only."""
        for address, name in self.names.items():
            text = re.sub(rf"(?<![\d.]){re.escape(address)}(?!\d)", name, text)
        return text


def resolve_target(
    stack: str, fleet: Mapping[str, Any], app: str | None, server: str | None = None, *, patience_s: float | None = None
) -> Target:
    """Return one application of a stack. Raises CommandError.

    It is the named one, else the one that has the server, else the only one.
    """
    apps: Mapping[str, Any] = fleet["apps"]
    if app is None:
        app = only_application(stack, apps) if server is None or len(apps) == 1 else _application_of(apps, server)
    (target,) = resolve_targets(stack, fleet, app, patience_s=patience_s)
    return target


def only_application(stack: str, apps: Mapping[str, Any]) -> str:
    """Return the name of the only application of a stack. Raises CommandError if there are several."""
    if len(apps) > 1:
        raise CommandError(f"stack {stack} has several applications: add `--app` with one of {', '.join(apps)}", code=2)
    return next(iter(apps))


def _application_of(apps: Mapping[str, Any], server: str) -> str:
    """Return the application that has the server; for the balancer, which all have, the first one."""
    names: dict[str, str] = {
        name: app
        for app, found in apps.items()
        for each in found["servers"]
        for name in (each["name"], machine_id(each["target"]))
    }
    if server != BALANCER and server not in names:
        raise CommandError(f"there is no server {server}; {suggest(server, sorted(names))}", code=2)
    return names.get(server, next(iter(apps)))


def resolve_targets(
    stack: str, fleet: Mapping[str, Any], app: str | None, *, patience_s: float | None = None
) -> list[Target]:
    """Return the applications of a stack, or only the named one. Raises CommandError."""
    apps: Mapping[str, Any] = fleet["apps"]
    if app is not None and app not in apps:
        raise CommandError(f"there is no application {app}; {suggest(app, list(apps))}", code=2)
    front, service, store = fleet.get("balancer"), fleet.get("load_balancer"), operator.store(fleet["store"])
    reach = dict(fleet["reach"])
    if patience_s is not None:
        reach["deadline_s"] = patience_s
    try:
        transport = operator.transport(reach)
    except Unreachable as error:
        raise CommandError(f"{error} (`./fleet doctor` looks at all of it)") from error
    return [
        Target(
            stack=stack,
            app=name,
            url=fleet["url"],
            # What an `up` before several applications wrote has none.
            routes=found.get("routes", ()),
            servers=[Server(each["name"], each["target"]) for each in found["servers"]],
            addresses={each["name"]: each["address"] for each in found["servers"]},
            names={each["address"]: each["name"] for every in apps.values() for each in every["servers"]},
            balancer=Server(front["name"], front["target"]) if front else None,
            load_balancer=operator.load_balancer(service) if service else None,
            maintenance_page=service["maintenance_page"] if service else "",
            health_path=found["health_path"],
            start_timeout_s=int(found["start_timeout_s"]),
            drain_timeout_s=int(found["drain_timeout_s"]),
            reach=reach,
            transport=transport,
            store=PrefixStore(store, name),
            live=live_servers(name, found),
            kept=PrefixStore(store, front["kept"]) if front and front.get("kept") else None,
            hooks=found.get("hooks", {}),
            phases={each["name"]: each["phase"] for each in found["servers"] if "phase" in each},
        )
        for name, found in apps.items()
        if app in (None, name)
    ]


def find(
    stack: str | None, app: str | None, server: str | None = None, *, patience_s: float | None = CONNECT_TIMEOUT_S
) -> Target:
    """Return the one application that the options of a command name. Raises CommandError."""
    chosen = selected_stack(stack)
    return resolve_target(chosen, outputs(chosen, app), app, server, patience_s=patience_s)


def find_all(stack: str | None, app: str | None) -> list[Target]:
    """Return every application of a stack, or only the named one. Raises CommandError."""
    chosen = selected_stack(stack)
    return resolve_targets(chosen, outputs(chosen, app), app, patience_s=CONNECT_TIMEOUT_S)


def server_names(context: typer.Context, incomplete: str) -> list[str]:
    """Complete server names on the command line: quietly, and with nothing where there is no stack."""
    try:
        stack = selected_stack(context.params.get("stack") or os.environ.get("FLEET_STACK"))
        apps: Mapping[str, Any] = outputs(stack)["apps"]
    except (CommandError, ValueError, KeyError):
        return []
    names = [server["name"] for app in apps.values() for server in app["servers"]]
    return [name for name in names if name.startswith(incomplete)]


StackOption = Annotated[
    str | None,
    typer.Option(
        "--stack",
        "-s",
        metavar="NAME",
        envvar="FLEET_STACK",
        show_default=False,
        help="The stack; the default is the selected one.",
    ),
]
AppOption = Annotated[
    str | None,
    typer.Option(
        "--app", metavar="NAME", show_default=False, help="The application, where the stack has more than one."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON, with units in the names.")]
