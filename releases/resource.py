"""The rollout as a resource: Pulumi decides when one is due, releases.rollout does it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

import platforms
from platforms import STATE, ConnectionSpec, operator
from platforms.provider import log, without_traceback
from platforms.server_group import Phase, ServerGroupError
from platforms.transport import PrefixStore, Store, Transport
from releases import pointers
from releases.archive import SourceError
from releases.client_watch import ClientLimits
from releases.drift import ENDED, UNKNOWN, find_drift, find_strays, proxy_state
from releases.fleet import Server
from releases.group_rollout import GroupRollout
from releases.hooks import Hooks
from releases.live import LiveServers, server_name
from releases.plan import Plan
from releases.release import Release, build
from releases.rollout import REMEDY, Rollout, RolloutError

if TYPE_CHECKING:
    # What reads a source is the program's; a provider must not load it.
    from releases.source import Source

# Changes of these start a rollout, as does drift of the fleet; other properties only say how it is done.
TRIGGER_KEYS = ("release", "servers", "group", "static")
STATE_KEYS = ("app", "servers", "group", "balancer", "static", "store")
# A limit that is a text as well: "25%".
BATCH = "batch_size"
# As long as Nginx and Apache may take by their units.
START_PROXY_S = 100
# Seconds that collecting a bundle may take.
BUNDLE_S = 120
# Bundles of failed releases that a stack keeps here; each is bounded by commands/bundle.py.
BUNDLES = 3


class _Provider(ResourceProvider):
    serialize_as_secret_always = False

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Implement ResourceProvider.check: reject a release that an operator went back from, at preview already."""
        release = news.get("release")
        if isinstance(release, str) and _olds and _olds.get("store") == news.get("store"):
            rejection = pointers.rejection(_store(news), release)
            if rejection:
                return CheckResult(news, [CheckFailure("release", str(rejection))])
        return CheckResult(news, [])

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # A balancer in place of another needs the static files.
        keys = (*TRIGGER_KEYS, "balancer") if _news["static"] else TRIGGER_KEYS
        due = any(_olds.get(key) != _news.get(key) for key in keys)
        return DiffResult(changes=due or _has_drifted(_olds, _news))

    def create(self, props: dict[str, Any]) -> CreateResult:
        outs = _roll_out(props, operator.transport(props["reach"]))
        id_ = f"{props['app']}-{token_hex(4)}"
        pointers.claim(_store(props), id_)
        return CreateResult(id_, outs)

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        transport = operator.transport(_news["reach"])
        if _news.get("balancer") and _olds.get("balancer") == _news["balancer"]:
            _start_proxy(_news, transport)
        return UpdateResult(_roll_out(_news, transport))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Implement ResourceProvider.read: report the release that the store names as the one that serves.

        An operator may have gone back to another release.
        """
        store = _store(props)
        serving = pointers.current(store) or ""
        return ReadResult(
            id_, {**_state_of(props), "release": serving, "manual_changes": pointers.manual_changes(store)}
        )

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Implement ResourceProvider.delete: the application has left the stack.

        Delete all that it has in the store, and where servers find secrets.
        """
        store, secrets = _store(_props), operator.secrets(_props["store"], _props["app"])
        if not pointers.is_owned(store, _id):
            return
        if secrets:
            for release in secrets.releases():
                secrets.delete(release)
        for key in store.keys(""):
            store.delete(key)


def _has_drifted(olds: Mapping[str, Any], news: Mapping[str, Any]) -> bool:
    """Return whether the fleet differs from the state, and print why. Check the store first, then the servers."""
    release = str(olds["release"])
    why = find_drift(_store(olds), release, int(olds["manual_changes"]))
    found = [why] if why else find_strays(news["reach"], _servers_now(olds), olds.get("balancer"), release)
    for line in found:
        log(f"{olds['app']}: {line}: `up` puts it right")
    return bool(found)


