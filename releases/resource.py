"""The rollout as a resource: Pulumi decides when one is due, releases.rollout does it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CheckResult, CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from platforms import Reach, Store, connect
from releases.release import Release
from releases.rollout import Plan, Rollout, RolloutError, Server, current

# What makes another rollout due; everything else is how it is done.
DUE = ("release", "servers")


class _Provider(ResourceProvider):
    serialize_as_secret_always = False

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        return CheckResult(news, [])

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=any(_olds.get(key) != _news.get(key) for key in DUE))

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["app"], _roll_out(props))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_roll_out(_news))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """What the store names is what serves; somebody may have gone back to another release."""
        serving = current(connect.store(props["store"]))
        return ReadResult(id_, {**{key: props[key] for key in ("app", "servers", "store")}, "release": serving or ""})


def _roll_out(props: Mapping[str, Any]) -> dict[str, Any]:
    """Do it; the outputs hold nothing secret, since a dynamic resource's outputs stand in plain in the state."""
    plan = Plan(
        app=props["app"],
        release=Release.load(Path(props["package"])),
        servers=[Server(server["name"], server["target"]) for server in props["servers"]],
        secrets=props["secrets"],
        **{key: int(value) for key, value in props["limits"].items()},
    )
    try:
        Rollout(plan, connect.transport(props["reach"]), connect.store(props["store"]), _say).run()
    except RolloutError as error:
        # Pulumi prints a traceback around it; the text alone says what happened.
        sys.tracebacklimit = 0
        raise RolloutError(str(error)) from None
    return {**{key: props[key] for key in ("app", "servers", "store")}, "release": props["release"]}


def _say(text: str) -> None:
    """The engine shows what a provider prints."""
    print(text, file=sys.stderr, flush=True)


class RolloutResource(Resource, module="releases", name="Rollout"):
    """release: id that serves when it is done. package: folder with what Release.save() wrote."""

    app: pulumi.Output[str]
    release: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        app: str,
        release: pulumi.Input[str],
        package: pulumi.Input[str],
        servers: Sequence[Mapping[str, pulumi.Input[str]]],
        secrets: pulumi.Input[Mapping[str, str]],
        limits: Mapping[str, int],
        reach: Reach,
        store: Store,
        opts: pulumi.ResourceOptions,
    ) -> None:
        props: dict[str, Any] = {
            "app": app,
            "release": release,
            "package": package,
            "servers": servers,
            "secrets": secrets,
            "limits": limits,
            "reach": reach.spec,
            "store": store.spec,
        }
        super().__init__(_Provider(), name, props, opts)
