"""What a launcher loads: the callable of a module, or what a factory returns."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from gateway_loader import load_application

APP = """
class Holder:
    def app(self): return "app"

holder = Holder()

def make(*names, **options):
    return lambda: (names, options)
"""


MADE = ("prod", "b", 2), {"debug": True, "ratio": -1.5}
NAMES: dict[str, object] = {
    "loaded_app:holder.app": "app",
    "loaded_app:make()": ((), {}),
    "loaded_app:make(\"prod\", 'b', 2, debug=True, ratio=-1.5)": MADE,
}


@pytest.mark.parametrize(("name", "returned"), NAMES.items())
def test_a_callable_is_taken_and_a_factory_is_called(
    name: str, returned: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loaded_app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_application(name)() == returned
    with pytest.raises(TypeError, match=r"loaded_app:holder is Holder, which is no WSGI application"):
        load_application("loaded_app:holder")
    del sys.modules["loaded_app"]
