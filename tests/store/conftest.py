"""The implementations that the contract is checked on. A second database is a second ``Place`` in ``PLACES``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from stack.core.clock import ManualClock
from stack.store.store import Store


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


PLACES = {"sqlite": SQLitePlace}


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a store."""
    return PLACES[request.param](tmp_path)


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
