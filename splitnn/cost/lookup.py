"""Tables of named constants that a user picks from by name. Knows no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

_Value = TypeVar("_Value")


def look_up(name: str, table: Mapping[str, _Value], what: str) -> _Value:
    """The value of that name; ``what`` is what the table holds, in the singular.

    Raises:
        ValueError: there is none; the message lists the names, the nearest ones first.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name.lower().replace(" ", "-").replace("_", "-"), table, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"unknown {what} {name!r}: {hint}there are {', '.join(sorted(table))}")
