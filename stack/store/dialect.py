"""Everything that differs between databases: connecting, beginning, the clock, and what an error means.

SQLite is here; ``postgresql`` holds the other, and is imported (with its driver) only where a URL asks for it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Double, Engine, create_engine, event, literal_column
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
from stack.store.holders import writer_of

# The longest that anybody waits for the write lock, in this process and for others together.
BUSY_S = 4.5


class Dialect(Protocol):
    """One kind of database."""

    name: str
    starts_by_itself: bool
    """Whether there is nothing to wait for when it can't be reached: no server that may be starting."""

    def engine(self) -> Engine:
        """Connections whose transactions take no lock until ``begin_write`` or ``begin_read``."""

    def admit(self, connection: Connection) -> None:
        """Raise UnfitDatabase when it can't hold what is to be stored."""

    def begin_write(self, connection: Connection, patience_s: float) -> None:
        """Make the transaction the only writer of its moment; StoreBusy's cause after ``patience_s``."""

    def begin_read(self, connection: Connection) -> None:
        """Make the transaction see one moment."""

    def at_leisure(self, connection: Connection) -> None:
        """Let what follows in this transaction take as long as it needs: it reads or rewrites whole tables."""

    def now_s(self) -> ColumnElement[float]:
        """The database's clock: seconds since 1970, evaluated by the database."""

    def append_only(self, table: str) -> tuple[str, ...]:
        """Statements that make the database itself refuse to change or delete rows of ``table``."""

    def check(self, tables: tuple[str, ...]) -> str:
        """The statement whose single answer ``ok`` says that the database with these tables is sound."""

    def explain(self, error: DBAPIError) -> StackError | None:
        """What the database's error means; None for one that is a bug of ours."""


class SQLite:
    """One file. Durable on COMMIT: write-ahead log, synchronous=FULL."""

    name = "sqlite"
    starts_by_itself = True

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

    def admit(self, connection: Connection) -> None:
        """Every SQLite database can."""

    def begin_write(self, connection: Connection, patience_s: float) -> None:
        """Takes the write lock at once, so a read inside can gate a write."""
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {max(1, round(patience_s * 1000))}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def begin_read(self, connection: Connection) -> None:
        """A snapshot; never waits for writers."""
        connection.exec_driver_sql("BEGIN DEFERRED")

    def at_leisure(self, connection: Connection) -> None:
        """Nothing bounds it here."""

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

    def check(self, tables: tuple[str, ...]) -> str:
        """Reads every page."""
        return "PRAGMA quick_check(1)"

    def explain(self, error: DBAPIError) -> StackError | None:
        """By SQLite's primary result code."""
        if isinstance(error.orig, sqlite3.IntegrityError):
            return BrokenReference(str(error.orig))
        code = getattr(error.orig, "sqlite_errorcode", None)
        kind = _MEANING.get(code & 0xFF) if code is not None else None
        if kind is StoreBusy and (holder := writer_of(self.path)) is not None:
            return StoreBusy(f"{self.path}: {holder.words}", advice=holder.advice)
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


def dialect_for(place: str | Path, password: Callable[[], str] | None = None) -> Dialect:
    """From a path, or a URL as SQLAlchemy writes them. ``password`` is asked for every new connection."""
    if isinstance(place, Path) or "://" not in place:
        return SQLite(Path(place).absolute())
    try:
        url = make_url(place)
    except (ArgumentError, ValueError) as error:
        raise UnknownDatabase(url=repr(place.partition("://")[0] + "://...")[:90]) from error
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        from stack.store.postgresql import postgresql  # its driver is not for those who use SQLite

        return postgresql(url, password)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise UnknownDatabase(url=url.render_as_string(hide_password=True)[:90])
    return SQLite(Path(url.database).absolute())
