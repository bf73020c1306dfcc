"""Names that an operator may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggest(word: str, candidates: Sequence[str]) -> str:
    """Suggest the name that the operator may have meant, else list those that there are.

    Names that are equally near (hello-1 and hello-2) are listed.
    """
    near = difflib.get_close_matches(word, candidates, n=2)
    ratios = [difflib.SequenceMatcher(None, each, word).ratio() for each in near]
    is_clear = len(near) == 1 or (len(near) == 2 and ratios[0] > ratios[1])
    return f"did you mean {near[0]}?" if is_clear else f"there are: {', '.join(candidates)}"
