"""How long a lead lasts, and how a process knows by itself that its lead is over."""

from __future__ import annotations

import threading

from stack.core.clock import Clock
from stack.store.rows import Lease

TTL_S = 6.0
"""How long a lease lasts: a quarter of it passes between renewals, and all of it until another takes over."""


class Over(threading.Event):
    """Set when the lead is over; and by itself when ``ttl_s`` have passed since it was last renewed: then this process
    stood still, or could not reach the database, and another may lead."""

    def __init__(self, clock: Clock, ttl_s: float, asked_at: float) -> None:
        super().__init__()
        self._clock = clock
        self._ttl = ttl_s
        self._until = asked_at + ttl_s

    def renewed(self, asked_at: float) -> None:
        """It was renewed; ``asked_at``: on the monotonic clock, before the database was asked."""
        self._until = asked_at + self._ttl

    def is_set(self) -> bool:
        """Once true, it stays so."""
        if not super().is_set() and self._clock.monotonic() >= self._until:
            self.set()
        return super().is_set()


class Watch:
    """Sees that a lease which somebody else holds is not renewed any more, without asking what time it is.

    Should the database's clock be set back, a dead holder's lease would otherwise end that much later.
    """

    def __init__(self, clock: Clock, ttl_s: float) -> None:
        self._clock = clock
        self._patience = 1.5 * ttl_s
        self._seen: Lease | None = None
        self._since = 0.0

    def unmoved(self, lease: Lease | None) -> Lease | None:
        """``lease`` (as stored now), if it has been exactly that for longer than it lasts; None otherwise."""
        if lease is None or lease != self._seen:
            self._seen, self._since = lease, self._clock.monotonic()
        return lease if self._clock.monotonic() - self._since > self._patience else None
