#!/usr/bin/env python3
"""Ships this machine's logs to CloudWatch Logs: each line at least once, with low priority.

A service that never ends: read on from where it was, send, remember. It keeps one batch in memory and one position on
disk. Lines wait in the journal and in the log file themselves. Standard library only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aws_service import Refused, Service
from log_source import Event, Position, RotatedFile, Source, SystemdJournal
from system import notify_systemd, write_atomically

# Configuration written by the step that installs this script: the group, and either file or units.
CONFIG = Path("/etc/wsgi-fleet/logs.json")
VERSION = "Logs_20140328"
# docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html: a batch has at most 1,048,576
# bytes with 26 for each event, 10,000 events of 262,144 bytes, and spans 24 hours.
BATCH_BYTES, BYTES_PER_EVENT, BATCH_EVENTS, EVENT_BYTES, BATCH_MS = 1_000_000, 26, 10_000, 250_000, 23 * 3_600_000
# What is read at a time: as JSON it grows, and the journal's is larger than what is sent of it.
READ_BYTES = 512 << 10
IDLE_S = 5.0
PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0


def make_batches(events: Sequence[Event]) -> list[list[dict[str, Any]]]:
    """Return events in batches as PutLogEvents takes them.

    They are in the order of their times, none too long, and as many at once as it allows.
    """
    batches: list[list[dict[str, Any]]] = []
    size, first_ms = 0, 0
    for event in sorted(events, key=lambda each: each.time_ms):
        text = event.message.encode()
        if len(text) > EVENT_BYTES:
            text = text[:EVENT_BYTES].decode(errors="ignore").encode()
        size += len(text) + BYTES_PER_EVENT
        is_full = bool(batches) and (
            size > BATCH_BYTES or len(batches[-1]) == BATCH_EVENTS or event.time_ms - first_ms > BATCH_MS
        )
        if not batches or is_full:
            batches.append([])
            size, first_ms = len(text) + BYTES_PER_EVENT, event.time_ms
        batches[-1].append({"timestamp": event.time_ms, "message": text.decode()})
    return batches


class Stream:
    """The log stream of this machine in a log group; named after the machine."""

    def __init__(self, group: str, service: Service) -> None:
        self._service = service
        self._names = {"logGroupName": group, "logStreamName": service.machine}

    def ensure(self) -> None:
        """Create it, if it is missing. The group exists: this role may write into it, but not create it."""
        try:
            self._service.ask(VERSION, "CreateLogStream", self._names)
        except Refused as error:
            if error.code != "ResourceAlreadyExistsException":
                raise

    def send(self, events: Sequence[dict[str, Any]]) -> None:
        """Send a batch. Log and skip what CloudWatch rejects for good: it must not block the rest."""
        try:
            response = self._service.ask(VERSION, "PutLogEvents", {**self._names, "logEvents": list(events)})
        except Refused as error:
            if error.code != "InvalidParameterException":
                raise
            if len(events) == 1:
                log(f"a line was rejected: {error}")
                return
            half = len(events) // 2
            self.send(events[:half])
            self.send(events[half:])
            return
        if rejected := response.get("rejectedLogEventsInfo"):
            log(f"lines were too old or too new: {rejected}")


class PositionFile:
    """The position of the reader, kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def load(self) -> Position:
        """Return the position; {} where nothing was read yet, or where the power failed while this was written."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads(self._file.read_text())
        return {}

    def save(self, position: Position) -> None:
        """Write it atomically."""
        write_atomically(self._file, json.dumps(position).encode())


def ship_next_part(source: Source, stream: Stream, state: PositionFile, position: Position) -> Position:
    """Ship the next part. The position moves after what is before it was taken."""
    events, after = source.read(position, READ_BYTES)
    for batch in make_batches(events):
        stream.send(batch)
    if after != position:
        state.save(after)
    return after


def log(text: str) -> None:
    """Print a text on standard error at once."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Ship this machine's logs for ever; after an error, try again with longer and longer pauses."""
    config = json.loads(CONFIG.read_text())
    source = RotatedFile(Path(config["file"])) if "file" in config else SystemdJournal(config["units"])
    state = PositionFile(Path(os.environ["STATE_DIRECTORY"]) / "position.json")
    position, stream, pause = state.load(), None, PAUSE_S
    while True:
        try:
            if stream is None:
                stream = Stream(config["group"], Service("logs"))
                stream.ensure()
                # Lines can be shipped from now on.
                notify_systemd(b"READY=1")
            after = ship_next_part(source, stream, state, position)
            wait = 0.0 if after != position else IDLE_S
            position, pause = after, PAUSE_S
        except (OSError, ValueError, http.client.HTTPException, Refused) as error:
            log(f"nothing was shipped; again in {pause:.0f} s: {error}")
            # Whatever it was, the stream may be gone as well.
            stream, wait, pause = None, pause, min(pause * 2, LONGEST_PAUSE_S)
        time.sleep(wait)


if __name__ == "__main__":
    main()
