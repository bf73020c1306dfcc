"""Run the hooks of a stack file: a command on the operator's machine and a webhook, with facts of the journal."""

from __future__ import annotations

import html
import http.client
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

# What a hook gets of the journal's facts.
FACTS = ("app", "release", "before", "revision", "who", "when", "rollback", "servers", "missing", "seconds", "why")
# Lines of a command's output that its error quotes.
LAST_LINES = 10


class HookError(Exception):
    """A hook failed. The text says which one, and how."""


class Hooks:
    """The hooks of one application. spec: hook -> its settings, as settings.hooks.Hooks has them.

    log: gets each line that a command prints, and what failed where that stops nothing.
    """

    def __init__(self, spec: Mapping[str, Mapping[str, Any]], *, stack: str, log: Callable[[str], None]) -> None:
        self._spec, self._stack, self._log = spec, stack, log

    def run(self, hook: str, facts: Mapping[str, Any]) -> None:
        """Run the command of a hook, then its webhook. Do nothing where neither is set. Raises HookError."""
        settings = self._spec.get(hook)
        if settings is None:
            return
        event = {"event": hook, "stack": self._stack, **{key: facts.get(key) for key in FACTS}}
        # The journal of a release does not have it.
        event["rollback"] = bool(event["rollback"])
        event["text"] = describe(event)
        timeout_s = float(settings["timeout_s"])
        if command := settings.get("command"):
            self._run_command(hook, command, event, timeout_s)
        if webhook := settings.get("webhook"):
            body = {"text": html.escape(event["text"], quote=False)} if settings["format"] == "slack" else event
            send(hook, webhook, body, timeout_s)

    def notify(self, hook: str, facts: Mapping[str, Any]) -> None:
        """Run a hook, and only print how it failed: what it is about has happened."""
        try:
            self.run(hook, facts)
        except HookError as error:
            self._log(str(error))

    def _run_command(self, hook: str, command: str, event: Mapping[str, Any], timeout_s: float) -> None:
        variables = {key: event[key] or "" for key in ("event", "stack", "app", "release", "before", "revision")}
        process = subprocess.Popen(
            ["sh", "-c", command],
            env=os.environ | {f"WSGI_FLEET_{key.upper()}": str(value) for key, value in variables.items()},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(json.dumps(event).encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise HookError(f"hooks.{hook}: `{command}` did not finish in {timeout_s:.0f} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        lines = output.decode(errors="replace").splitlines()
        if process.returncode:
            last = "".join(f"\n    {line}" for line in lines[-LAST_LINES:])
            raise HookError(f"hooks.{hook}: `{command}` failed with exit code {process.returncode}{last and ':'}{last}")
        for line in lines:
            self._log(f"hooks.{hook}: {line}")


NO_HOOKS = Hooks({}, stack="", log=print)


def send(hook: str, url: str, body: Mapping[str, Any], timeout_s: float) -> None:
    """POST JSON to a URL, which no message shows. Raises HookError unless the response is a 2xx."""
    place = f"hooks.{hook}: the webhook at {urlsplit(url).hostname}"
    headers = {"Content-Type": "application/json"}
    # Settings accept http and https only.
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=timeout_s).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            raise HookError(f"{place} responds with status {error.code}") from None
    except OSError as error:
        raise HookError(f"{place} cannot be reached: {getattr(error, 'reason', error)}") from None
    except http.client.HTTPException as error:
        raise HookError(f"{place} does not respond by HTTP ({type(error).__name__})") from None


def describe(event: Mapping[str, Any]) -> str:
    """Return an event as one line for people."""
    release, by = event["release"], f"by {event['who']}"
    if event["revision"]:
        by += f", revision {event['revision']}"
    movement = "rollback to" if event["rollback"] else "release"
    match event["event"]:
        case "before_release":
            what = f"release {release} begins ({by})"
        case "after_release":
            what = f"release {release} serves after {event['seconds']:.0f} s ({by})"
        case "rolled_back":
            what = f"went back from {event['before']} to {release} ({by})"
        case _:
            first = next(iter(str(event["why"]).splitlines()), "")
            what = f"{movement} {release} failed ({by}): {first}"
    if event["missing"]:
        what += f"; without {', '.join(event['missing'])}"
    return f"{event['stack']}: {event['app']}: {what}"
