"""How work reaches machines and releases reach machines: two small protocols, so that the rollout is plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Protocol


@dataclass(frozen=True)
class Result:
    """What a command on a machine left. output: standard output and error, interleaved as far as the transport can."""

    exit_code: int
    output: str


class Unreachable(Exception):
    """A machine did not respond at all: nothing is known of what it runs."""


def machine_id(target: str) -> str:
    """Return the id of the machine that a transport calls so. On aws its address is behind it (AwsPlatform.machine)."""
    return target.partition("@")[0]


class Transport(Protocol):
    """Runs programs on machines as root."""

    def exec(
        self,
        machine: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Result:
        """Run command (program and arguments, no shell) on the machine with that id.

        on_line gets each line of output as it appears, on_output the bytes of all output. Raises Unreachable when the
        machine cannot be reached and TimeoutError when it does not finish in timeout_s seconds (the command is ended
        then, as far as possible).
        """
        ...


class Store(Protocol):
    """Keeps files under slash-separated keys. A write is atomic: a reader sees the old or the new content."""

    def read(self, key: str) -> bytes | None:
        """Return the content of a key; None if it is missing."""
        ...

    def open(self, key: str) -> IO[bytes] | None:
        """Open a key for reading, if it is too large for memory; None if it is missing. The caller closes it."""
        ...

    def write(self, key: str, content: bytes | IO[bytes]) -> None:
        """Write or replace content: bytes, or a file from its current position."""
        ...

    def create(self, key: str, content: bytes) -> bool:
        """Put content there if nothing is there. False where something is; of two at once only one gets True."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Return all keys that begin with prefix, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove it; removing a missing key succeeds."""
        ...


class SecretStore(Protocol):
    """Keeps the secrets of an application's releases where its servers fetch them when they boot.

    A platform without one brings secrets by standard input alone; then a server that was away cannot take new ones.
    """

    def write(self, release: str, secrets: Mapping[str, str]) -> None:
        """Put the secrets of a release there. Raises ValueError, without values, for what it cannot contain."""
        ...

    def releases(self) -> list[str]:
        """Return the releases that have secrets there, sorted."""
        ...

    def delete(self, release: str) -> None:
        """Delete the secrets of a release; deleting missing ones succeeds."""
        ...


class PrefixStore:
    """A Store inside a Store: the keys of one application, under its name."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._prefix = store, f"{name}/"

    def read(self, key: str) -> bytes | None:
        """See Store."""
        return self._store.read(self._prefix + key)

    def open(self, key: str) -> IO[bytes] | None:
        """See Store."""
        return self._store.open(self._prefix + key)

    def write(self, key: str, content: bytes | IO[bytes]) -> None:
        """See Store."""
        self._store.write(self._prefix + key, content)

    def create(self, key: str, content: bytes) -> bool:
        """See Store."""
        return self._store.create(self._prefix + key, content)

    def keys(self, prefix: str) -> list[str]:
        """See Store."""
        return [key.removeprefix(self._prefix) for key in self._store.keys(self._prefix + prefix)]

    def delete(self, key: str) -> None:
        """See Store."""
        self._store.delete(self._prefix + key)
