"""Numbered steps from an empty database to the schema of today, in SQL that SQLite and PostgreSQL both read.

Rules of evolution: a step that was ever released is never edited; a change is a new step at the end; a step adds
(tables, columns with a default, indexes) and never drops what an older program still needs.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, select, text

from stack.store.dialect import Dialect
from stack.store.errors import NotAStore, StoreTooNew
from stack.store.schema import schema_version

_FIRST = (
    "CREATE TABLE schema_version (version INTEGER NOT NULL)",
    """CREATE TABLE leases (
        name TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL, epoch BIGINT NOT NULL,
        expires_s DOUBLE PRECISION NOT NULL)""",
    "CREATE TABLE releases (digest TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL, created_at TEXT NOT NULL)",
    """CREATE TABLE services (
        name TEXT NOT NULL PRIMARY KEY, stable TEXT REFERENCES releases (digest),
        candidate TEXT REFERENCES releases (digest), lkg TEXT REFERENCES releases (digest),
        weights TEXT NOT NULL, updated_at TEXT NOT NULL)""",
    """CREATE TABLE replicas (
        id TEXT NOT NULL PRIMARY KEY, service TEXT NOT NULL, release TEXT NOT NULL REFERENCES releases (digest),
        host TEXT NOT NULL, port INTEGER NOT NULL, state TEXT NOT NULL, slice TEXT NOT NULL,
        observed_digest TEXT, updated_at TEXT NOT NULL)""",
    "CREATE INDEX replicas_by_service ON replicas (service)",
    """CREATE TABLE rollouts (
        id TEXT NOT NULL PRIMARY KEY, service TEXT NOT NULL, kind TEXT NOT NULL, phase TEXT NOT NULL,
        state TEXT NOT NULL, version BIGINT NOT NULL, lease_epoch BIGINT NOT NULL, created_at TEXT NOT NULL,
        updated_at TEXT NOT NULL, wake_at TEXT, closed INTEGER NOT NULL)""",
    "CREATE UNIQUE INDEX one_open_rollout ON rollouts (service) WHERE closed = 0",
    "CREATE INDEX rollouts_by_time ON rollouts (created_at)",
    """CREATE TABLE evidence (
        rollout TEXT NOT NULL REFERENCES rollouts (id), id BIGINT NOT NULL, phase TEXT NOT NULL, kind TEXT NOT NULL,
        body TEXT NOT NULL, created_at TEXT NOT NULL, PRIMARY KEY (rollout, id))""",
    """CREATE TABLE events (
        rollout TEXT NOT NULL REFERENCES rollouts (id), seq BIGINT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
        data TEXT NOT NULL, created_at TEXT NOT NULL, PRIMARY KEY (rollout, seq))""",
    "CREATE TABLE plans (digest TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL, created_at TEXT NOT NULL)",
    "CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, value BIGINT NOT NULL)",
    "CREATE TABLE routing_tables (version BIGINT NOT NULL PRIMARY KEY, body TEXT NOT NULL, created_at TEXT NOT NULL)",
    """CREATE TABLE audit (
        seq BIGINT NOT NULL PRIMARY KEY, time TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
        target TEXT NOT NULL, change TEXT NOT NULL, result TEXT NOT NULL, body_json TEXT NOT NULL,
        prev_hash TEXT NOT NULL, hash TEXT NOT NULL)""",
)

# Approvals, who may call, alerts, and the Merkle tree over the audit log.
_SECOND = (
    """CREATE TABLE requests (
        id TEXT NOT NULL PRIMARY KEY, change TEXT NOT NULL, action TEXT NOT NULL, gate TEXT NOT NULL,
        environment TEXT NOT NULL, target TEXT NOT NULL, plan TEXT NOT NULL, policy TEXT NOT NULL, risk TEXT NOT NULL,
        requester TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, used_by TEXT NOT NULL,
        created_at TEXT NOT NULL, expires_at TEXT NOT NULL, updated_at TEXT NOT NULL)""",
    "CREATE INDEX requests_by_change ON requests (change)",
    "CREATE INDEX requests_by_state ON requests (state, created_at)",
    """CREATE TABLE approvals (
        request TEXT NOT NULL REFERENCES requests (id), person TEXT NOT NULL, fingerprint TEXT NOT NULL,
        signature TEXT NOT NULL, created_at TEXT NOT NULL, revoked_at TEXT, PRIMARY KEY (request, person))""",
    """CREATE TABLE tokens (
        id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, roles TEXT NOT NULL, hash TEXT NOT NULL,
        created_at TEXT NOT NULL, expires_at TEXT, revoked_at TEXT)""",
    "CREATE UNIQUE INDEX tokens_by_hash ON tokens (hash)",
    """CREATE TABLE alerts (
        id BIGINT NOT NULL PRIMARY KEY, code TEXT NOT NULL, severity TEXT NOT NULL, title TEXT NOT NULL,
        subject TEXT NOT NULL, count BIGINT NOT NULL, body TEXT NOT NULL, created_at TEXT NOT NULL,
        last_at TEXT NOT NULL, closed_at TEXT, closed_by TEXT NOT NULL)""",
    """CREATE TABLE audit_nodes (
        level INTEGER NOT NULL, position BIGINT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (level, position))""",
    """CREATE TABLE checkpoints (
        size BIGINT NOT NULL PRIMARY KEY, root TEXT NOT NULL, note TEXT NOT NULL, created_at TEXT NOT NULL)""",
    """CREATE TABLE deliveries (
        sink TEXT NOT NULL PRIMARY KEY, size BIGINT NOT NULL, error TEXT NOT NULL, updated_at TEXT NOT NULL)""",
    "CREATE INDEX audit_by_change ON audit (change)",
    "ALTER TABLE services ADD COLUMN environment TEXT NOT NULL DEFAULT ''",
)

# What replicas were measured to take, for the prediction of those to come.
_THIRD = (
    """CREATE TABLE loads (
        replica TEXT NOT NULL PRIMARY KEY, release TEXT NOT NULL, host TEXT NOT NULL, runtime TEXT NOT NULL,
        lock_digest TEXT NOT NULL, artifact TEXT NOT NULL, launch TEXT NOT NULL, memory TEXT NOT NULL,
        weights_bytes BIGINT NOT NULL, kv_bytes BIGINT NOT NULL, slots INTEGER NOT NULL,
        predicted_bytes BIGINT NOT NULL, measured_bytes BIGINT NOT NULL, measured_at TEXT NOT NULL)""",
    "CREATE INDEX loads_by_runtime ON loads (runtime, measured_at)",
)

STEPS: tuple[tuple[str, ...], ...] = (_FIRST, _SECOND, _THIRD)
# Tables to which rows are only ever added, by the number of the step that made them.
APPEND_ONLY = {1: ("audit",), 2: ("audit_nodes", "checkpoints")}


def migrate(connection: Connection, dialect: Dialect, path: str, steps: tuple[tuple[str, ...], ...] = STEPS) -> None:
    """Bring the database up to ``len(steps)``, inside the caller's transaction: all of it or nothing."""
    found = stored_version(connection, path)
    if found > len(steps):
        raise StoreTooNew(found=found, known=len(steps))
    for number, statements in enumerate(steps[found:], start=found + 1):
        for statement in statements:
            connection.execute(text(statement))
        for table in APPEND_ONLY.get(number, ()):
            for statement in dialect.append_only(table):
                connection.execute(text(statement))
    if found == 0:
        connection.execute(schema_version.insert().values(version=len(steps)))
    elif found < len(steps):
        connection.execute(schema_version.update().values(version=len(steps)))


def stored_version(connection: Connection, path: str) -> int:
    """The stored schema's number; 0 for an empty database."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return 0
    if schema_version.name not in tables:
        raise NotAStore(path=path)
    versions = list(connection.execute(select(schema_version.c.version)).scalars())
    if len(versions) != 1 or versions[0] < 1:
        raise NotAStore(path=path)
    return int(versions[0])
