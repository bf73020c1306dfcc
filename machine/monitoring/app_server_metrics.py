"""Say how this app server is, as metrics: its releases, workers, queue and health. Standard library only."""

from __future__ import annotations

import app_status
from app_status import PROCESS_PORTS
from common import LIVE, SLOTS, store_url
from exposition import Metrics
from fetch import fetch
from slot_layout import STATES, process_layout, slot_states
from symlinks import link_target
from wanted_release import WantedRelease


class AppServer:
    """The source of the metrics of an app server. app: the name of its application."""

    def __init__(self, app: str) -> None:
        self._app, self._wanted = app, WantedRelease(read_pointer)
        # The release that is live, and those that run, at the last look at the slots.
        self._releases: set[str | None] = set()
        self.parts = {
            "slots": self.add_slots, "queue": self.add_queue, "restarts": self.add_restarts, "drift": self.add_drift,
        }  # fmt: skip

    def add_slots(self, metrics: Metrics) -> None:
        """Add the slots, what runs in them, and the health of the one that serves."""
        app, live = self._app, link_target(LIVE)
        if live:
            metrics.add("release_live_timestamp_seconds", LIVE.lstat().st_mtime, app=app)
        states = slot_states()
        running = [slot for slot, state in states.items() if state == "active"]
        self._releases = {live or "", *(link_target(SLOTS / slot) for slot in running)}
        for slot, state in states.items():
            release = link_target(SLOTS / slot)
            metrics.add_state("slot_state", state, STATES, app=app, slot=slot)
            if state != "active" or not release:
                continue
            metrics.add("release_info", 1, app=app, release=release, slot=slot)
            if gateway := app_status.gateway_status(slot):
                busy, threads = gateway["threads_busy"], gateway["threads"]
                metrics.add("workers", gateway["workers_busy"], app=app, slot=slot, state="busy")
                metrics.add("workers", gateway["workers_idle"], app=app, slot=slot, state="idle")
                metrics.add("threads", busy, app=app, slot=slot, state="busy")
                metrics.add("threads", max(threads - busy, 0), app=app, slot=slot, state="idle")
            if release == live:
                metrics.add("app_healthy", app_status.check_health(slot)["status"] == 200, app=app)

    def add_queue(self, metrics: Metrics) -> None:
        """Add the connections that wait, where the port listens."""
        queue = app_status.accept_queue(PROCESS_PORTS if process_layout()[1] else ())
        if queue is not None:
            metrics.add("accept_queue_connections", queue, app=self._app)

    def add_restarts(self, metrics: Metrics) -> None:
        """Add how often units were restarted; those that never were as well, so that Prometheus sees the first."""
        for unit, times in app_status.list_restarts().items():
            metrics.add("restarts_total", times, app=self._app, unit=unit)

    def add_drift(self, metrics: Metrics) -> None:
        """Add whether another release is live or runs than the store names. add_slots() comes before it."""
        is_drift = self._wanted.is_drift(self._releases)
        if is_drift is not None:
            metrics.add("release_drift", is_drift, app=self._app)


def read_pointer() -> str:
    """Return the release that the store names; "" where there is none yet. Raises FetchError."""
    return fetch(store_url(), "pointer", missing_ok=True).decode(errors="replace").strip()
