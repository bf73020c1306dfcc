"""`./fleet exec`, `console`, `drain` and `admit`: work on one server by hand."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from commands import marks
from commands.front import admit_target, drain_target
from commands.target import BALANCER, AppOption, CommandError, StackOption, Target, find, server_names
from platforms import operator
from platforms.transport import Unreachable, machine_id
from releases.fleet import Server
from releases.redaction import escape_control
from rendering.paths import SCRIPTS
from settings.limits import SITE_TIMEOUT_S

LIVE = "/srv/app/live"
_NO_RELEASE = "error: no release serves on this server; `pulumi up` brings one"

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="NAME",
        show_default=False,
        help="The server; the default is the first one.",
        autocompletion=server_names,
    ),
]
ServerArgument = Annotated[
    str,
    typer.Argument(metavar="SERVER", show_default=False, help="The server, by name.", autocompletion=server_names),
]


def as_release(command: Sequence[str], *, terminal: bool = False) -> list[str]:
    """Return the words that run a command on a server as the release that serves there would run it."""
    options = ["--quiet", "--wait", "--collect", "--pty" if terminal else "--pipe"]
    places = (f"WorkingDirectory={LIVE}/code", f"EnvironmentFile={LIVE}/environment")
    # Here, because it loads all that renders templates, and bundle and rollback need another part of this module.
    from rendering.app_server import process_properties  # noqa: PLC0415

    options += [f"--property={each}" for each in (*process_properties(), *places)]
    # The inner sh finds the program on the release's own PATH; systemd-run would look on root's.
    # systemd would put variables for `$NAME` and `${NAME}`, unquoted; `$$` is its `$`.
    words = [word.replace("$", "$$") for word in ("sh", "-c", 'exec "$@"', "sh", *command)]
    inner = shlex.join(["systemd-run", *options, "--", *words])
    return ["sh", "-c", f"[ -e {LIVE}/environment ] || {{ echo {shlex.quote(_NO_RELEASE)}; exit 1; }}; exec {inner}"]


def exec_(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", show_default=False, help="What to run; put `--` before it.")
    ],
    stack: StackOption = None,
    app: AppOption = None,
    server: ServerOption = None,
    *,
    with_input: Annotated[
        bool, typer.Option("--stdin", "-i", help="Send standard input along, up to its end.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Longest time in seconds.")
    ] = 3000,
) -> None:
    """Run a command on one server as the release.

    With the user, the environment, the virtualenv and the folder of the release that serves there. The output and the
    exit code are those of the command: ./fleet exec -- python manage.py check
    In a pipe or a file the output is as it was; a terminal gets control characters escaped.
    """
    target = find(stack, app, server)
    stdin = sys.stdin.buffer.read() if with_input else b""
    is_terminal = sys.stdout.isatty()
    result = target.run(
        target.server(server),
        as_release(command),
        timeout_s=timeout_s,
        stdin=stdin,
        on_line=(lambda line: typer.echo(escape_control(line))) if is_terminal else None,
        on_output=None if is_terminal else _write,
    )
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _write(output: bytes) -> None:
    """Write the output of a program on a machine to standard output, unchanged."""
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def console(stack: StackOption = None, app: AppOption = None, server: ServerOption = None) -> None:
    """Open a Python prompt on one server.

    In the release that serves there, as `exec` does.
    """
    target = find(stack, app, server)
    _enter(target, target.server(server), as_release(["python"], terminal=True), alternative="exec -- python FILE")


def shell(
    stack: StackOption = None,
    app: AppOption = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="NAME",
            show_default=False,
            help='The server, or "balancer"; the default is the first server.',
        ),
    ] = None,
) -> None:
    """Open a shell of root on one machine.

    On aws with the stack's own key, whatever keys you have. What you change by hand is gone when the machine is
    replaced.
    """
    target = find(stack, app, server)
    is_front = server == BALANCER
    machine = target.machine_in_front("name a server") if is_front else target.server(server)
    _enter(target, machine, ["bash", "-l"], alternative="exec -- COMMAND")


def _enter(target: Target, machine: Server, command: Sequence[str], *, alternative: str) -> NoReturn:
    """Become a terminal on a machine. alternative: what a program without a terminal may call."""
    if not _has_terminal():
        raise CommandError(f"this needs a terminal; `./fleet {alternative}` runs without one", code=2)
    try:
        operator.terminal(target.reach, machine.target, command).enter()
    except Unreachable as error:
        raise CommandError(str(error)) from error
    except FileNotFoundError as error:
        raise CommandError(f"{error.filename} is not on the PATH; install OpenSSH's client") from error


def _has_terminal() -> bool:
    return sys.stdin.isatty()


def change_site(target: Target, arguments: Sequence[str], *, stdin: bytes = b"") -> None:
    """Run proxy_site.py on the balancer and print its output, by servers' names. Raises CommandError with its error."""
    result = target.run(
        target.machine_in_front("use the AWS console"),
        [f"{SCRIPTS}/proxy_site.py", *arguments],
        stdin=stdin,
        timeout_s=SITE_TIMEOUT_S,
        on_line=lambda line: None if line.startswith("error: ") else typer.echo(target.with_server_names(line)),
    )
    if result.exit_code:
        why = result.output.strip().rpartition("error: ")[2] or f"exit code {result.exit_code}"
        raise CommandError(f"the balancer: {target.with_server_names(why)}")
    if target.kept:
        machines = {target.addresses[each.name]: machine_id(each.target) for each in target.servers}
        marks.keep(target.kept, arguments, stdin, machines)


def drain(server: ServerArgument, stack: StackOption = None, app: AppOption = None) -> None:
    """Stop sending requests to a server.

    Ends when its current requests are finished. It stays drained, whatever `pulumi up` does, until `./fleet admit` or
    its replacement.
    """
    target = find(stack, app, server)
    if target.load_balancer:
        drain_target(target, target.server(server))
    else:
        change_site(target, ["drain", target.addresses[target.server(server).name]])


def admit(server: ServerArgument, stack: StackOption = None, app: AppOption = None) -> None:
    """Send a drained server requests again."""
    target = find(stack, app, server)
    if target.load_balancer:
        admit_target(target, target.server(server))
    else:
        change_site(target, ["admit", target.addresses[target.server(server).name]])
