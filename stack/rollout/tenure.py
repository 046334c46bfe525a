"""The right to act: how long a lead lasts, how a process knows by itself that it is over, and writing under it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from stack.core.clock import Clock
from stack.core.errors import StackError
from stack.store.errors import LeaseLost
from stack.store.rows import Lease
from stack.store.store import Store, Transaction

LEASE = "orchestrator"

TTL_S = 6.0
"""How long a lease lasts: a quarter of it passes between renewals, and all of it until another takes over."""


Writing = Callable[[Store], AbstractContextManager[Transaction]]
"""A transaction under a lead: what stands in it is written while nobody else leads, or not at all."""


class Interrupted(StackError):
    """The effect was interrupted: an operator asked for something, the lease is gone, or the process stops."""


@dataclass(frozen=True, kw_only=True)
class Leadership:
    """The lease as last renewed, and an event that is set once it is gone or the process stops."""

    lease: Lease
    gone: threading.Event

    @contextmanager
    def writing(self, store: Store) -> Iterator[Transaction]:
        """A transaction in which nobody else leads; otherwise the work is interrupted, and the lead over."""
        try:
            with store.transaction() as tx:
                tx.check_lease(self.lease)
                yield tx
        except LeaseLost as lost:
            self.gone.set()
            raise Interrupted() from lost


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
