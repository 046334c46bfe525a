"""The way into the log: in the caller's transaction, so that a thing and its record are both there, or neither."""

from __future__ import annotations

from typing import Protocol

from stack.audit.chain import follow
from stack.audit.record import AuditRecord
from stack.core.clock import Clock, stamp
from stack.store.rows import AuditRow


class Log(Protocol):
    """What is needed of a transaction."""

    def last_audit(self) -> AuditRow | None:
        """The newest row."""

    def insert_audit(self, row: AuditRow) -> None:
        """Add the next one."""


def append(tx: Log, record: AuditRecord, clock: Clock) -> AuditRow:
    """Write ``record`` down; raises what the store raises, and then the caller's transaction must not commit."""
    row = follow(tx.last_audit(), record, stamp(clock.now()))
    tx.insert_audit(row)
    return row
