"""The program of this project, run by the mock engine against an emulated account."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness import mock_aws, mock_lxd
from harness.mock_engine import Build, Registered, build
from harness.program import run, stack_file, text_of
from tests.aws.account import LOOKUPS, Account
from tests.aws.server import prepared

PROVIDER = "pulumi:providers:aws"


@dataclass(frozen=True)
class Carried:
    """A run of the program. settings: the blocks of its stack file, completed.

    states: URN -> id and state of what was made in the account, in the order in which it was made.
    """

    account: Account
    build: Build
    settings: dict[str, Any]
    states: dict[str, tuple[str, dict[str, Any]]]

    def destroy(self) -> None:
        """Delete everything in the account, what depends on others first."""
        left = [each for each in self.build.resources if each.urn in self.states]
        while left:
            needed = {urn for each in left for urn in (*each.dependencies, each.parent)}
            for each in [each for each in left if each.urn not in needed]:
                self.account.delete(each.type, *self.states[each.urn])
                left.remove(each)


def carry_out(stack: str, account: Account, **changes: Any) -> Carried:
    """Run the program with the settings of a stack file; blocks given in `changes` take the place of its own.

    What the settings name and no resource makes (a VPC, the image) is put into the account before. Each resource is
    made when the program registers it, that is after what it depends on. Raises what the account raises.
    """
    blocks = stack_file(stack) | changes
    blocks["aws"] = prepared(account, blocks["aws"])
    states: dict[str, tuple[str, dict[str, Any]]] = {}
    # With secrets in any of them, as far as Pulumi tells.
    config = {f"wsgi-fleet:{key}": text_of(value) for key, value in blocks.items()}
    built = build(
        run,
        secret_config=config,
        lookups={token: functools.partial(account.invoke, token) for token in LOOKUPS},
        outputs=_Outputs(account, states),
        stack=stack,
    )
    return Carried(account, built, blocks, states)


class _Outputs(Mapping[str, Callable[[Registered], Mapping[str, Any]]]):
    """The responses of the account, for every type of AWS. For a type that it does not know the program fails."""

    def __init__(self, account: Account, states: dict[str, tuple[str, dict[str, Any]]]) -> None:
        self._account, self._states = account, states
        self._others = {**mock_lxd.OUTPUTS, **mock_aws.OUTPUTS}

    def __getitem__(self, type_: str) -> Callable[[Registered], Mapping[str, Any]]:
        if type_ == PROVIDER:
            return self._configure
        return self._make if type_.startswith("aws:") else self._others[type_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)

    def _configure(self, provider: Registered) -> Mapping[str, Any]:
        assert provider.inputs["region"] == self._account.region
        self._account.default_tags = json.loads(provider.inputs["defaultTags"])["tags"]
        return {}

    def _make(self, resource: Registered) -> Mapping[str, Any]:
        id_, state = self._account.create(resource.type, resource.values)
        self._states[resource.urn] = id_, state
        # Inputs stay as they are: some are secret.
        return {"id": id_, **{key: value for key, value in state.items() if key not in resource.inputs}}
