"""A step as a dynamic resource: a script on a machine, run over the transport of its platform."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from pulumi.dynamic import CreateResult, DiffResult, ResourceProvider, UpdateResult

from platforms.provider import log, without_traceback
from platforms.transport import Result, Unreachable

# Lines of a failed step's output that its error repeats.
TAIL = 15


class StepFailed(Exception):
    """A step did not reach its machine, did not finish, or failed. The text explains itself."""


class StepProvider(ResourceProvider):
    """The base of the providers of steps. A step has the inputs machine, command, stdin and timeout_s.

    It runs again in place when one of the first three changes. Outputs replace the state and stand there in plain, so
    none of them is secret.
    """

    serialize_as_secret_always = False

    def execute(self, props: Mapping[str, Any], on_line: Callable[[str], None]) -> Result:
        """Run the command on the machine. on_line gets each line of its output."""
        raise NotImplementedError

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Implement ResourceProvider.diff: compare the triggers, if the input is known."""
        # Without it a dependency has failed (`pulumi up --continue-on-error`): the machine stays unchanged.
        is_known = "stdin" in _news
        return DiffResult(changes=is_known and _olds.get("trigger") != trigger(_news), replaces=[])

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Implement ResourceProvider.create: run the command on the machine, and log its output."""
        name = props["machine"]
        try:
            result = self.execute(props, lambda line: log(f"{name}: {line}"))
            if result.exit_code:
                tail = "\n".join(result.output.splitlines()[-TAIL:])
                raise StepFailed(f"{name}: the step failed with exit code {result.exit_code}:\n{tail}")
        except (StepFailed, Unreachable, TimeoutError) as error:
            raise without_traceback(StepFailed(str(error))) from None
        found = trigger(props)
        return CreateResult(f"{name}/{found[:12]}", {"machine": name, "trigger": found})

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Implement ResourceProvider.update: run the command again."""
        return UpdateResult(self.create(_news).outs)


def trigger(props: Mapping[str, Any]) -> str:
    """Return what makes a step run again, as a hash: its input may be secret."""
    parts = [props["machine"], list(props["command"]), props["stdin"]]
    # What a preview cannot know is no JSON; it makes another hash, so the step counts as changed.
    return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()
