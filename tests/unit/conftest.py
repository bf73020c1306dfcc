"""What all unit tests share."""

from __future__ import annotations

import hypothesis

# No test fails for being slow: machines differ, and a busy one is not wrong.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")
