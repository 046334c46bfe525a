"""What every part of a transaction stands on: the connection, the clocks, and the forms of stored values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, Table, func, select
from sqlalchemy.sql import Executable

from stack.core.clock import Clock, stamp
from stack.store.dialect import Dialect
from stack.store.errors import NotStorable

Row = Mapping[str, Any]


class Session:
    """One transaction on one connection. Valid inside its ``with`` block only."""

    def __init__(self, connection: Connection, dialect: Dialect, clock: Clock) -> None:
        self._connection = connection
        self._dialect = dialect
        self._clock = clock

    def _first(self, query: Select[Any]) -> Row | None:
        found = self._connection.execute(query).mappings().first()
        return None if found is None else dict(found)

    def _all(self, query: Select[Any]) -> list[Row]:
        return [dict(row) for row in self._connection.execute(query).mappings()]

    def _write(self, statement: Executable) -> int:
        """Execute; the number of rows that were touched."""
        return int(self._connection.execute(statement).rowcount)

    def _put(self, table: Table, key: str, values: Row) -> None:
        """Insert, or update the row whose ``key`` is the same. The writer is alone, so this is no race."""
        column = table.c[key]
        if not self._write(table.update().where(column == values[key]).values(**values)):
            self._write(table.insert().values(**values))

    def _next(self, table: Table, column: str, rollout: str) -> int:
        """The next number within a rollout."""
        highest = select(func.max(table.c[column])).where(table.c.rollout == rollout)
        return int(self._connection.execute(highest).scalar() or 0) + 1

    def _stamp(self) -> str:
        return stamp(self._clock.now())


def as_json(value: Any) -> str:
    """JSON text, keys sorted, ASCII. NaN, infinities and what JSON does not know are refused."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise NotStorable(str(error)) from error


def as_text(text: str) -> str:
    """Text that every database takes: no NUL, no half surrogates. Engines print what they like."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode("utf-8")
