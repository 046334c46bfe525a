"""PostgreSQL's own: what its errors become, how long anything may take, and that a password shows nowhere."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import inspect, text

from stack.core.clock import SystemClock
from stack.core.errors import StackError
from stack.store import dialect, errors, migrations
from stack.store.schema import metadata
from stack.store.store import Store
from tests.store.conftest import PostgreSQLPlace
from tests.store.postgres_server import Server
from tests.store.values import RELEASE, WHEN, rollout, service

CLOCK = SystemClock()
PASSWORD = "correct-horse-9f2c"


@pytest.fixture
def base(server: Server) -> PostgreSQLPlace:
    """An empty database."""
    return PostgreSQLPlace(server)


@pytest.fixture
def opened(base: PostgreSQLPlace) -> Iterator[Store]:
    """A store with a rollout in it."""
    store = Store.open(base.url)
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
        tx.put_release(RELEASE)
    yield store
    store.close()


def seconds(act: Callable[[], object]) -> float:
    begun = CLOCK.monotonic()
    act()
    return CLOCK.monotonic() - begun


def test_migrations_make_the_schema_that_queries_expect(opened: Store) -> None:
    inspector = inspect(opened._engine)
    found = {
        table: {c["name"]: (str(c["type"]), bool(c["nullable"])) for c in inspector.get_columns(table)}
        for table in inspector.get_table_names()
    }
    assert set(found) == set(metadata.tables)
    for name, table in metadata.tables.items():
        expected = {c.name: (str(c.type.compile(opened._engine.dialect)), c.nullable) for c in table.columns}
        assert found[name] == expected, name
        assert set(inspector.get_pk_constraint(name)["constrained_columns"]) == set(table.primary_key.columns.keys())


def test_a_step_that_fails_leaves_the_old_schema(base: PostgreSQLPlace, opened: Store) -> None:
    good = "CREATE TABLE added (x INTEGER)"
    for extra in (("CREATE TABLE broken (", good), (good, "SELECT * FROM nothing")):
        with pytest.raises(Exception, match=r"syntax|does not exist"), opened._engine.begin() as connection:
            migrations.migrate(connection, opened._dialect, "x", (*migrations.STEPS, extra))
    with opened._engine.begin() as connection:
        migrations.migrate(connection, opened._dialect, "x", (*migrations.STEPS, (good,)))
    with pytest.raises(errors.StoreTooNew):
        Store.open(base.url)


def test_somebody_elses_database_is_refused(base: PostgreSQLPlace) -> None:
    base.server.execute("CREATE TABLE theirs (x INTEGER)", base.name)
    with pytest.raises(errors.NotAStore):
        Store.open(base.url)


def test_a_database_that_is_not_utf8_is_refused(server: Server) -> None:
    server.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(errors.UnfitDatabase, match="LATIN1"):
        Store.open(server.url("latin"))


def test_the_database_itself_keeps_what_is_only_added(base: PostgreSQLPlace, opened: Store) -> None:
    execute = base.server.execute
    execute("INSERT INTO audit VALUES (1,'t','a','a','t','c','r','{}','p','h')", base.name)
    for statement in ("UPDATE audit SET actor = 'me'", "DELETE FROM audit", "TRUNCATE audit_nodes, checkpoints"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            execute(statement, base.name)
    with pytest.raises(errors.BrokenReference, match="append-only"), opened.transaction() as tx:
        tx._connection.execute(text("DELETE FROM audit"))


def test_rows_come_in_the_order_of_bytes_whatever_the_collation(server: Server) -> None:
    server.execute("CREATE DATABASE people TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    store = Store.open(server.url("people"))
    names = ["a-c", "ab", "a1", "a-b"]
    with store.transaction() as tx:
        for name in names:
            tx.put_service(service(name=name))
        assert [row.name for row in tx.services()] == sorted(names)
    store.close()


def test_a_writer_that_waits_is_told_in_time(base: PostgreSQLPlace, opened: Store) -> None:
    other = Store.open(base.url)
    with opened.transaction() as tx:
        tx.add_event("ro-aaaaaaaaaa", "phase", "first")

        def wait() -> None:
            with pytest.raises(errors.StoreBusy, match="lock timeout"), other.transaction():
                pass

        with other.reading() as read:
            assert read.events("ro-aaaaaaaaaa") == ()
        # The waiting takes nearly as long as a writer may stay silent.
        assert seconds(wait) < dialect.BUSY_S + 2
        tx.next_table_version()
    other.close()


def test_a_writer_that_stands_still_is_undone_by_the_server(
    base: PostgreSQLPlace, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stack.store.postgresql.SILENT_WRITER_S", 0.3)
    other = Store.open(base.url)
    with pytest.raises(errors.StoreUnreachable, match="idle-in-transaction"), opened.transaction() as tx:
        tx.add_event("ro-aaaaaaaaaa", "phase", "never")
        with other.transaction() as second:
            second.add_event("ro-aaaaaaaaaa", "phase", "taken over")
        tx.add_event("ro-aaaaaaaaaa", "phase", "never")
    with opened.reading() as read:
        assert [e.text for e in read.events("ro-aaaaaaaaaa")] == ["taken over"]
    other.close()


def test_a_connection_that_is_ended_leaves_nothing_and_the_next_is_another(
    base: PostgreSQLPlace, opened: Store
) -> None:
    with pytest.raises(errors.StoreUnreachable, match="terminating connection"), opened.transaction() as tx:
        tx.add_event("ro-aaaaaaaaaa", "phase", "never")
        end_connections(base)
        tx.add_event("ro-aaaaaaaaaa", "phase", "never")
    end_connections(base)
    with opened.transaction() as tx:
        assert tx.events("ro-aaaaaaaaaa") == ()


def test_a_commit_without_an_answer_is_not_called_undone(base: PostgreSQLPlace, opened: Store) -> None:
    with pytest.raises(errors.StoreUncertain) as told, opened.transaction() as tx:
        tx.add_event("ro-aaaaaaaaaa", "phase", "who knows")
        end_connections(base)
    assert "Look before" in told.value.advice


def end_connections(base: PostgreSQLPlace) -> None:
    """All but the one that asks; until they are gone."""
    mine = f"datname = '{base.name}' AND pid <> pg_backend_pid()"
    base.server.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {mine}")


def test_a_statement_that_takes_too_long_is_ended(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.store.postgresql.STATEMENT_S", 0.2)
    with pytest.raises(errors.StoreBusy, match="statement timeout"), opened.reading() as tx:
        tx._connection.exec_driver_sql("SELECT pg_sleep(20)")
    assert opened.check() == "ok"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("53100", errors.StoreFull),
        ("53300", errors.StoreBusy),
        ("25006", errors.StoreReadOnly),
        ("57P03", errors.StoreStarting),
        ("57P01", errors.StoreUnreachable),
        ("40001", errors.StoreBusy),
        ("40P01", errors.StoreBusy),
        ("42501", errors.StoreDenied),
        ("XX001", errors.StoreCorrupt),
        ("58030", errors.StoreUnreachable),
        ("08006", errors.StoreUnreachable),
    ],
)
def test_what_the_server_says_in_codes(opened: Store, code: str, kind: type[StackError]) -> None:
    body = f"DO 'BEGIN RAISE EXCEPTION ''said'' USING ERRCODE = ''{code}''; END'"
    with pytest.raises(kind) as told, opened.transaction() as tx:
        tx.add_event("ro-aaaaaaaaaa", "phase", "never")
        tx._connection.exec_driver_sql(body)
    assert told.value.advice and "fuser" not in told.value.advice and "STACK_HOME" not in told.value.advice
    with opened.reading() as tx:
        assert tx.events("ro-aaaaaaaaaa") == ()


def test_a_read_only_database_is_told(base: PostgreSQLPlace, opened: Store) -> None:
    base.server.execute(f"ALTER DATABASE {base.name} SET default_transaction_read_only = on")
    again = Store.open(base.url)
    with again.reading() as tx:
        assert tx.rollout("ro-aaaaaaaaaa").version == 1
    with pytest.raises(errors.StoreReadOnly, match="read-only"), again.transaction() as tx:
        tx.next_table_version()
    again.close()


def test_commits_are_durable_where_the_server_is_careless(base: PostgreSQLPlace, opened: Store) -> None:
    opened.close()
    said = {}
    for careless in ("off", "local", "remote_apply"):
        base.server.execute(f"ALTER DATABASE {base.name} SET synchronous_commit = {careless}")
        store = Store.open(base.url)
        with store.transaction() as tx:
            said[careless] = tx._connection.exec_driver_sql("SHOW synchronous_commit").scalar()
        store.close()
    assert said == {"off": "on", "local": "local", "remote_apply": "remote_apply"}


@pytest.fixture
def user(base: PostgreSQLPlace) -> str:
    """A user with a password, who owns the database."""
    name = f"u{base.name}"
    base.server.execute(f"CREATE USER {name} PASSWORD '{PASSWORD}'")
    base.server.execute(f"ALTER DATABASE {base.name} OWNER TO {name}")
    return name


def test_the_password_comes_from_a_secret_or_a_passfile_and_shows_nowhere(
    base: PostgreSQLPlace, user: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tcp = f"postgresql://{user}@127.0.0.1:{base.server.port}/{base.name}"
    passfile = tmp_path / "pass"
    passfile.write_text(f"127.0.0.1:{base.server.port}:*:{user}:{PASSWORD}\n")
    passfile.chmod(0o600)
    asked: list[str] = []

    def secret() -> str:
        asked.append("asked")
        return PASSWORD

    Store.open(tcp, password=secret).close()
    Store.open(f"{tcp}?passfile={passfile}").close()
    assert asked
    with pytest.raises(errors.StoreDenied) as none:
        Store.open(f"{tcp}?passfile=/dev/null")
    with pytest.raises(errors.StoreDenied) as wrong:
        Store.open(tcp, password=lambda: PASSWORD + "x", wait_s=30)
    with pytest.raises(errors.DatabaseUrl) as inside:
        Store.open(tcp.replace("@", f":{PASSWORD}@"))
    with pytest.raises(errors.DatabaseUrl) as query:
        Store.open(f"{tcp}?password={PASSWORD}")
    for told in (none, wrong, inside, query):
        shown = f"{told.value.to_json()} {told.getrepr(chain=True, style='short')} {told.value.__cause__!r}"
        assert PASSWORD not in shown.replace(f'f":{PASSWORD}', "")
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host",
        "postgresql://host/d?options=-cfsync%3Doff",
        "postgresql://host/d?sslmode=require&sslmode=disable",
        "postgresql://u:secret@h:port/d",
        "postgresql+psycopg2://u:secret@h/d",
        "postgresql+asyncpg://u:secret@h/d",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises((errors.DatabaseUrl, errors.UnknownDatabase)) as told:
        Store.open(url)
    assert "secret" not in str(told.value.to_json())


def test_options_of_tls_reach_the_driver(base: PostgreSQLPlace, user: str) -> None:
    """This server has no TLS: who insists on it is not served, whatever the password."""
    tcp = f"postgresql://{user}@127.0.0.1:{base.server.port}/{base.name}?sslmode=require"
    with pytest.raises((errors.StoreDenied, errors.StoreUnreachable), match="SSL"):
        Store.open(tcp, password=lambda: PASSWORD)


def test_what_is_not_there_is_told_at_once(base: PostgreSQLPlace) -> None:
    nowhere = base.url.replace(str(base.server.port), "1")

    def ask() -> None:
        with pytest.raises(errors.StoreUnreachable):
            Store.open(nowhere)
        with pytest.raises(errors.StoreDenied, match="does not exist"):
            Store.open(base.server.url("nothing"), wait_s=30)

    assert seconds(ask) < 5


def test_a_server_that_is_away_is_waited_for_and_that_is_said(base: PostgreSQLPlace) -> None:
    said: list[str] = []
    with pytest.raises(errors.StoreUnreachable):
        Store.open(base.url.replace(str(base.server.port), "1"), wait_s=1.2, say=said.append)
    assert len(said) >= 2 and all("Waiting for it" in line for line in said)


def test_sqlite_users_load_no_driver() -> None:
    code = (
        "import sys, stack.app.wiring; from stack.store.store import Store; Store.open(sys.argv[1]).close();"
        "print([m for m in sys.modules if m.startswith('psycopg')])"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run([sys.executable, "-c", code, f"{place}/x.db"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_text_that_postgresql_does_not_take_is_stored_all_the_same(opened: Store) -> None:
    with opened.transaction() as tx:
        tx.insert_rollout(rollout("ro-bbbbbbbbbb", "another", state={"x": "\x00\u2028"}, wake_at=WHEN))
        tx.add_event("ro-bbbbbbbbbb", "k\x00", "100 % of \x00 %s %(x)s :name", {"\x00": "%"})
        assert tx.rollout("ro-bbbbbbbbbb").state == {"x": "\x00\u2028"}
        assert tx.events("ro-bbbbbbbbbb")[0].text == "100 % of \ufffd %s %(x)s :name"


def test_many_threads_share_few_connections(opened: Store, base: PostgreSQLPlace) -> None:
    def work() -> None:
        for _ in range(10):
            with opened.transaction() as tx:
                tx.next_table_version()
            with opened.reading() as tx:
                tx.rollouts(1)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened.transaction() as tx:
        assert tx.next_table_version() == 121
    held = base.server.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", "postgres", base.name)
    assert held[0][0] <= 18
