"""The present servers of Auto Scaling groups, and those that are dead for so long that they must be replaced.

upstream_health.py uses it to query AWS regularly. proxy_site.py reads the result from a file. If AWS does not
respond, nothing changes. Standard library only.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from group_members import FILE, Members, groups_of
from server_health import Server
from site_state import State
from system import write_atomically

if TYPE_CHECKING:
    from scaling_groups import ScalingGroups

# Names of groups, installed with this script; missing where there is none.
GROUPS = Path("/etc/wsgi-fleet/groups.json")
# Seconds between two calls; without a response until that is reported; after which a dead server is replaced. A
# rollback or a boot takes less.
ASK_S, SILENT_S, CONDEMN_S = 5.0, 30.0, 180.0
# Seconds until a replacement is requested again.
AGAIN_S = 60.0


class Membership:
    """members: group -> its members, as AWS listed them last."""

    def __init__(self, now: float) -> None:
        self._names: list[str] = json.loads(GROUPS.read_text()) if GROUPS.exists() else []
        self.members: dict[str, Members] = {}
        self._asking: asyncio.Task[None] | None = None
        self._due = self._responded_at = now
        self._error = ""
        self._client: ScalingGroups | None = None
        self._condemned: dict[str, float] = {}

    def ask(self, state: State, servers: Mapping[str, Server], now: float) -> None:
        """Begin to ask AWS, where that is due. servers: health by address."""
        if self._names and now >= self._due and (self._asking is None or self._asking.done()):
            self._due = now + ASK_S
            self._asking = asyncio.create_task(self._ask(dead_members(state, servers, now), now))

    def differs(self, state: State) -> bool:
        """Return whether the site has other servers than the groups that it names."""
        return any(self.members.get(name, members) != members for name, members in groups_of(state).items())

    def problem(self, now: float) -> str:
        """Return why the groups are not known as they are now; "" where they are, or were a moment ago."""
        silent_s = now - self._responded_at
        if self._error and silent_s >= SILENT_S:
            since = datetime.fromtimestamp(time.time() - silent_s, UTC)
            return f"the servers of groups are not known since {since:%H:%M:%S} UTC: {self._error}"
        missing = ", ".join(name for name in self._names if name not in self.members)
        return f"AWS has no Auto Scaling group {missing}; `pulumi up` makes it" if missing and not self._error else ""

    async def _ask(self, dead: Sequence[str], now: float) -> None:
        from aws_service import Refused  # noqa: PLC0415  only balancers of groups have it

        try:
            members = await asyncio.to_thread(self._query, dead, now)
        except (Refused, OSError, http.client.HTTPException, ElementTree.ParseError) as error:
            if str(error) != self._error:
                print(f"error: AWS does not name the servers of groups, which stay as they are: {error}", flush=True)
            self._error = str(error) or type(error).__name__
            return
        self._error, self._responded_at = "", now
        if members != self.members or not FILE.exists():
            write_atomically(FILE, json.dumps(members).encode())
        self.members = members

    def _query(self, dead: Sequence[str], now: float) -> dict[str, Members]:
        """Return what the groups have in service, and have them replace the dead. Runs in a thread of its own."""
        from aws_service import Refused  # noqa: PLC0415  only balancers of groups have it
        from scaling_groups import ScalingGroups  # noqa: PLC0415  the same

        self._client = self._client or ScalingGroups()
        members: dict[str, Members] = dict(self._client.in_service(self._names))
        ids = {id_ for each in members.values() for id_ in each.values()}
        self._condemned = {id_: at for id_, at in self._condemned.items() if id_ in ids}
        for id_ in [each for each in dead if each in ids]:
            if now - self._condemned.get(id_, now - AGAIN_S) >= AGAIN_S:
                self._condemned[id_] = now
                print(f"{id_} is dead for {CONDEMN_S:.0f} s: its group is to replace it", flush=True)
                try:
                    self._client.condemn(id_)
                except Refused as error:
                    print(f"error: {id_} is not replaced: {error}", flush=True)
        return members


def dead_members(state: State, servers: Mapping[str, Server], now: float) -> list[str]:
    """Return the instances that are unhealthy for CONDEMN_S, and that no operator drained.

    None of a group with more than half of its servers unhealthy: that is an outage of the application or the network,
    which other machines would not cure.
    """
    found: list[str] = []
    for members in groups_of(state).values():
        present = {address: servers[address] for address in members if address in servers}
        unhealthy = [address for address, each in present.items() if not each.is_healthy]
        if 2 * len(unhealthy) <= len(members):
            found += [
                members[address]
                for address in unhealthy
                if address not in state.drained and now - present[address].since >= CONDEMN_S
            ]
    return found
