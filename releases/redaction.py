"""Takes secrets out of texts that people read, keep and hand on, and what would control their terminals."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from settings.limits import MIN_SECRET_CHARS

REMOVED = "[removed]"
# A line of a secret with several lines: logs add a prefix to each.
LINE_LENGTH = 6
# What a terminal may obey; not the ends of lines, and not a tab.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def escape_control(text: str) -> str:
    r"""Return the text with \x1b for an escape, and so on: the colours of an application are not the operator's."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class Redaction:
    """Knows secrets, and every usual way of writing them down.

    Secrets shorter than MIN_SECRET_CHARS stay: of "1", the gaps in a text would tell more than the text does.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if len(secret.strip()) >= MIN_SECRET_CHARS for form in _forms(secret)}
        # The longest first: one secret may be a part of another.
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def clean(self, text: str) -> str:
        """Return the text with each secret replaced by [removed]."""
        return self._pattern.sub(REMOVED, text) if self._pattern else text


def _forms(secret: str) -> Iterator[str]:
    lines = [line.strip() for line in secret.splitlines()]
    parts = [line for line in lines if len(line) >= LINE_LENGTH] if len(lines) > 1 else []
    for value in filter(None, [secret, secret.strip(), *parts]):
        yield value
        for ascii_only in (True, False):
            yield json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield repr(value)[1:-1]
        yield html.escape(value)
        # systemd.exec(5), EnvironmentFile; and the form of a shell script.
        yield re.sub(r'(["\\`$])', r"\\\1", value)
        yield quote(value, safe="")
        yield quote(value)
        yield quote_plus(value)
        yield base64.b64encode(value.encode()).decode()
