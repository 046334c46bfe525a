"""Passive health: what the last answers say about each replica. No clock, no I/O.

A replica looks down after ``THRESHOLD`` failures in a row; it is then tried last, never left out. A success brings
it back at once; a probe that is answered brings it back on parole: one more failure and it looks down again.
"""

from __future__ import annotations

THRESHOLD = 3


class Health:
    """Consecutive failures per replica, and the set of those that look down."""

    __slots__ = ("down", "failures")

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.down: set[str] = set()

    def succeeded(self, target: str) -> None:
        """The replica answered properly."""
        if self.failures.get(target):
            self.failures[target] = 0
            self.down.discard(target)

    def failed(self, target: str) -> None:
        """The replica failed a request that was its own to answer."""
        count = self.failures.get(target, 0) + 1
        self.failures[target] = count
        if count >= THRESHOLD:
            self.down.add(target)

    def probed(self, target: str) -> None:
        """A replica that looked down answered a probe."""
        if target in self.down:
            self.down.discard(target)
            self.failures[target] = THRESHOLD - 1

    def forget(self, keep: set[str]) -> None:
        """Drop what is known about replicas that are no longer in the table."""
        self.down &= keep
        self.failures = {t: n for t, n in self.failures.items() if t in keep}
