"""SQLite's own: modes, damage, full disks, other people's databases, and the schema of the migrations."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from stack.core.clock import ManualClock
from stack.store import dialect, errors, migrations
from stack.store.schema import metadata
from stack.store.store import Store
from tests.store.values import RELEASE, rollout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a database that is there."""
    place = tmp_path / "state.db"
    store = Store.open(place)
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
        tx.put_release(RELEASE)
    store.close()
    return place


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    try:
        with connection:
            for statement in statements:
                connection.execute(statement)
    finally:
        connection.close()


def test_only_the_owner_can_read_it(path: Path) -> None:
    store = Store.open(path)
    with store.transaction() as tx:
        tx.next_table_version()
        modes = {p.name: p.stat().st_mode & 0o777 for p in path.parent.iterdir()}
    store.close()
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


def test_commits_are_durable_and_references_hold(path: Path) -> None:
    store = Store.open(path)
    with store.reading() as tx:
        said = {
            name: tx._connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    store.close()
    assert said == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 4500}


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    execute(path, "UPDATE schema_version SET version = 999")
    before = path.read_bytes()
    with pytest.raises(errors.StoreTooNew, match="999"):
        Store.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement", ["DELETE FROM schema_version", "INSERT INTO schema_version VALUES (1)", "DROP TABLE schema_version"]
)
def test_somebody_elses_database_is_refused(path: Path, statement: str) -> None:
    execute(path, statement)
    with pytest.raises(errors.NotAStore):
        Store.open(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"not a database at all, whatever its name says\n" * 100)
    with pytest.raises(errors.StoreCorrupt):
        Store.open(tmp_path / "text")
    with pytest.raises(errors.StoreUnreachable):
        Store.open(tmp_path / "nowhere" / "state.db")
    with pytest.raises(errors.StoreUnreachable):
        Store.open(tmp_path)
    for url in ("mysql://host/base", "sqlite://", "sqlite:///:memory:", "://"):
        with pytest.raises(errors.UnknownDatabase) as refused:
            Store.open(url)
        assert "secret" not in refused.value.message


def test_a_damaged_page_is_told_not_served(path: Path) -> None:
    data = bytearray(path.read_bytes())
    assert len(data) > 8 * 4096
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(errors.StoreCorrupt) as told:
        store = Store.open(path)
        with store.reading() as tx:
            tx.rollouts(10)
    assert "restore" in told.value.advice


def test_a_release_with_anothers_content_is_damage(path: Path) -> None:
    execute(path, "UPDATE releases SET body = replace(body, 'tiny@1.0', 'tiny@6.6')")
    store = Store.open(path)
    with pytest.raises(errors.StoreCorrupt), store.reading() as tx:
        tx.release(RELEASE.digest)
    store.close()


@pytest.mark.parametrize(
    ("pragma", "refusal"), [("max_page_count=1", errors.StoreFull), ("query_only=ON", errors.StoreReadOnly)]
)
def test_a_full_or_read_only_disk_leaves_nothing_half_written(
    path: Path, pragma: str, refusal: type[Exception]
) -> None:
    store = Store.open(path)
    with pytest.raises(refusal), store.transaction() as tx:
        if pragma.startswith("max"):
            tx.add_event("ro-aaaaaaaaaa", "phase", "small")
        tx._connection.exec_driver_sql(f"PRAGMA {pragma}")
        tx.add_evidence("ro-aaaaaaaaaa", "holding", "bulk", {"filling": "x" * 1_000_000})
    store.close()
    again = Store.open(path)
    with again.transaction() as tx:
        assert tx.events("ro-aaaaaaaaaa") == () == tx.evidence("ro-aaaaaaaaaa")
        tx.add_event("ro-aaaaaaaaaa", "phase", "goes on")
    again.close()


def test_a_lock_that_is_held_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "BUSY_S", 0.01)
    monkeypatch.setattr("stack.store.store.BUSY_S", 0.01)
    store = Store.open(path)
    holder = sqlite3.connect(path)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(errors.StoreBusy), store.transaction():
        pass
    with store.reading() as tx:
        assert len(tx.rollouts(1)) == 1
    with pytest.raises(errors.StoreBusy):
        Store.open(path, ManualClock())
    holder.close()
    with store.transaction() as tx:
        tx.next_table_version()
    store.close()


def test_the_database_itself_keeps_audit_rows(path: Path) -> None:
    execute(path, "INSERT INTO audit VALUES (1,'t','a','a','t','c','r','{}','p','h')")
    for statement in ("UPDATE audit SET actor = 'me'", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            execute(path, statement)


def test_migrations_make_the_schema_that_queries_expect(path: Path) -> None:
    store = Store.open(path)
    inspector = inspect(store._engine)
    found = {
        table: {c["name"]: (str(c["type"]).split()[0], bool(c["nullable"])) for c in inspector.get_columns(table)}
        for table in inspector.get_table_names()
    }
    keys = {table: set(inspector.get_pk_constraint(table)["constrained_columns"]) for table in found}
    names = {
        c: str(c.type.compile(store._engine.dialect)).split()[0] for t in metadata.tables.values() for c in t.columns
    }
    store.close()
    assert set(found) == set(metadata.tables)
    for name, table in metadata.tables.items():
        assert set(found[name]) == {c.name for c in table.columns}
        assert keys[name] == {c.name for c in table.primary_key.columns}
        for column in table.columns:
            kind, nullable = found[name][column.name]
            assert (kind, nullable) == (names[column].replace("DOUBLE", "REAL"), column.nullable), (name, column.name)


def test_a_step_that_fails_leaves_the_old_schema(path: Path) -> None:
    good = "CREATE TABLE added (x INTEGER)"
    store = Store.open(path)
    for extra in (("CREATE TABLE broken (", good), (good, "SELECT * FROM nothing")):
        with pytest.raises(Exception, match=r"syntax|incomplete|no such table"), store._engine.begin() as connection:
            connection.execute(text("BEGIN IMMEDIATE"))
            migrations.migrate(connection, store._dialect, "x", (*migrations.STEPS, extra))
    with store._engine.begin() as connection:
        connection.execute(text("BEGIN IMMEDIATE"))
        migrations.migrate(connection, store._dialect, "x", (*migrations.STEPS, (good,)))
    store.close()
    with pytest.raises(errors.StoreTooNew):
        Store.open(path)
