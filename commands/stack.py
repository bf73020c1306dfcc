"""Ask Pulumi for a stack: which one is meant, and what its outputs or its state say of the fleet."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any, cast

from commands.group import with_live_servers
from platforms.server_group import ServerGroupError

PROJECT = Path(__file__).resolve().parents[1]
PULUMI_S = 60
DESCRIPTION = "wsgi-fleet:outputs:Description"


class CommandError(Exception):
    """The command failed. The text says what is wrong and what to do. code: exit code of the program."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def pulumi(*arguments: str) -> str:
    """Run a pulumi command and return what it prints. Raises CommandError with its error message."""
    try:
        result = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"], check=False, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=PULUMI_S,
        )  # fmt: skip
    except FileNotFoundError as error:
        # ./fleet puts it on the PATH, once it is installed.
        if "FLEET_FROM" in os.environ:
            raise CommandError("the Pulumi command line is not installed yet; run `make setup`") from error
        raise CommandError("pulumi is not on the PATH; call `./fleet`, or `source .venv/bin/activate` first") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(
            f"`pulumi {arguments[0]}` did not respond in {PULUMI_S} s; is the state's backend there?"
        ) from error
    if result.returncode:
        raise CommandError(result.stderr.strip().removeprefix("error: ") or f"`pulumi {shlex.join(arguments)}` failed")
    return result.stdout


def selected_stack(name: str | None) -> str:
    """Return the name of the stack to work on. Raises CommandError where none was given and none is selected."""
    if name:
        return name
    try:
        return pulumi("stack", "--show-name").strip()
    except CommandError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise
        why = "" if "no stack selected" in str(error) else f" ({error})"
        raise CommandError(
            f"no stack is selected{why}; `make local` makes one here, `pulumi up -s NAME` another\n"
            "Where there is one: --stack NAME, FLEET_STACK=NAME, or `pulumi stack select NAME`",
            code=2,
        ) from error


def outputs(stack: str, app: str | None = None) -> dict[str, Any]:
    """Return the stack's output `fleet`, and the URLs of the site and of Prometheus ("" where it has none).

    It may contain a private key: never print it.

    After a first release that failed, of the stack or of that app, what the state describes.

    Raises CommandError.
    """
    try:
        found: dict[str, Any] = json.loads(pulumi("stack", "output", "--json", "--show-secrets", "-s", stack))
    except CommandError as error:
        if "no stack named" in str(error):
            raise CommandError(_missing_stack_error(stack), code=2) from error
        raise
    fleet = found.get("fleet")
    is_known = isinstance(fleet, dict) and app in (None, *cast("dict[str, Any]", fleet)["apps"])
    if not is_known:
        fleet = _describe_stack(stack) or cast("Any", fleet)
    if fleet is None:
        raise CommandError(f"stack {stack} has no fleet yet (or an older one); run `pulumi up -s {stack}`")
    if not isinstance(fleet, dict):
        # Pulumi replaces an output by a mark if it depends on a failed resource.
        raise CommandError(
            f"stack {stack} does not know how to reach its machines, for its last `pulumi up` went on after a failure "
            f"(--continue-on-error); mend what failed and run `pulumi up -s {stack}`"
        )
    url = str(found.get("url", ""))
    names = url if "://" in url else "(known after an `up` that succeeds)"
    try:
        urls = {"url": names, "monitoring_url": str(found.get("monitoring_url", ""))}
        return with_live_servers({**cast("dict[str, Any]", fleet), **urls})
    except ServerGroupError as error:
        raise CommandError(f"the servers of stack {stack} cannot be listed: {error}") from error


def _describe_stack(stack: str) -> dict[str, Any] | None:
    """Return the same from before the first release (components/outputs.py), which the state has; None without it."""
    state: dict[str, Any] = json.loads(pulumi("stack", "export", "--show-secrets", "-s", stack))
    resources: list[dict[str, Any]] = state["deployment"].get("resources") or []
    for resource in resources:
        described: dict[str, Any] = resource.get("outputs") or {}
        if resource["type"] == DESCRIPTION and "fleet" in described:
            return json.loads(described["fleet"]["plaintext"])
    return None


def _missing_stack_error(stack: str) -> str:
    if stack == "local":
        return "there is no stack local yet; run `make local`"
    # By its name in the folder: a path could be too long, or lead out of it.
    if f"Pulumi.{stack}.yaml" in {path.name for path in (PROJECT / "stacks").iterdir()}:
        return f"there is no stack {stack} yet; run `pulumi stack init {stack}`, then `pulumi up -s {stack}`"
    return f"there is no stack {stack}, nor a file stacks/Pulumi.{stack}.yaml; `pulumi stack ls` lists what there is"
