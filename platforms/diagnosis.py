"""What a look at one thing found: it is well, or what is wrong with it and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """subject: what was looked at. problem: "" when it is well. remedy: a whole sentence."""

    subject: str
    problem: str = ""
    remedy: str = ""
