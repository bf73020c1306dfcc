"""An application whose pages refer to a file by the name that the build gave it; counts what it is asked for itself."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSION = "1"
NAMES = json.loads((Path(__file__).parent / "out" / "names.json").read_text())


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    if environ["PATH_INFO"].startswith("/static/"):
        with Path(os.environ["STATE_DIRECTORY"], "asked").open("a") as asked:
            asked.write(environ["PATH_INFO"] + "\n")
    start_response("200 OK", [("Content-Type", "application/json")])
    page = {"version": VERSION, "file": f"/static/{NAMES['app.css']}", "server": os.environ["WSGI_FLEET_SERVER"]}
    return [json.dumps(page).encode()]
