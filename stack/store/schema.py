"""The tables as the queries see them. How they come to be is in ``migrations``; a test keeps the two equal.

Moments are stamps (text that sorts), JSON and digests are text, truth is 0 or 1: the same on every database.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Integer, MetaData, Table, Text, text

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_s", Double, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

services = Table(
    "services",
    metadata,
    Column("name", Text, primary_key=True),
    Column("stable", Text, ForeignKey("releases.digest")),
    Column("candidate", Text, ForeignKey("releases.digest")),
    Column("lkg", Text, ForeignKey("releases.digest")),
    Column("weights", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
    Column("environment", Text, nullable=False, server_default=text("''")),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("service", Text, nullable=False),
    Column("release", Text, ForeignKey("releases.digest"), nullable=False),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("slice", Text, nullable=False),
    Column("observed_digest", Text),
    Column("updated_at", Text, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("service", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("lease_epoch", BigInteger, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
    Column("wake_at", Text),
    Column("closed", Integer, nullable=False),
)

evidence = Table(
    "evidence",
    metadata,
    Column("rollout", Text, ForeignKey("rollouts.id"), primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("phase", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("rollout", Text, ForeignKey("rollouts.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

routing_tables = Table(
    "routing_tables",
    metadata,
    Column("version", BigInteger, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True),
    Column("time", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("change", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("body_json", Text, nullable=False),
    Column("prev_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("change", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("gate", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("risk", Text, nullable=False),
    Column("requester", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("used_by", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    Column("request", Text, ForeignKey("requests.id"), primary_key=True),
    Column("person", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("revoked_at", Text),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("expires_at", Text),
    Column("revoked_at", Text),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("code", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("last_at", Text, nullable=False),
    Column("closed_at", Text),
    Column("closed_by", Text, nullable=False),
)

audit_nodes = Table(
    "audit_nodes",
    metadata,
    Column("level", Integer, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("hash", Text, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True),
    Column("root", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("sink", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
)

loads = Table(
    "loads",
    metadata,
    Column("replica", Text, primary_key=True),
    Column("release", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("lock_digest", Text, nullable=False),
    Column("artifact", Text, nullable=False),
    Column("launch", Text, nullable=False),
    Column("memory", Text, nullable=False),
    Column("weights_bytes", BigInteger, nullable=False),
    Column("kv_bytes", BigInteger, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("predicted_bytes", BigInteger, nullable=False),
    Column("measured_bytes", BigInteger, nullable=False),
    Column("measured_at", Text, nullable=False),
)
