"""The settings of the program that runs the application."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from gateways import COMMON_SETTINGS, GATEWAYS
from settings.model import Model, reject

# Requests at a time in each process of greenlets, where none are named. They wait for others most of their time, and
# what they wait for (a database) rarely takes more from one process.
GREENLETS = 100
# Threads of each process, where none are named: enough for 15 requests at a time on one CPU (where `processes: auto` is
# two), as many as by Elastic Beanstalk's default. More would let more requests compete for each process's one CPU.
THREADS, THREADS_OF_ONE_PROCESS = 8, 16

# A Literal of the names in gateways/, for messages and the schema.
if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[tuple(GATEWAYS)]


class Gateway(Model):
    """The program that runs the application. All settings except `kind` are part of the release."""

    kind: Kind = Field(
        default="uwsgi", description="the program that runs the application; a change replaces the app servers"
    )
    processes: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = Field(
        default="auto", description='worker processes; "auto" is two for each CPU of the machine'
    )
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        default="auto",
        description=f'threads of each process; "auto" is {THREADS}, or {THREADS_OF_ONE_PROCESS} where processes is 1',
    )
    worker_class: Literal["sync", "gthread", "gevent"] | None = Field(
        default=None, description="Gunicorn's worker class; null: gthread, or sync where threads is 1"
    )
    greenlets: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description=f"requests at a time in each process, where they run in greenlets; null: {GREENLETS}"
    )
    request_timeout_s: int = Field(
        default=60,
        ge=1,
        le=300,
        description="a longer request is ended; other time-outs follow",
    )
    lazy_apps: bool = Field(default=False, description="import after fork, for applications that are not fork-safe")
    max_requests: int = Field(
        default=10_000, ge=100, le=1_000_000_000, description="requests after which a worker is replaced"
    )
    reload_on_rss_mib: int = Field(
        default=512, ge=64, le=1_048_576, description="memory in MiB at which a worker is replaced"
    )

    @property
    def thread_count(self) -> int:
        """Return the threads of each process, where requests run in threads."""
        if self.threads != "auto":
            return self.threads
        return THREADS_OF_ONE_PROCESS if self.processes == 1 else THREADS

    @property
    def gunicorn_worker(self) -> Literal["sync", "gthread", "gevent"]:
        """Return the worker class that Gunicorn gets."""
        return self.worker_class or ("sync" if self.threads == 1 else "gthread")

    @property
    def limits_memory(self) -> bool:
        """Return whether a worker that has grown above reload_on_rss_mib is replaced."""
        return "reload_on_rss_mib" not in GATEWAYS[self.kind].unused

    @property
    def runs_greenlets(self) -> bool:
        """Return whether requests run in greenlets, and not in threads."""
        return GATEWAYS[self.kind].runs_greenlets or (self.kind == "gunicorn" and self.gunicorn_worker == "gevent")

    @property
    def concurrency(self) -> int:
        """Return how many requests each process runs at a time."""
        if self.runs_greenlets:
            return self.greenlets or GREENLETS
        return 1 if self.kind == "gunicorn" and self.gunicorn_worker == "sync" else self.thread_count

    @property
    def streaming_problem(self) -> str:
        """Return why the gateway cannot stream responses; "" if it can."""
        if self.kind == "gunicorn" and self.gunicorn_worker == "sync":
            return (
                "a sync worker of Gunicorn would be held by one client, and ended; worker_class gthread or gevent can"
            )
        return GATEWAYS[self.kind].no_streaming

    @model_validator(mode="after")
    def _reject_unused_settings(self) -> Gateway:
        kind = GATEWAYS[self.kind]
        unused = {name: f"{kind.title} does not support it: {why}" for name, why in kind.unused.items()}
        if self.kind == "gunicorn":
            unused |= self._unused_by_worker_class()
        # null is the default choice.
        settings = sorted(name for name in self.model_fields_set - COMMON_SETTINGS if getattr(self, name) is not None)
        wrong = {name: json.dumps(getattr(self, name)) for name in settings if name in unused}
        reject(
            *[
                f"{name}: {value}: {unused[name]}{'; remove it' * (';' not in unused[name])}"
                for name, value in wrong.items()
            ]
        )
        return self

    def _unused_by_worker_class(self) -> dict[str, str]:
        """Return the settings that a worker of Gunicorn has no use for, each with the reason."""
        if self.gunicorn_worker == "gevent":
            return {
                "threads": "a gevent worker runs requests in greenlets; their number is greenlets",
                "lazy_apps": "gevent workers always import after fork",
            }
        unused = {"greenlets": f"a {self.gunicorn_worker} worker has none; worker_class: gevent has"}
        if self.worker_class == "sync" and self.threads != 1:
            unused["threads"] = "a sync worker has one; worker_class: gthread has more"
        return unused
