"""Host keys by machine id: those in the stack's state, and those that this checkout pinned at first contact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class KnownHosts:
    """The host keys of machines, by machine id. A key is `ssh-ed25519 AAAA...`.

    file: in the format of OpenSSH's known_hosts, but each line begins with a machine id and not with an address.
    expected: machine id -> host key in the stack's state. The state has precedence over the file, because it is the
    same for all operators.
    """

    def __init__(self, file: Path, expected: Mapping[str, str]) -> None:
        self.file, self._expected = file, expected

    def accept(self, name: str, key: str) -> bool:
        """Return whether the machine has that key; a machine without a known key gets this one."""
        known = [self._expected[name]] if name in self._expected else self._keys_of(name)
        if not known:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a") as file:
                file.write(f"{name} {key}\n")
        return not known or key in known

    def refusal(self, name: str) -> str:
        """Return why a key was rejected, and what to do."""
        where = "the stack's state" if name in self._expected else self.file
        remedy = f"take the line of {name} out of {self.file}, if there is one"
        if name in self._expected:
            # A glob: the whole URN would have to be looked up.
            remedy += ", and run `pulumi up --replace '**::ROLE-host-key'` with the machine's role (hello-1)"
        return (
            f"it shows another host key than the one in {where}. Possible man-in-the-middle: do not connect. "
            f"Only if you know that it has new keys: {remedy}."
        )

    def write(self) -> Path:
        """Write the keys of the state into the file and return it: for programs that read no state."""
        lines = self._lines()
        missing = [line for line in lines if line.split(maxsplit=1)[:1] not in [[name] for name in self._expected]]
        missing += [f"{name} {key}" for name, key in sorted(self._expected.items())]
        if sorted(missing) != sorted(lines):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            new = self.file.with_suffix(".new")
            new.write_text("".join(f"{line}\n" for line in missing))
            new.replace(self.file)
        return self.file

    def _keys_of(self, name: str) -> list[str]:
        return [line.split(maxsplit=1)[1] for line in self._lines() if line.split(maxsplit=1)[:1] == [name]]

    def _lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []
