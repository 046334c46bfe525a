"""What a terminal is shown of texts that hosts, engines and servers had a part in: no control characters."""

from __future__ import annotations


def printable(text: str) -> str:
    """The same lines, with ``?`` for what would move a cursor, set a colour or hide other text."""
    return "".join(c if c.isprintable() or c == "\n" else " " if c == "\t" else "?" for c in text)
