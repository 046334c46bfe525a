"""The store: opens the database, brings it up to date, and hands out transactions.

A transaction is whole or absent. ``transaction()`` is the only writer of its moment (other threads and processes
wait), so what is read in it may gate what is written in it; ``reading()`` sees one moment and waits for nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from stack.core.clock import Clock, SystemClock
from stack.core.errors import StackError
from stack.store.approvals import ApprovalReads, ApprovalWrites
from stack.store.dialect import BUSY_S, Dialect, dialect_for
from stack.store.errors import StoreBusy, StoreStarting, StoreUncertain, StoreUnreachable
from stack.store.identities import IdentityReads, IdentityWrites
from stack.store.journal import JournalReads, JournalWrites
from stack.store.leases import LeaseWrites
from stack.store.loads import LoadReads, LoadWrites
from stack.store.migrations import migrate
from stack.store.rollouts import RolloutReads, RolloutWrites
from stack.store.schema import metadata
from stack.store.serving import ServingReads, ServingWrites
from stack.store.tree import TreeReads, TreeWrites
from stack.store.turns import Turns

_OPENING_TRIES = 200
_OPENING_S = 2 * BUSY_S
_ASK_AGAIN_S = 0.5


class Reading(RolloutReads, ServingReads, JournalReads, ApprovalReads, IdentityReads, TreeReads, LoadReads):
    """Everything that can be read, as of one moment."""


class Transaction(
    RolloutWrites,
    LeaseWrites,
    ServingWrites,
    JournalWrites,
    ApprovalWrites,
    IdentityWrites,
    TreeWrites,
    LoadWrites,
    Reading,
):
    """Everything that can be read and written; committed when its block ends, undone when it raises."""


class Store:
    """Thread-safe; one per process. Make it with ``Store.open``."""

    def __init__(self, engine: Engine, dialect: Dialect, clock: Clock) -> None:
        self._engine = engine
        self._dialect = dialect
        self._clock = clock
        self._writer = Turns()
        self._writing = threading.local()
        self._waited = SystemClock()  # locks are waited for in real time, whatever the clock of the records

    @classmethod
    def open(
        cls,
        place: str | Path,
        clock: Clock | None = None,
        *,
        password: Callable[[], str] | None = None,
        wait_s: float = 0.0,
        say: Callable[[str], None] | None = None,
    ) -> Self:
        """Open or create the store at a path or URL, and migrate it. Refuses a newer schema and foreign databases.

        A server that can't be reached or is still starting is waited for, ``wait_s`` at the most; ``say`` is told why.
        """
        clock = clock or SystemClock()
        dialect = dialect_for(place, password)
        store = cls(dialect.engine(), dialect, clock)
        try:
            store._reach(str(place), wait_s, say or _silent)
        except StackError:
            store.close()
            raise
        return store

    def _reach(self, place: str, wait_s: float, say: Callable[[str], None]) -> None:
        begun = self._waited.monotonic()
        while True:
            try:
                return self._migrate(place)
            except (StoreStarting, StoreUnreachable) as error:
                waited = self._waited.monotonic() - begun
                if self._dialect.starts_by_itself or waited >= wait_s:
                    raise
                say(f"{error.message} Waiting for it, {waited:.0f} s of {wait_s:.0f} s.")
                self._waited.sleep(min(_ASK_AGAIN_S, max(0.0, wait_s - waited)))

    def _migrate(self, place: str) -> None:
        """Two processes may create the same database at once; then one is told BUSY without waiting: try again, for
        not much longer than for any write."""
        until = self._waited.monotonic() + _OPENING_S
        for left in reversed(range(_OPENING_TRIES)):
            try:
                with self._connected() as connection:
                    self._dialect.begin_write(connection, BUSY_S)
                    self._dialect.at_leisure(connection)
                    self._dialect.admit(connection)
                    migrate(connection, self._dialect, place)
                return
            except StoreBusy:
                if not left or not self._dialect.starts_by_itself or self._waited.monotonic() >= until:
                    raise
                self._waited.sleep(0.05)

    def close(self) -> None:
        """Close every connection. Transactions that are open come to nothing."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Read and write. Must not be nested in one thread."""
        if getattr(self._writing, "here", False):
            raise RuntimeError("a transaction inside a transaction: pass the outer one on")
        asked = self._waited.monotonic()
        if not self._writer.acquire(timeout=BUSY_S):
            raise StoreBusy("another thread is writing")
        self._writing.here = True
        try:
            left = BUSY_S - (self._waited.monotonic() - asked)
            with self._connected() as connection:
                self._dialect.begin_write(connection, left)
                yield Transaction(connection, self._dialect, self._clock)
        finally:
            self._writing.here = False
            self._writer.release()

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Read only."""
        with self._connected() as connection:
            self._dialect.begin_read(connection)
            yield Reading(connection, self._dialect, self._clock)

    def check(self) -> str:
        """Read the whole database; ``ok``, or what is wrong with it."""
        with self._connected() as connection:
            self._dialect.begin_read(connection)
            self._dialect.at_leisure(connection)
            return str(connection.exec_driver_sql(self._dialect.check(tuple(metadata.tables))).scalar())

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection in a transaction that is committed at the end. Only then can its outcome be unknown."""
        committing = False
        try:
            with self._engine.connect() as connection, connection.begin():
                yield connection
                committing = True
        except DBAPIError as error:
            meaning = self._dialect.explain(error)
            if meaning is None:
                raise
            if committing and isinstance(meaning, StoreUnreachable):
                meaning = StoreUncertain(meaning.detail)
            raise meaning from error
        except NoConnection as error:
            raise StoreBusy("too many readers at once") from error


def _silent(_line: str) -> None:
    """Nobody is told."""
