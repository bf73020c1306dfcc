"""Make the pictures of docs/ of a fleet of their own under load: `python -m harness.pictures`, or `make pictures`.

Nothing in them is made up, so each run draws other lines. They need LXD, and take three minutes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Generator
from io import StringIO
from pathlib import Path

from rich.console import Console

from commands.history import History
from commands.observation import observe_all
from commands.release_report import build
from commands.target import find
from commands.top import BUCKET_S, render, traffic
from harness.load import Load
from harness.stack import ROOT, Stack
from platforms.lxd import label
from platforms.lxd.cleanup import remove_leftovers
from releases.journal import read_movement
from rendering.release_report import timeline_picture

TOP, REPORT = ROOT / "docs" / "top.svg", ROOT / "docs" / "report.svg"
WIDTH, MINUTES = 100, 2
APP = "def app(environ: Environ, start_response: StartResponse) -> list[bytes]:\n"
# Every third request, but for the health path.
FAILS = APP + '    if environ["PATH_INFO"] != "/healthz" and os.urandom(1)[0] % 3 == 0:\n        raise RuntimeError\n'


@contextlib.contextmanager
def running_fleet() -> Generator[Stack]:
    """Yield three servers that serve; end in the folder and the environment of their stack meanwhile."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        stack = Stack.make("pictures", Path(folder), health_path="/healthz", rollout={"bake_s": 10})
        stack.settings["apps"] = {"shop": stack.settings["apps"]["probe"]}
        before = dict(os.environ)
        # People release, and pictures name them.
        os.environ |= stack.environment() | {"LOGNAME": "ann", "FLEET_STACK": stack.name}
        try:
            stack.up()
            os.chdir(stack.folder)
            yield stack
        finally:
            os.environ.clear()
            os.environ.update(before)
            # It ends what works in the stack's folder.
            os.chdir(ROOT)
            stack.end_processes()
            remove_leftovers(label.owner(stack.name, stack.folder))
            shutil.rmtree(stack.folder, ignore_errors=True)


def draw_top(stack: Stack) -> str:
    """Return what a terminal shows, as SVG."""
    screen = Console(record=True, width=WIDTH, force_terminal=True, highlight=False, file=StringIO())
    target = find(stack.name, None)
    history = History(BUCKET_S, MINUTES * 60)
    traffic(target, history, MINUTES * 60 + BUCKET_S)
    screen.print(render(observe_all([target]), history, screen, WIDTH))
    svg = screen.export_svg(title="./fleet top")
    # Fonts that it would load from elsewhere.
    return re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL)


def main() -> None:
    """Write both pictures."""
    with running_fleet() as stack, Load(stack.url, slow_s=(0.2,)) as load:
        # A server that is drained for a while: lines that differ.
        load.wait_for(2000)
        stack.fleet("drain", "shop-2")
        time.sleep(15)
        stack.fleet("admit", "shop-2")
        stack.edit(APP, FAILS)
        stack.up(fails=True)
        load.wait_for(1000)
        target = find(stack.name, None)
        movement = read_movement(target.store, "")
        assert movement, "the release left no journal"
        pictures = {TOP: draw_top(stack), REPORT: timeline_picture(build(target, movement))}
    for file, svg in pictures.items():
        file.write_text(svg.replace(stack.name, "prod").replace(f"@{socket.gethostname()}", "@desk"))


if __name__ == "__main__":
    main()
