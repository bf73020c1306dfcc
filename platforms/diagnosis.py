"""The result of a check: its subject is healthy, or what is wrong with it and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The result of one check. subject: what was checked. problem: "" when it is healthy. remedy: a whole sentence."""

    subject: str
    problem: str = ""
    remedy: str = ""
