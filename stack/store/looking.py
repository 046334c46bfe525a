"""Looks at a state database without changing anything: what it is, whether it can be used, and who leads by it.

What is found is not judged here. A database that can't be asked raises what the store raises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, select

from stack.core.clock import Clock
from stack.core.errors import StackError
from stack.store.dialect import Dialect, SQLite, dialect_for
from stack.store.errors import StoreBusy
from stack.store.migrations import STEPS, stored_version
from stack.store.rows import Lease
from stack.store.schema import leases, metadata
from stack.store.store import Reading, Store

LEASE = "orchestrator"


@dataclass(frozen=True, kw_only=True)
class Look:
    """``schema``: 0 for an empty database. ``skew_s``: how far the database's clock is ahead of ours, give or take
    ``skew_within_s``. ``lease_left_s``: below zero once it has run out. ``sound``: ok, what is wrong, or empty: not
    looked through in time."""

    kind: str
    version: str
    schema: int
    known: int = len(STEPS)
    recovering: bool = False
    read_only: bool = False
    checksums: bool = True
    bytes: int = 0
    skew_s: float = 0.0
    skew_within_s: float = 0.0
    lease: Lease | None = None
    lease_left_s: float = 0.0
    sound: str = ""


def look(
    place: str | Path, clock: Clock, password: Callable[[], str] | None = None, *, check_s: float = 10.0
) -> Look | None:
    """What is there; None for a file that is not there. The whole database is read for ``check_s`` at the most."""
    dialect = dialect_for(place, password)
    if isinstance(dialect, SQLite) and not dialect.path.is_file():
        return None
    store = Store(dialect.engine(), dialect, clock)
    try:
        with store.reading() as tx:
            found = _found(tx, dialect, clock, str(place))
        sound = _sound(store, dialect, clock, check_s) if found["schema"] else "ok"
    finally:
        store.close()
    return Look(**found, sound=sound)


def _found(tx: Reading, dialect: Dialect, clock: Clock, place: str) -> dict[str, Any]:
    connection = tx._connection
    before = clock.monotonic(), clock.now().timestamp()
    theirs = float(connection.execute(select(dialect.now_s())).scalar_one())
    took = clock.monotonic() - before[0]
    schema = stored_version(connection, place)
    lease = tx.lease(LEASE) if inspect(connection).has_table(leases.name) else None
    left = lease.expires_at.timestamp() - theirs if lease else 0.0
    own = _sqlite(connection, dialect) if isinstance(dialect, SQLite) else _server(connection)
    skew = {"skew_s": theirs - before[1] - took / 2, "skew_within_s": took / 2}
    return {"kind": dialect.name, "schema": schema, "lease": lease, "lease_left_s": left, **skew, **own}


def _sqlite(connection: Connection, dialect: SQLite) -> dict[str, Any]:
    version = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
    return {"version": str(version), "bytes": dialect.path.stat().st_size}


def _server(connection: Connection) -> dict[str, Any]:
    """In recovery: a standby, or a server that is restored."""
    row = connection.exec_driver_sql(
        "SELECT current_setting('server_version'), pg_is_in_recovery(), "
        "current_setting('default_transaction_read_only') = 'on', current_setting('data_checksums') = 'on', "
        "pg_database_size(current_database())"
    ).one()
    names = ("version", "recovering", "read_only", "checksums", "bytes")
    return dict(zip(names, row, strict=True))


def _sound(store: Store, dialect: Dialect, clock: Clock, check_s: float) -> str:
    """Bounded on the database's side: by a timeout of the statement, or by asking now and then whether it is over."""
    until = clock.monotonic() + check_s
    try:
        with store._connected() as connection:
            dialect.begin_read(connection)
            if isinstance(dialect, SQLite):
                driver: Any = connection.connection.driver_connection
                driver.set_progress_handler(lambda: int(clock.monotonic() >= until), 10_000)
            else:
                dialect.at_leisure(connection)
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(check_s * 1000))}")
            return str(connection.exec_driver_sql(dialect.check(tuple(metadata.tables))).scalar())
    except StoreBusy:
        return ""
    except StackError as error:
        return error.message
