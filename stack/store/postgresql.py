"""PostgreSQL: connecting, being the only writer, the server's clock, and what its errors mean.

The only writer of a moment is whoever holds one advisory lock, taken as the first thing of a writing transaction and
dropped by the server with it, however it ends. SERIALIZABLE would let two write at once and fail one of them at its
commit; that one would have to be run again, and the blocks that callers write (they tell people, they ask clocks)
can't be. State changes a few times a second, so waiting costs nothing. READ COMMITTED goes with it: each statement sees
all that was committed before the lock was had, where REPEATABLE READ would see what stood before the wait.

Nothing hangs: the server bounds waits for locks, statements and transactions whose client has stopped; a server that
does not answer at all is bounded by this side.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import URL, ColumnElement, Connection, Double, Engine, create_engine, literal_column
from sqlalchemy.exc import DBAPIError

from stack.core.errors import StackError
from stack.store.dialect import BUSY_S
from stack.store.errors import (
    BrokenReference,
    DatabaseUrl,
    StoreBusy,
    StoreCorrupt,
    StoreDenied,
    StoreFull,
    StoreReadOnly,
    StoreStarting,
    StoreUnreachable,
    UnfitDatabase,
)

log = logging.getLogger(__name__)

# The longest for one statement, for a client that says nothing inside a transaction, for a server that does not answer.
STATEMENT_S = 5.0
SILENT_WRITER_S = 5.0
SILENT_READER_S = 120.0
ANSWER_S = 6.5
CONNECT_S = 5
_LEISURE_S = 3600.0
# "stack" in ASCII: one lock in each database.
_WRITER = 0x73_74_61_63_6B
# What the URL may say besides user, host, port and database; the names are libpq's.
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_WORDS = ("host", "port", "sslmode", "channel_binding", "gssencmode", "target_session_attrs", "application_name")
_OPTIONS = frozenset((*_FILES, *_WORDS, "ssl_min_protocol_version"))


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server leaves a request without an answer for ``limit_s``."""

    limit_s: float = ANSWER_S

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval=interval, timeout=self.limit_s if timeout is None else timeout)
        except psycopg.Error:
            if self.pgconn.status == psycopg.pq.ConnStatus.OK and self.pgconn.transaction_status == _ACTIVE:
                self.pgconn.finish()
            raise


_ACTIVE = psycopg.pq.TransactionStatus.ACTIVE


class PostgreSQL:
    """One database on a server."""

    name = "postgresql"
    starts_by_itself = False

    def __init__(self, url: URL, password: Callable[[], str] | None) -> None:
        self._url = url
        self._password = password
        self._shown = url.set(query={}).render_as_string(hide_password=True)

    def engine(self) -> Engine:
        """Connections that are asked whether they still stand before each transaction."""
        return create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            pool_size=8,
            pool_timeout=BUSY_S,
            pool_pre_ping=True,
            hide_parameters=True,
        )

    def _connect(self) -> psycopg.Connection[Any]:
        """The password is asked for anew, so a rotated one is taken up; without one, libpq looks for a passfile."""
        url = self._url
        known = {"user": url.username, "host": url.host, "port": url.port, "dbname": url.database}
        words: dict[str, Any] = {key: value for key, value in known.items() if value is not None} | dict(url.query)
        if self._password is not None:
            words["password"] = self._password()
        return BoundedConnection.connect(
            **({"application_name": "inference-stack"} | words),
            client_encoding="utf8",
            connect_timeout=CONNECT_S,
            keepalives_idle=2,
            keepalives_interval=1,
            keepalives_count=3,
            tcp_user_timeout=5000,
            prepare_threshold=None,
        )

    def admit(self, connection: Connection) -> None:
        """Text of every language; and a server that forgets what it confirmed is named in the log."""
        encoding = str(connection.exec_driver_sql("SHOW server_encoding").scalar())
        if encoding != "UTF8":
            raise UnfitDatabase(f"its encoding is {encoding}, not UTF8", url=self._shown)
        for name in ("fsync", "full_page_writes"):
            if connection.exec_driver_sql(f"SHOW {name}").scalar() != "on":
                log.warning("%s: the server runs with %s = off: a crash of its machine loses state", self._shown, name)

    def begin_write(self, connection: Connection, patience_s: float) -> None:
        """Waits for the one lock of writers. A commit is on the disk when it returns, whatever the server's default."""
        self._bounded(connection)
        connection.exec_driver_sql(
            f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {_limits(SILENT_WRITER_S, patience_s)}"
            "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'; "
            f"SELECT pg_advisory_xact_lock({_WRITER})"
        )

    def begin_read(self, connection: Connection) -> None:
        """A snapshot; never waits for writers."""
        self._bounded(connection)
        connection.exec_driver_sql(
            f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; {_limits(SILENT_READER_S, BUSY_S)}SELECT 1"
        )

    def at_leisure(self, connection: Connection) -> None:
        """An hour, on both sides."""
        self._bounded(connection, _LEISURE_S)
        connection.exec_driver_sql(_set("statement_timeout", _LEISURE_S - 1))

    def _bounded(self, connection: Connection, limit_s: float = ANSWER_S) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, BoundedConnection)
        driver.limit_s = limit_s

    def now_s(self) -> ColumnElement[float]:
        """Of the moment, not of the transaction's beginning: that may have waited."""
        return literal_column("(extract(epoch from clock_timestamp())::double precision)", Double)

    def append_only(self, table: str) -> tuple[str, ...]:
        """A trigger; it stops accidents and careless hands, the hash chain shows the rest."""
        function = (
            f"CREATE FUNCTION {table}_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"'BEGIN RAISE EXCEPTION ''{table} is append-only'' USING ERRCODE = ''restrict_violation''; END'"
        )
        trigger = (
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_is_append_only()"
        )
        return function, trigger

    def check(self, tables: tuple[str, ...]) -> str:
        """Reads every row with all that belongs to it: with data checksums on, damage shows as an error."""
        read = " + ".join(f"(SELECT coalesce(sum(length(t::text)), 0) FROM {table} t)" for table in tables)  # noqa: S608
        return f"SELECT CASE WHEN {read} >= 0 THEN 'ok' END"

    def explain(self, error: DBAPIError) -> StackError | None:
        """By SQLSTATE; a connection that could not be made has none, its text says why."""
        orig = error.orig
        state = getattr(orig, "sqlstate", None) or ""
        said = f"{self._shown}: {' '.join(str(orig).split())[:400]}"
        if state.startswith("23"):
            return BrokenReference(str(orig).split("\n")[0])
        for known, (kind, advice) in _MEANING.items():
            if state.startswith(known) if state else False:
                return kind(said, advice=advice)
        if not state and isinstance(orig, psycopg.OperationalError | psycopg.InterfaceError):
            return _unconnected(said)
        return StoreUnreachable(said, advice=_SERVER) if error.connection_invalidated else None


