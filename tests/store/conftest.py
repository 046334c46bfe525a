"""The implementations that the contract is checked on: every test that asks for ``place`` runs once for each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from stack.core.clock import ManualClock
from stack.store.store import Store
from tests.store.postgres_server import Server


class Place(Protocol):
    """Where one empty store can be opened, and what the store itself does not offer."""

    url: str

    def let_pass(self, seconds: float) -> None:
        """Let this much time pass for leases, as the database sees it."""

    def count(self, table: str) -> int:
        """The number of rows, read without the store."""


class SQLitePlace:
    """A file in a fresh directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "state.db"
        self.url = f"sqlite:///{self.path}"

    def let_pass(self, seconds: float) -> None:
        """The lease's end comes nearer instead of the clock going on: the same to every comparison."""
        self._execute("UPDATE leases SET expires_s = expires_s - ?", seconds)

    def count(self, table: str) -> int:
        return int(self._execute(f"SELECT count(*) FROM {table}")[0][0])

    def _execute(self, statement: str, *values: float) -> list[tuple[int]]:
        connection = sqlite3.connect(self.path, timeout=10)
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


class PostgreSQLPlace:
    """A fresh database on a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = server.new_database()
        self.url = server.url(self.name)

    def let_pass(self, seconds: float) -> None:
        self.server.execute("UPDATE leases SET expires_s = expires_s - %s", self.name, seconds)

    def count(self, table: str) -> int:
        return int(self.server.execute(f"SELECT count(*) FROM {table}", self.name)[0][0])


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server for the whole run."""
    made = Server()
    try:
        yield made.create().start()
    finally:
        made.remove()


PLACES: dict[str, Callable[[pytest.FixtureRequest, Path], Place]] = {
    "sqlite": lambda _request, directory: SQLitePlace(directory),
    "postgresql": lambda request, _directory: PostgreSQLPlace(request.getfixturevalue("server")),
}


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a store."""
    return PLACES[request.param](request, tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    """Time that moves when told to."""
    return ManualClock()


@pytest.fixture
def store(place: Place, clock: ManualClock) -> Iterator[Store]:
    """An open, empty store."""
    opened = Store.open(place.url, clock)
    yield opened
    opened.close()
