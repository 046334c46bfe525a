"""Leases: who may act. The database's clock rules, so processes on one database agree on what has expired."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, false, or_, select

from stack.store.errors import LeaseLost
from stack.store.rows import Lease
from stack.store.schema import leases
from stack.store.session import Session


class LeaseReads(Session):
    """Looking at leases."""

    def lease(self, name: str) -> Lease | None:
        """The lease as stored, expired or not; None if it was never acquired."""
        row = self._first(select(leases).where(leases.c.name == name))
        return None if row is None else Lease.from_row(row)

    def _held(self, lease: Lease) -> ColumnElement[bool]:
        """Whether this very acquisition still holds, by the database's clock."""
        return and_(
            leases.c.name == lease.name,
            leases.c.holder == lease.holder,
            leases.c.epoch == lease.epoch,
            leases.c.expires_s > self._dialect.now_s(),
        )

    def _held_exists(self, lease: Lease) -> ColumnElement[bool]:
        return exists().where(self._held(lease))

    def check_lease(self, lease: Lease) -> None:
        """Raise LeaseLost unless it is held now; inside a writing transaction nobody else can take it any more."""
        if not self._connection.execute(select(self._held_exists(lease))).scalar():
            raise _lost(lease)


class LeaseWrites(LeaseReads):
    """Taking, keeping and giving back leases."""

    def acquire_lease(self, name: str, holder: str, ttl_s: float, *, unmoved: Lease | None = None) -> Lease | None:
        """The lease with a new epoch; None while somebody else holds it.

        A holder that acquires again (it was restarted) gets a new epoch too: what it did before is fenced off.
        ``unmoved``: the lease as the caller has seen it for longer than it lasts, by a clock that nobody sets. It is
        free if it is still exactly that: nobody renews it, and its end lies ahead only as the clock was set back.
        """
        expires = self._dialect.now_s() + _positive(ttl_s)
        free = or_(leases.c.holder == holder, leases.c.expires_s <= self._dialect.now_s(), _exactly(unmoved))
        taken = leases.update().where(leases.c.name == name, free)
        if self._write(taken.values(holder=holder, epoch=leases.c.epoch + 1, expires_s=expires)):
            return self.lease(name)
        if self.lease(name) is not None:
            return None
        self._write(leases.insert().values(name=name, holder=holder, epoch=1, expires_s=expires))
        return self.lease(name)

    def renew_lease(self, lease: Lease, ttl_s: float) -> Lease:
        """The same lease, held for ``ttl_s`` from now. An expired lease can't be renewed, even if nobody took it."""
        expires = self._dialect.now_s() + _positive(ttl_s)
        if not self._write(leases.update().where(self._held(lease)).values(expires_s=expires)):
            raise _lost(lease)
        renewed = self.lease(lease.name)
        if renewed is None:
            raise _lost(lease)
        return renewed

    def release_lease(self, lease: Lease) -> bool:
        """Give it back; false when it was lost already. The epoch stays, and goes on rising."""
        return bool(self._write(leases.update().where(self._held(lease)).values(expires_s=0.0)))

    def release_holder(self, name: str, holder: str) -> bool:
        """Give back whatever ``holder`` holds under this name; false when that is nothing."""
        mine = and_(leases.c.name == name, leases.c.holder == holder, leases.c.expires_s > 0.0)
        return bool(self._write(leases.update().where(mine).values(expires_s=0.0)))


def _exactly(seen: Lease | None) -> ColumnElement[bool]:
    if seen is None:
        return false()
    ends = seen.expires_at.timestamp()
    near = leases.c.expires_s.between(ends - 0.001, ends + 0.001)  # a moment of a Lease is whole microseconds
    return and_(leases.c.holder == seen.holder, leases.c.epoch == seen.epoch, near)


def _positive(ttl_s: float) -> float:
    if not 0 < ttl_s < 86_400 * 366:
        raise ValueError("a lease lasts more than nothing and less than a year")
    return ttl_s


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(name=lease.name, holder=lease.holder, epoch=lease.epoch)