_SERVER = "Check that the server runs and can be reached: pg_isready -d <the URL>"
_FREE = "Free space where the server keeps its data. Nothing was half-written."
_MEANING: dict[str, tuple[type[StackError], str]] = {
    "53100": (StoreFull, _FREE),
    "53200": (StoreUnreachable, "The server is out of memory."),
    "53300": (StoreBusy, "The server has no connection left: raise max_connections, or see who holds them."),
    "25006": (StoreReadOnly, "This is a standby or a read-only database: name the primary, or promote this one."),
    "57P03": (StoreStarting, ""),
    "57P01": (StoreUnreachable, _SERVER),
    "57P02": (StoreUnreachable, _SERVER),
    "57P05": (StoreUnreachable, _SERVER),
    "25P03": (StoreUnreachable, "This process stood still inside a transaction; the server has undone it."),
    "25P04": (StoreUnreachable, "This process stood still inside a transaction; the server has undone it."),
    "57014": (StoreBusy, "A statement took too long: look at the server's load and pg_stat_activity."),
    "55P03": (StoreBusy, "Another process writes. If it stays so: SELECT * FROM pg_locks WHERE locktype = 'advisory'"),
    "40001": (StoreBusy, "Try again."),
    "40P01": (StoreBusy, "Try again."),
    "28": (StoreDenied, ""),
    "3D000": (StoreDenied, "Create the database: createdb <name>"),
    "42501": (StoreDenied, "Let this user own the database, or give it the rights on the schema it uses."),
    "58": (StoreUnreachable, "The server could not read or write its files: look at its log."),
    "XX001": (StoreCorrupt, "Stop everything, keep the server's data for inspection, and restore from a backup set."),
    "XX002": (StoreCorrupt, "Stop everything, keep the server's data for inspection, and restore from a backup set."),
    "08": (StoreUnreachable, _SERVER),
}
_STARTING = re.compile(r"the database system is (starting up|shutting down|in recovery mode|not (yet )?accepting)")
_DENIED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|does not exist|permission denied for database"
    r"|certificate|SSL"
)
_CROWDED = re.compile(r"too many (clients|connections)|remaining connection slots")


def _unconnected(said: str) -> StackError:
    if _STARTING.search(said):
        return StoreStarting(said)
    if _CROWDED.search(said):
        return StoreBusy(said, advice=_MEANING["53300"][1])
    if _DENIED.search(said) and "No such file" not in said:
        return StoreDenied(said)
    return StoreUnreachable(said, advice=_SERVER)


def _set(name: str, seconds: float) -> str:
    return f"SET LOCAL {name} = {max(1, round(seconds * 1000))}"


def _limits(silent_s: float, patience_s: float) -> str:
    settings = {
        "lock_timeout": patience_s,
        "statement_timeout": STATEMENT_S,
        "idle_in_transaction_session_timeout": silent_s,
    }
    return "".join(f"{_set(name, seconds)}; " for name, seconds in settings.items())


def postgresql(url: URL, password: Callable[[], str] | None) -> PostgreSQL:
    """The dialect of a URL, once it is looked through: it names a database, and holds no secret."""
    shown = url.set(query={}).render_as_string(hide_password=True)[:200]
    if url.password is not None or "password" in url.query:
        detail = "it holds a password; use ~/.pgpass, passfile=<file> in the URL, or the secret database.password"
        raise DatabaseUrl(detail, url=shown)
    if not url.database:
        raise DatabaseUrl("it names no database", url=shown)
    unknown = sorted(key for key, value in url.query.items() if key not in _OPTIONS or not isinstance(value, str))
    if unknown:
        raise DatabaseUrl(f"unknown or repeated {', '.join(unknown)[:90]}", url=shown)
    return PostgreSQL(url, password)
