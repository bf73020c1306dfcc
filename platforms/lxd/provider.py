"""What the dynamic resources of platform lxd share: reading back what LXD has, and errors that explain themselves."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from pulumi.dynamic import CheckFailure, CheckResult, DiffResult, ReadResult, ResourceProvider, UpdateResult

from platforms.lxd.client import LxdError
from platforms.provider import without_traceback
from platforms.transport import Unreachable

GONE_RESULT = ReadResult("", {})


@contextmanager
def explain_errors() -> Generator[None]:
    """End the operation with the text of an error that explains itself."""
    try:
        yield
    except (LxdError, Unreachable, TimeoutError) as error:
        raise without_traceback(LxdError(str(error))) from None


def find_conflict(property_: str, found: Callable[[], str | None]) -> list[CheckFailure]:
    """Return a conflict as the failure of a check.

    It ends `up` and `preview` before anything is made.
    """
    try:
        obstacle = found()
    except LxdError as error:
        obstacle = str(error)
    return [CheckFailure(property_, obstacle)] if obstacle else []


class Provider(ResourceProvider):
    """The base of all providers. inputs: kept as outputs. replacing, updating: inputs whose change does that.

    anew: input whose change replaces a missing object; "" if an update recreates it.
    """

    serialize_as_secret_always = False
    inputs: ClassVar[tuple[str, ...]] = ()
    replacing: ClassVar[tuple[str, ...]] = ()
    updating: ClassVar[tuple[str, ...]] = ()
    anew = ""

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Implement ResourceProvider.check: accept all inputs."""
        return CheckResult(news, [])

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Implement ResourceProvider.diff: compare with what is there now."""
        with explain_errors():
            # Not as the state has it: the state does not know how far a `destroy` came that was killed.
            found = self.read(_id, _olds)
        olds = found.outs or _olds
        replaces = [key for key in self.replacing if olds.get(key) != _news.get(key)]
        if not found.id and self.anew:
            replaces.append(self.anew)
        changes = not found.id or bool(replaces) or any(olds.get(key) != _news.get(key) for key in self.updating)
        # Never delete before replace: the old resource serves until its successor does.
        return DiffResult(changes=changes, replaces=replaces, delete_before_replace=False)

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Implement ResourceProvider.update: create again, which adopts existing objects."""
        # Each creation takes what is there.
        return UpdateResult(self.create(_news).outs)

    def outs(self, props: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Return the outputs: the kept inputs and those in `more`."""
        return {**{key: props[key] for key in self.inputs}, **more}
