"""The way into the log: in the caller's transaction, so that a thing and its record are both there, or neither.

The record's leaf joins the Merkle tree in the same transaction. Leaves of records that are older than the tree are
made up for in batches, so that no single transaction takes long: ``catch_up`` does the rest at the start.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from stack.audit.chain import follow, row_bytes
from stack.audit.merkle import grown, leaf_hash
from stack.audit.record import AuditRecord
from stack.core.clock import Clock, stamp
from stack.core.errors import Unavailable
from stack.store.rows import AuditRow

BATCH = 1000


class TreeDamaged(Unavailable):
    """The Merkle tree of the audit log is damaged: {detail}"""

    hint = "Nothing privileged happens until it is whole. See docs/runbooks/audit-broken.md."


class Log(Protocol):
    """What is needed of a transaction."""

    def last_audit(self) -> AuditRow | None:
        """The newest row."""

    def insert_audit(self, row: AuditRow) -> None:
        """Add the next one."""

    def audit_rows(self, start: int = 1, limit: int = 1000) -> tuple[AuditRow, ...]:
        """The first ``limit`` from number ``start``, in order."""

    def leaf_count(self) -> int:
        """How many leaves the tree has."""

    def node(self, level: int, position: int) -> str | None:
        """The hash (hex) of a complete subtree."""

    def insert_nodes(self, nodes: Iterable[tuple[int, int, str]]) -> None:
        """Add new ones."""


class Transactions(Protocol):
    """What is needed of a store."""

    def transaction(self) -> AbstractContextManager[Log]:
        """One transaction."""


class _Growth:
    """Nodes of one transaction: those it reads, and those it is about to write."""

    def __init__(self, tx: Log) -> None:
        self._tx = tx
        self._new: dict[tuple[int, int], bytes] = {}

    def node(self, level: int, position: int) -> bytes:
        found = self._new.get((level, position))
        return found if found is not None else stored_node(self._tx, level, position)

    def add(self, row: AuditRow) -> None:
        for made in grown(row.seq - 1, leaf_hash(row_bytes(row)), self.node):
            self._new[made.level, made.position] = made.hash

    def write(self) -> None:
        self._tx.insert_nodes((level, position, value.hex()) for (level, position), value in self._new.items())


class Nodes(Protocol):
    """Where nodes are read from."""

    def node(self, level: int, position: int) -> str | None:
        """The hash (hex) of a complete subtree."""


def append(tx: Log, record: AuditRecord, clock: Clock) -> AuditRow:
    """Write ``record`` down; raises what the store raises, and then the caller's transaction must not commit."""
    row = follow(tx.last_audit(), record, stamp(clock.now()))
    tx.insert_audit(row)
    if not _grow(tx, row):
        raise TreeDamaged(f"it has a leaf for record {row.seq}, which is only now written")
    return row


def catch_up(store: Transactions) -> int:
    """Make leaves of all records that have none, a batch per transaction; how many there were."""
    total = 0
    while True:
        with store.transaction() as tx:
            made = _grow(tx, tx.last_audit())
        if not made:
            return total
        total += made


def stored_node(tx: Nodes, level: int, position: int) -> bytes:
    """The stored hash of a complete subtree, which must be there."""
    text = tx.node(level, position)
    try:
        value = bytes.fromhex(text or "")
    except ValueError:
        value = b""
    if len(value) != 32:
        raise TreeDamaged(f"node {position} of level {level} is missing or no hash")
    return value


def _grow(tx: Log, newest: AuditRow | None) -> int:
    """Add the leaves that are missing up to ``newest``, a batch at most; how many were added."""
    size = tx.leaf_count()
    if newest is None or newest.seq == size:
        return 0
    if newest.seq < size:
        raise TreeDamaged(f"it has {size} leaves, and there are {newest.seq} records")
    rows = (newest,) if newest.seq == size + 1 else tx.audit_rows(size + 1, BATCH)
    growth = _Growth(tx)
    for due, row in enumerate(rows, start=size + 1):
        if row.seq != due:
            raise TreeDamaged(f"record {due} is missing")
        growth.add(row)
    growth.write()
    return len(rows)
