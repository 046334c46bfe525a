"""Everything that differs between databases: connecting, beginning, the clock, and what an error means.

A second database is a second class here, chosen by ``dialect_for``; no other module names one.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Double, Engine, create_engine, event, literal_column
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from stack.core.errors import StackError
from stack.store.errors import (
    BrokenReference,
    StoreBusy,
    StoreCorrupt,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    UnknownDatabase,
)

# The longest that anybody waits for the write lock, in this process and for others together.
BUSY_S = 4.5


class Dialect(Protocol):
    """One kind of database."""

    name: str

    def engine(self) -> Engine:
        """Connections whose transactions take no lock until ``begin_write`` or ``begin_read``."""

    def begin_write(self) -> str:
        """The statement that begins a transaction as the only writer."""

    def begin_read(self) -> str:
        """The statement that begins a transaction which sees one moment."""

    def patience(self, seconds: float) -> str:
        """The statement that bounds how long the connection's next statements wait for a lock."""

    def now_s(self) -> ColumnElement[float]:
        """The database's clock: seconds since 1970, evaluated by the database."""

    def append_only(self, table: str) -> tuple[str, ...]:
        """Statements that make the database itself refuse to change or delete rows of ``table``."""

    def check(self) -> str:
        """The statement whose single answer ``ok`` says that the database is sound."""

    def explain(self, error: DBAPIError) -> StackError | None:
        """What the database's error means; None for one that is a bug of ours."""


class SQLite:
    """One file. Durable on COMMIT: write-ahead log, synchronous=FULL."""

    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path

    def engine(self) -> Engine:
        """Creates the file, readable by its owner only; the log beside it inherits that."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except PermissionError as error:
            raise StoreReadOnly(f"{self.path}: {error.strerror}") from error
        except OSError as error:
            raise StoreUnreachable(f"{self.path}: {error.strerror}") from error
        engine = create_engine(
            f"sqlite:///{self.path}",
            connect_args={"timeout": BUSY_S, "check_same_thread": False},
            pool_size=8,
            pool_timeout=BUSY_S,
        )
        event.listen(engine, "connect", _prepare)
        return engine

    def begin_write(self) -> str:
        """Takes the write lock at once, so a read inside can gate a write."""
        return "BEGIN IMMEDIATE"

    def begin_read(self) -> str:
        """A snapshot; never waits for writers."""
        return "BEGIN DEFERRED"

    def patience(self, seconds: float) -> str:
        """Not transactional; it stays until the next one on the connection."""
        return f"PRAGMA busy_timeout = {max(1, round(seconds * 1000))}"

    def now_s(self) -> ColumnElement[float]:
        """Milliseconds precise. unixepoch('subsec') would need SQLite 3.42."""
        return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double)

    def append_only(self, table: str) -> tuple[str, ...]:
        """Triggers; they stop accidents and careless hands, the hash chain shows the rest."""
        return tuple(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for verb in ("UPDATE", "DELETE")
        )

    def check(self) -> str:
        """Reads every page."""
        return "PRAGMA quick_check(1)"

    def explain(self, error: DBAPIError) -> StackError | None:
        """By SQLite's primary result code."""
        if isinstance(error.orig, sqlite3.IntegrityError):
            return BrokenReference(str(error.orig))
        code = getattr(error.orig, "sqlite_errorcode", None)
        kind = _MEANING.get(code & 0xFF) if code is not None else None
        return kind(f"{self.path}: {error.orig}") if kind else None


_MEANING: dict[int, type[StackError]] = {
    sqlite3.SQLITE_BUSY: StoreBusy,
    sqlite3.SQLITE_LOCKED: StoreBusy,
    sqlite3.SQLITE_PROTOCOL: StoreBusy,
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_READONLY: StoreReadOnly,
    sqlite3.SQLITE_PERM: StoreReadOnly,
    sqlite3.SQLITE_CORRUPT: StoreCorrupt,
    sqlite3.SQLITE_NOTADB: StoreCorrupt,
    sqlite3.SQLITE_IOERR: StoreUnreachable,
    sqlite3.SQLITE_CANTOPEN: StoreUnreachable,
    sqlite3.SQLITE_NOMEM: StoreUnreachable,
    sqlite3.SQLITE_INTERRUPT: StoreBusy,
}


def _prepare(connection: Any, _record: object) -> None:
    """Of every new connection. Transactions are ours to begin: the driver's own idea of them is switched off."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def dialect_for(place: str | Path) -> Dialect:
    """From a path, or a URL as SQLAlchemy writes them."""
    if isinstance(place, Path) or "://" not in place:
        return SQLite(Path(place).absolute())
    try:
        url = make_url(place)
    except ArgumentError as error:
        raise UnknownDatabase(url=repr(place)[:90]) from error
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise UnknownDatabase(url=url.render_as_string(hide_password=True)[:90])
    return SQLite(Path(url.database).absolute())
