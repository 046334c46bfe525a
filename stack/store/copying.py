"""Copies every row of one store into another, empty one, inside the callers' transactions, and checks what arrived.

Rows are compared by count and by the sum of their hashes, read back from the target: order plays no part, so neither
does how a database sorts text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, func, select

from stack.core.errors import Refused
from stack.store.schema import metadata, schema_version
from stack.store.store import Reading, Transaction

_BATCH = 500
_SPACE = 1 << 256
TABLES: tuple[Table, ...] = tuple(t for t in metadata.sorted_tables if t is not schema_version)
"""All that hold state, those first that others refer to."""
Row = dict[str, Any]


class CopyDiffers(Refused):
    """Table {table} did not arrive as it was sent: {sent} rows were sent, {arrived} are there or differ."""

    hint = "Nothing was kept. Look at the target server's log, and copy into a database of its own."


@dataclass(frozen=True, kw_only=True)
class Heap:
    """So many rows, and the sum of their hashes."""

    rows: int = 0
    sum: int = 0

    def with_row(self, row: Row) -> Heap:
        """And one more."""
        text = json.dumps([[key, row[key]] for key in sorted(row)], ensure_ascii=True)
        number = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
        return Heap(rows=self.rows + 1, sum=(self.sum + number) % _SPACE)


def counts(tx: Reading) -> dict[str, int]:
    """Rows by table."""
    return {t.name: int(tx._connection.execute(select(func.count()).select_from(t)).scalar_one()) for t in TABLES}


def copy_rows(source: Reading, target: Transaction, say: Callable[[str], None]) -> dict[str, int]:
    """All rows, table by table; how many. Raises CopyDiffers, and then the target's transaction must not commit."""
    copied = {}
    for table in TABLES:
        sent = Heap()
        for batch in _batches(source, table):
            target._connection.execute(table.insert(), batch)
            for row in batch:
                sent = sent.with_row(row)
        arrived = _heap(target, table)
        if arrived != sent:
            raise CopyDiffers(table=table.name, sent=sent.rows, arrived=arrived.rows)
        copied[table.name] = sent.rows
        say(f"{table.name}: {sent.rows} rows, checked")
    return copied


def _heap(tx: Reading, table: Table) -> Heap:
    found = Heap()
    for batch in _batches(tx, table):
        for row in batch:
            found = found.with_row(row)
    return found


def _batches(tx: Reading, table: Table) -> Iterator[list[Row]]:
    rows = tx._connection.execute(select(table).execution_options(yield_per=_BATCH)).mappings()
    for part in rows.partitions():
        yield [dict(row) for row in part]


def at_leisure(tx: Reading) -> None:
    """Let what follows take as long as whole tables need; nobody else is to write there meanwhile."""
    tx._dialect.at_leisure(tx._connection)
    if tx._dialect.name == "postgresql":
        tx._connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '10min'")