def _servers_now(props: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    """Return the servers of the state, or the current ones of a group. [] if it cannot be queried."""
    group: Mapping[str, Any] | None = props.get("group")
    if not group or UNKNOWN in json.dumps(group, default=repr):
        return props["servers"]
    try:
        members = operator.server_group(group).members()
    except ServerGroupError:
        return []
    serving = [member for member in members if member.phase is Phase.SERVING]
    return [{"name": server_name(props["app"], member), "target": member.target} for member in serving]


def _start_proxy(props: Mapping[str, Any], transport: Transport) -> None:
    """Start the proxy of a balancer that was there before, where an operator stopped it. Raises RolloutError."""
    balancer = props["balancer"]
    name, unit = balancer["name"], balancer["unit"]
    if proxy_state(transport, balancer) not in ENDED:
        return
    result = transport.exec(balancer["target"], ["systemctl", "start", unit], timeout_s=START_PROXY_S)
    if result.exit_code:
        remedy = f"`journalctl -u {unit}` on {name} says why"
        raise without_traceback(RolloutError(f"{name}: {unit} does not start: {result.output.strip()}\n{remedy}"))
    log(f"{props['app']}: {name}: {unit} was started again")


def _store(props: Mapping[str, Any]) -> Store:
    return PrefixStore(operator.store(props["store"]), props["app"])


def _roll_out(props: Mapping[str, Any], transport: Transport) -> dict[str, Any]:
    """Build the release and roll it out. The state contains outputs unencrypted, so none is secret."""
    with tempfile.TemporaryDirectory(prefix="wsgi-fleet-") as folder:
        file = Path(folder, "code.tar.gz")
        try:
            release = build(Path(props["source"]), props["manifest"].encode(), file, state=Path.cwd() / STATE)
        except SourceError as error:
            raise without_traceback(error) from None
        return _roll_out_release(props, transport, release)


def _roll_out_release(props: Mapping[str, Any], transport: Transport, release: Release) -> dict[str, Any]:
    """Roll a release out. Return the outputs of the resource."""
    limits = dict(props["limits"])
    batch, before_proof = limits.pop(BATCH), bool(limits.pop("task_before_proof"))
    live = LiveServers(props["app"], operator.server_group(props["group"]), log) if props.get("group") else None
    plan = Plan(
        app=props["app"],
        release=release,
        servers=_servers_of_group(live)
        if live
        else [Server(each["name"], each["target"]) for each in props["servers"]],
        balancer=Server(props["balancer"]["name"], props["balancer"]["target"]) if props["static"] else None,
        client_limits=_client_limits(props),
        keeps_static="self_healing" in (props.get("balancer") or ()),
        # Of none, Output.all() makes a list.
        secrets=dict(props["secrets"]),
        revision=props["revision"],
        batch_size=batch if isinstance(batch, str) else int(batch),
        task_before_proof=before_proof,
        **{key: int(value) for key, value in limits.items()},
    )
    store = _store(props)
    # Before it begins: a hand that moves the fleet meanwhile makes the next `up` look again.
    if pointers.manual_changes(store) < 0:
        pointers.count_manual_change(store)
    manual_changes = pointers.manual_changes(store)
    try:
        secrets = operator.secrets(props["store"], props["app"])
        hooks = Hooks(props.get("hooks") or {}, stack=props["stack"], log=log)
        if live:
            GroupRollout(plan, transport, store, log, secrets, hooks=hooks, live=live).run()
        else:
            Rollout(plan, transport, store, log, secrets, hooks=hooks).run()
    except RolloutError as error:
        log(f"{props['app']}: collects what support would ask for, in {BUNDLE_S} s at most")
        # What to do comes last.
        raise without_traceback(RolloutError("\n".join([error.cause, *_bundle(props)]), error.remedy)) from None
    return {**_state_of(props), "release": props["release"], "manual_changes": manual_changes}


def _client_limits(props: Mapping[str, Any]) -> ClientLimits | None:
    """Return by what a release is judged; None where nothing is, or the balancer is no machine."""
    limits: Mapping[str, Any] = props.get("client_limits") or {}
    if not props.get("balancer") or all(limits.get(key) is None for key in ("max_error_percent", "max_latency_ratio")):
        return None
    return ClientLimits(front=Server(props["balancer"]["name"], props["balancer"]["target"]), **limits)


def _servers_of_group(live: LiveServers) -> list[Server]:
    try:
        return live.wait()
    except ServerGroupError as error:
        raise without_traceback(RolloutError(str(error), REMEDY)) from None


def _state_of(props: Mapping[str, Any]) -> dict[str, Any]:
    return {key: props[key] for key in STATE_KEYS if key in props}


def _bundle(props: Mapping[str, Any]) -> list[str]:
    """Save a support bundle of the present state, and return its path. [] if that is impossible: before the first `up`.

    By the operator's command as a program: what a person can run, with no way from here into it.
    """
    file = Path.cwd() / STATE / props["stack"] / f"failed-{props['release']}.tar.gz"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    earlier = sorted(set(file.parent.glob("failed-*.tar.gz")) - {file}, key=lambda path: path.stat().st_mtime)
    for old in earlier[: 1 - BUNDLES]:
        old.unlink(missing_ok=True)
    options = ["--stack", props["stack"], "--app", props["app"], "--output", str(file)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "commands", "bundle", *options],
            check=False, capture_output=True, timeout=BUNDLE_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [f"What support would ask for is in {file.relative_to(Path.cwd())}."] if done.returncode == 0 else []


class RolloutResource(Resource, module="releases", name="Rollout"):
    """release: id that serves when it is done. manifest: of that release, which is built from source.

    group: a ServerGroup.spec, whose servers are listed when it runs; then servers is empty.
    limits: the fields of Plan that are numbers, batch_size and task_before_proof. balancer: as one of servers, and the
    unit of its proxy, which is started where somebody stopped it; None where it is no machine. It has "self_healing"
    where another one takes its place by itself. static: whether it serves static files; each other one gets them.
    hooks: as releases.hooks.Hooks has them. client_limits: the fields of ClientLimits but front.
    """

    app: pulumi.Output[str]
    release: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        app: str,
        release: pulumi.Input[str],
        manifest: pulumi.Input[str],
        source: Source,
        servers: Sequence[Mapping[str, pulumi.Input[str]]],
        secrets: pulumi.Input[Mapping[str, str]],
        limits: Mapping[str, int | str],
        reach: ConnectionSpec,
        store: platforms.Store,
        hooks: Mapping[str, Mapping[str, Any]],
        balancer: Mapping[str, pulumi.Input[str]] | None,
        static: bool,
        client_limits: Mapping[str, pulumi.Input[Any]],
        group: Mapping[str, pulumi.Input[Any]] | None = None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        props: dict[str, Any] = {
            "app": app,
            "release": release,
            "manifest": manifest,
            "source": str(source.path),
            "revision": source.revision,
            "stack": pulumi.get_stack(),
            "servers": servers,
            "group": group,
            "secrets": secrets,
            "limits": limits,
            "reach": reach.spec,
            "store": store.spec,
            "hooks": pulumi.Output.secret(hooks),
            "balancer": balancer,
            "static": static,
            "client_limits": client_limits,
        }
        super().__init__(_Provider(), name, props, opts)
