"""What a message adds when a name is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'adam'? Known: 'adam', 'sgd'"``, or where nothing is close ``"; known: 'adam', 'sgd'"``."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"; did you mean {close[0]!r}? Known" if close else "; known"
    return f"{hint}: {', '.join(map(repr, names))}"
