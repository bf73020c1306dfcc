"""A worker with a process of its own, which it ends by itself. Each notes its name when it gets SIGTERM."""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

NOTES = Path(os.environ["STATE_DIRECTORY"], "stopped")


def note(name: str) -> None:
    with NOTES.open("a") as file:
        file.write(f"{os.environ['WSGI_FLEET_RELEASE']} {name}\n")


def stop(_number: int, _frame: FrameType | None) -> None:
    # As long as a job that it finishes.
    time.sleep(2)
    note(sys.argv[1])
    sys.exit(0)


def note_child(_number: int, _frame: FrameType | None) -> None:
    note(f"child of {sys.argv[1]}")


child = os.fork()
if child:
    signal.signal(signal.SIGTERM, stop)
else:
    signal.signal(signal.SIGTERM, note_child)
print(f"{sys.argv[1]} works", flush=True)
while True:
    time.sleep(0.2)
