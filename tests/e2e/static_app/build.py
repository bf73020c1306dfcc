"""The build: files as Django's collectstatic leaves them, of the version that the application has."""

import hashlib
import json
import os
import re
from pathlib import Path

version = re.findall(r'VERSION = "(.*)"', Path("pages.py").read_text())[0]
if "broken" in version:
    raise SystemExit(f"cannot build version {version}")
# What the unit promises: the environment of the release.
assert os.environ["T_PLAIN"] == "plain"
out = Path("out")
(out / "deep").mkdir(parents=True, exist_ok=True)
content = f"/* {version} */ " + "body { margin: 0 } " * 100
name = f"app.{hashlib.sha256(content.encode()).hexdigest()[:11]}a.css"
(out / name).write_text(content)
(out / "plain.css").write_text("p { color: red } " * 100)
(out / "deep" / "umlaut.js").write_text('const text = "Grüße";')
(out / ".hidden").write_text("nobody")
(out / "names.json").write_text(json.dumps({"app.css": name}))
out.chmod(0o777)
print(f"built {version}")
