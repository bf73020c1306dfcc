#!/usr/bin/env python3
r"""Writes Apache's access log as Nginx's is: a line of JSON for each request. Apache starts it and gives it the words.

Apache writes \xhh for what it does not print, and JSON has no such thing. It ends with the last worker that may
have something to say; a file that was rotated is left within a second. Standard library only.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

LOG = Path("/var/log/wsgi-fleet/access.log")
LOOK_S = 1.0
# As Apache escapes (ap_escape_logitem of server/util.c).
_ESCAPED = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_PLAIN = {b"b": b"\b", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def plain(word: bytes) -> str:
    """Return what the client sent; "" for what Apache does not know."""
    if word == b"-":
        return ""
    text = _ESCAPED.sub(
        lambda found: bytes.fromhex(found[1][1:].decode()) if len(found[1]) == 3 else _PLAIN.get(found[1], found[1]),
        word,
    )
    return text.decode(errors="replace")


def line_of(words: bytes) -> str:
    """Return the line for the words of one request, which are in the order of LogFormat in apache2.conf."""
    time_, rid, client, host, request, status, size, micros, worker, agent = map(
        plain, words.rstrip(b"\n").split(b"\t")
    )
    seconds = f"{int(micros) / 1e6:.3f}"
    method, _, rest = request.partition(" ")
    # The second word: the server that a spooled request (spooled.conf.j2) went to.
    upstream = next((name.rpartition("/")[2] for name in worker.split() if name != "-"), "")
    # A failed attempt has no time: then the status is Apache's own.
    times = {"header_s": "-" if status in ("502", "503", "504") else seconds, "response_s": seconds} if upstream else {}
    line: dict[str, Any] = {
        "time": f"{time_[:-2]}:{time_[-2:]}", "rid": rid, "client": client, "host": host, "method": method,
        "uri": rest.rpartition(" ")[0] or rest, "status": int(status), "bytes": int(size), "seconds": float(seconds),
        "upstream": upstream, "upstream_status": status if upstream else "", "connect_s": "", "header_s": "",
        "response_s": "", **times, "agent": agent,
    }  # fmt: skip
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def main() -> None:
    """Write a line for each request on standard input, to a new file once the log was rotated."""
    # A reload ends the program of the log before the workers that write to it; they close it when they have gone.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    file, looked = open_log(), time.monotonic()
    for words in sys.stdin.buffer:
        if time.monotonic() - looked > LOOK_S:
            looked = time.monotonic()
            # www-data may not make it: logrotate does.
            if LOG.exists() and LOG.stat().st_ino != os.fstat(file).st_ino:
                os.close(file)
                file = open_log()
        try:
            line = line_of(words)
        except ValueError as error:
            line = json.dumps({"time": "", "status": 0, "seconds": 0, "problem": f"{error}: {words!r}"}) + "\n"
        os.write(file, line.encode(errors="replace"))


def open_log() -> int:
    """Open the log for appending and return its file descriptor."""
    return os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)


if __name__ == "__main__":
    main()
