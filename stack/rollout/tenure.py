"""How long a lead lasts, and how a process knows by itself that its lead is over."""

from __future__ import annotations

import threading

from stack.core.clock import Clock

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
