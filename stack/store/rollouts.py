"""Rollouts: one row each, saved only by who holds the lease and has seen the latest version."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from stack.core.clock import stamp
from stack.store.errors import RolloutClosed, RolloutOpen, StaleWrite, UnknownRollout
from stack.store.leases import LeaseReads
from stack.store.rows import Lease, RolloutRow
from stack.store.schema import rollouts
from stack.store.session import as_json, as_text

_LEAST = timedelta(microseconds=1)


class RolloutReads(LeaseReads):
    """Looking at rollouts."""

    def find_rollout(self, rollout_id: str) -> RolloutRow | None:
        """The rollout of this id, or None."""
        row = self._first(select(rollouts).where(rollouts.c.id == as_text(str(rollout_id))))
        return None if row is None else RolloutRow.from_row(row)

    def rollout(self, rollout_id: str) -> RolloutRow:
        """The rollout of this id; raises UnknownRollout."""
        row = self.find_rollout(rollout_id)
        if row is None:
            raise UnknownRollout(rollout=as_text(str(rollout_id))[:90])
        return row

    def rollouts(self, limit: int, service: str | None = None, open_only: bool = False) -> tuple[RolloutRow, ...]:
        """Newest first."""
        query = select(rollouts).order_by(rollouts.c.created_at.desc(), rollouts.c.id.desc()).limit(limit)
        if service is not None:
            query = query.where(rollouts.c.service == as_text(str(service)))
        if open_only:
            query = query.where(rollouts.c.closed == 0)
        return tuple(RolloutRow.from_row(row) for row in self._all(query))


class RolloutWrites(RolloutReads):
    """Beginning and advancing rollouts."""

    def insert_rollout(self, row: RolloutRow) -> RolloutRow:
        """A new rollout; raises RolloutOpen while its service has an open one (an index backs that up).

        It comes after the service's others: if the clock was set back, it is dated just after the newest of them.
        """
        for other in self.rollouts(1, service=row.service, open_only=True):
            raise RolloutOpen(service=str(row.service), rollout=str(other.id))
        for newest in self.rollouts(1, service=row.service):
            if row.created_at <= newest.created_at:
                row = replace(row, created_at=newest.created_at + _LEAST)
        fixed = {"id": str(row.id), "service": str(row.service), "kind": row.kind, "version": row.version}
        self._write(rollouts.insert().values(**fixed, created_at=stamp(row.created_at), **_changing(row)))
        return row

    def save_rollout(self, row: RolloutRow, *, expected_version: int, lease: Lease) -> RolloutRow:
        """Store ``row`` as version ``expected_version + 1``, if that is still the stored version and the lease holds.

        One statement decides. Id, service, kind and creation never change; a closed rollout changes no more.
        """
        saved = replace(row, version=expected_version + 1, lease_epoch=lease.epoch)
        unchanged = (rollouts.c.id == str(row.id), rollouts.c.version == expected_version, rollouts.c.closed == 0)
        statement = rollouts.update().where(*unchanged, self._held_exists(lease))
        if self._write(statement.values(version=saved.version, **_changing(saved))) != 1:
            self.check_lease(lease)
            stored = self.rollout(row.id)
            if stored.closed:
                raise RolloutClosed(rollout=str(row.id))
            raise StaleWrite(rollout=str(row.id), expected=expected_version, found=stored.version)
        return saved


def _changing(row: RolloutRow) -> dict[str, Any]:
    return {
        "phase": as_text(row.phase),
        "state": as_json(row.state),
        "lease_epoch": row.lease_epoch,
        "updated_at": stamp(row.updated_at),
        "wake_at": None if row.wake_at is None else stamp(row.wake_at),
        "closed": int(row.closed),
    }
